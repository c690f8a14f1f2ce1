#!/bin/sh
# Prints the path of a Python that LeRobot runs on; without one, says what to do and fails.
#
#     PYTHON (if set: this one or none), the PATH, pyenv's versions, uv
#
# A name on the PATH proves nothing: pyenv puts a `python3.12` there that fails unless that version is switched on.
# So every candidate is run and asked for its version.
set -u

# LeRobot 0.6.1: from 3.12; its numpy < 2.3 has no wheels for 3.14 (2026-11-22).
supported='import sys; sys.exit(not (3, 12) <= sys.version_info[:2] < (3, 14))'

has_uv() { uv --version >/dev/null 2>&1; }

# Prints the interpreter behind "$1", which may be a shim or belong to a virtual environment, if it will do.
try() {
    "$1" -c "$supported" >/dev/null 2>&1 || return 1
    if ! has_uv && ! "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo "$1 cannot make virtual environments: install its venv package (Debian: python3-venv), or uv." >&2
        return 1
    fi
    "$1" -c 'import sys; print(sys._base_executable)'
}

if [ -n "${PYTHON:-}" ]; then
    try "$PYTHON" && exit
    echo "PYTHON=$PYTHON will not do: name a Python 3.12 or 3.13, or leave it out to search for one." >&2
    exit 1
fi

# 3.12 first: constraints.txt was resolved on it.
for name in python3.12 python3.13 python3 python; do
    try "$name" && exit
done

pyenv_root=$(pyenv root 2>/dev/null) || pyenv_root=${PYENV_ROOT:-$HOME/.pyenv}
for path in "$pyenv_root"/versions/3.12.*/bin/python "$pyenv_root"/versions/3.13.*/bin/python; do
    try "$path" && exit
done

# uv knows of more places, and can install a Python where the network lets it.
if has_uv; then
    request='>=3.12,<3.14'
    path=$(uv python find --system --no-project "$request" 2>/dev/null) && try "$path" && exit
    uv python install 3.12 >&2 && path=$(uv python find --system --no-project "$request") && try "$path" && exit
fi

echo "No Python 3.12 or 3.13 found: install one, or uv, or name one by PYTHON=/path/to/python3.12." >&2
exit 1
