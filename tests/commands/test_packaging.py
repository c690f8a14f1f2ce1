"""What is built installs and is a plugin that LeRobot finds."""

import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
# Run where the wheel comes first on the path, and LeRobot from the environment of the tests.
IN_THE_WHEEL = """
import sys
from importlib.resources import files
from pathlib import Path

from lerobot.configs import PreTrainedConfig
from lerobot.utils.import_utils import register_third_party_plugins

register_third_party_plugins()
config_class = PreTrainedConfig.get_choice_class("cdp")
from lerobot_cdp import presets
from lerobot_cdp.policy import configuration_cdp

assert config_class is configuration_cdp.CDPConfig
assert Path(configuration_cdp.__file__).is_relative_to(sys.argv[1]), configuration_cdp.__file__
print(*(path.name for path in presets.paths()), files("lerobot_cdp.hub").joinpath("card_template.md").is_file())
"""


@pytest.fixture(scope="module")
def installed():
    try:
        return distribution("lerobot_policy_cdp")
    except PackageNotFoundError:
        pytest.fail("lerobot_policy_cdp is not installed: run the tests by `make test`.")


def test_name_keeps_the_underscores_of_lerobots_prefix(installed):
    assert installed.metadata["Name"] == "lerobot_policy_cdp"


# ------------------------------------------------------------------ what is built


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution and the wheel made of it; no isolation, so that nothing is downloaded."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, REPOSITORY]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def source_files() -> set[str]:
    """What must be in the wheel: every module and the card's template, and the presets."""
    packages = ("lerobot_cdp", "lerobot_policy_cdp")
    code = [
        path for name in packages for end in ("py", "md", "jinja") for path in (REPOSITORY / name).rglob(f"*.{end}")
    ]
    presets = [f"lerobot_cdp/configs/{path.name}" for path in (REPOSITORY / "configs" / "policy").glob("*.yaml")]
    return {str(path.relative_to(REPOSITORY)) for path in code} | set(presets)


def test_the_wheel_has_all_and_nothing_else(built):
    wheel = zipfile.ZipFile(built[1])
    metadata = next(path for path in wheel.namelist() if path.endswith(".dist-info/METADATA"))
    assert message_from_bytes(wheel.read(metadata))["Name"] == "lerobot_policy_cdp"
    own = {path for path in wheel.namelist() if not path.startswith(metadata.split("/")[0])}
    assert own == source_files()


def test_the_source_distribution_can_be_built_from(built):
    with tarfile.open(built[0]) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "configs/policy/pusht.yaml"} <= names


def test_lerobot_discovers_the_policy_of_the_wheel(built, tmp_path):
    # A process of its own, in another folder: here the package is imported already, or merely lies nearby.
    with zipfile.ZipFile(built[1]) as wheel:  # a wheel of pure Python is installed by unpacking it
        wheel.extractall(tmp_path / "site")
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    command = [sys.executable, "-c", IN_THE_WHEEL, str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    # LeRobot logs a plugin's failure and goes on, so the log says why a policy type is missing.
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-9:] == [
        "aloha.yaml", "pusht.yaml", "pusht_keypoints.yaml", "pusht_keypoints_dit.yaml", "pusht_keypoints_mlp.yaml",
        "so100.yaml", "so101_pick_place.yaml", "so101_twin.yaml",
        "True",
    ]  # fmt: skip
