"""The installed distribution is a plugin that LeRobot finds."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution

import pytest

DISCOVERY = """
from lerobot.configs import PreTrainedConfig
from lerobot.utils.import_utils import register_third_party_plugins

register_third_party_plugins()
print(PreTrainedConfig.get_choice_class("cdp").__module__)
"""


@pytest.fixture(scope="module")
def installed():
    try:
        return distribution("lerobot_policy_cdp")
    except PackageNotFoundError:
        pytest.fail("lerobot_policy_cdp is not installed: run the tests by `make test`.")


def test_name_keeps_the_underscores_of_lerobots_prefix(installed):
    assert installed.metadata["Name"] == "lerobot_policy_cdp"


def test_lerobot_discovers_the_policy(installed, tmp_path):
    # A process of its own, in another folder: here the package is imported already, or merely lies nearby.
    process = subprocess.run([sys.executable, "-c", DISCOVERY], cwd=tmp_path, capture_output=True, text=True)
    # LeRobot logs a plugin's failure and goes on, so the log says why a policy type is missing.
    assert process.stdout.strip() == "lerobot_cdp.configuration_cdp", process.stderr
