"""The processors of a checkpoint: which steps they may have.

`policy_preprocessor.json` names the class of each step, and LeRobot imports and runs whatever it names. Here a step is
one of `lerobot.processor`, of this package, or registered by an installed plugin. Two of LeRobot's are refused as well:
they load a model by its name, with the Python code that comes with it.
"""

import importlib
import json
from pathlib import Path

from lerobot.processor import ProcessorStep, ProcessorStepRegistry
from lerobot.utils.import_utils import register_third_party_plugins

from ..errors import SettingError
from .files import read_json

__all__ = ["PROCESSORS", "check_processors", "renames_of"]

PROCESSORS = ("policy_preprocessor", "policy_postprocessor")
NONE = "none"  # a name that is beside every file
OURS = ("lerobot.processor", "lerobot_cdp", "lerobot_policy_cdp")
# They pass `trust_remote_code=True` on.
RUN_OTHERS_CODE = ("action_tokenizer_processor", "reward_classifier_processor")


def renames_of(folder: Path) -> dict[str, str]:
    """How the preprocessor of a checkpoint renames observations: it was trained with LeRobot's `rename_map`."""
    steps = read_json(folder / f"{PROCESSORS[0]}.json").get("steps") or []
    renaming = [step for step in steps if step.get("registry_name") == "rename_observations_processor"]
    return dict(renaming[0].get("config", {}).get("rename_map") or {}) if renaming else {}


def check_processors(folder: Path) -> None:
    """Refuse processors with a step that is not known. Files that are not there are nobody's to run.

    Raises:
        SettingError: naming the step.
    """
    for file in (folder / f"{name}.json" for name in PROCESSORS):
        if not file.is_file():
            continue
        try:
            steps = json.loads(file.read_text())["steps"]
            entries = [(dict(step), step.get("state_file", NONE)) for step in steps]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SettingError(f"`{file.name}` must be a list of LeRobot's processor steps. Got {error!r}.") from error
        for step, state_file in entries:
            name = step.get("registry_name", step.get("class"))
            if not _is_known(step):
                raise SettingError(
                    f"`{file.name}` must have steps of LeRobot, of this package or of an installed plugin only: others "
                    f"may run any code. Got {name!r} in {folder}."
                )
            if not isinstance(state_file, str) or not state_file or Path(state_file).name != state_file:
                raise SettingError(f"`{file.name}` must keep its state beside it. Got {state_file!r} of {name!r}.")


def _is_known(step: dict) -> bool:
    """Whether the class that LeRobot will take is a step by people whose code runs here anyway."""
    found = _registered(step["registry_name"]) if "registry_name" in step else _of_lerobot(step.get("class"))
    if found is None or getattr(found, "_registry_name", None) in RUN_OTHERS_CODE:
        return False
    # What a plugin registers is not LeRobot's; what LeRobot registers for other policies may load a model by name.
    return _is_in(found.__module__, OURS) or not _is_in(found.__module__, ("lerobot",))


def _registered(name: object) -> type | None:
    if name not in ProcessorStepRegistry.list():
        register_third_party_plugins()  # as LeRobot's commands do before they load anything
    return ProcessorStepRegistry.get(name) if name in ProcessorStepRegistry.list() else None


def _of_lerobot(path: object) -> type | None:
    """The step that is named by its module; nothing but LeRobot's and ours is imported for it."""
    module, _, name = str(path).rpartition(".")
    if not _is_in(module, OURS):
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and issubclass(found, ProcessorStep) else None


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
