"""What an import loads, and that imports run down from floor to floor."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.util import find_spec, resolve_name
from pathlib import Path

import lerobot_cdp

PACKAGE = Path(lerobot_cdp.__file__).parent
# From the bottom. A module imports from its own floor and from those below; a module beside the packages is a command.
FLOORS = ("errors", "envs", "checkpoints", "contraction", "diffusion", "acting", "hub", "policy", "report", "arm")
COMMANDS = {"speed_up"}  # that are packages
OURS = {"lerobot_cdp", "lerobot_policy_cdp"}
# A process that loads plugins knows the network camera: LeRobot's `robot_client` imports two others by itself.
KNOWS_THE_CAMERA = """
from importlib.util import find_spec
from lerobot.cameras import CameraConfig
assert find_spec('zmq') is None or 'zmq' in CameraConfig.get_known_choices()
"""


def added(before: str, then: str) -> set[str]:
    """What `then` loads in a fresh interpreter after `before`, but for the standard library."""
    code = f"import os, sys\n{before}\nbefore = set(sys.modules)\n{then}\nprint('LOADED', *set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stdout.partition("LOADED")[2].split()
    return {name for name in modules if root(name) not in sys.stdlib_module_names}


def root(module: str) -> str:
    return module.partition(".")[0]


def test_contraction_needs_torch_alone():
    modules = added("import torch", "import lerobot_cdp.contraction")
    assert {root(name) for name in modules} - {"torch"} == {"lerobot_cdp"}
    assert all(name.startswith("lerobot_cdp.contraction") for name in modules if name.startswith("lerobot_cdp."))


def test_the_plugin_adds_little_to_what_lerobot_loads():
    """LeRobot imports every plugin before any command: no simulation, no plots, and the variables are the user's."""
    modules = added(
        "import lerobot.policies, lerobot.envs.configs\nos.environ.pop('MUJOCO_GL', None)",
        f"import lerobot_policy_cdp\nassert 'MUJOCO_GL' not in os.environ\n{KNOWS_THE_CAMERA}",
    )
    assert {"lerobot_policy_cdp", "lerobot_cdp.policy.configuration_cdp", "lerobot_cdp.envs"} <= modules
    camera = {name for name in modules if name.startswith(("lerobot.cameras", "zmq", "_cython"))}  # the network camera
    main = {"lerobot"} if find_spec("lerobot.distributed") else set()  # what the adapter takes hold of
    assert {root(name) for name in modules - camera} - main <= OURS


# ---------------------------------------------------------------- the source


def modules_of(package: Path) -> dict[str, Path]:
    files = {file: file.relative_to(package.parent).with_suffix("").parts for file in package.rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): file for file, parts in files.items()}


MODULES = modules_of(PACKAGE)


def imports_of(name: str) -> set[str]:
    """The modules of `lerobot_cdp` that a module of it imports, also in functions and for type checkers."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            # `from . import measures` is of a module; `from .measures import rms` of something in one.
            found |= {deep if (deep := f"{source}.{alias.name}") in MODULES else source for alias in node.names}
    return found & MODULES.keys()


def floor_of(name: str) -> int:
    part = [*name.split("."), ""][1]
    return FLOORS.index(part) if part in FLOORS else len(FLOORS)


def test_every_package_has_its_floor():
    packages = {name.split(".")[1] for name, file in MODULES.items() if file.parent != PACKAGE}
    assert packages == set(FLOORS) - {"errors"} | COMMANDS
    assert imports_of("lerobot_cdp") == set()


def test_imports_run_down():
    up = [(name, to) for name in MODULES for to in imports_of(name) if floor_of(to) > floor_of(name)]
    # The package itself, which imports nothing, has no floor.
    assert [(name, to) for name, to in up if to != "lerobot_cdp"] == []


def test_no_circle():
    graph = {name: imports_of(name) for name in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # which raises where there is one
    assert sum(map(len, graph.values())) > len(MODULES)
