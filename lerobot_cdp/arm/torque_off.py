"""`cdp-torque-off`: release every joint of an arm, even where LeRobot gave up.

    cdp-torque-off --robot.type=so101_follower --robot.port=PORT --robot.id=ID

LeRobot's `disconnect` stops at the first servo that does not answer, and the servos behind it keep their torque. This
command asks each of them and names those that do not answer. The arm sinks: hold it.
"""

import sys
from dataclasses import dataclass

import draccus
from draccus.utils import DecodingError
from lerobot.robots import RobotConfig, make_robot_from_config
from lerobot.utils.import_utils import register_third_party_plugins

__all__ = ["TorqueOffConfig", "main", "torque_off"]

RETRIES = 5  # as many as LeRobot's `disconnect` takes
SIDES = ("left", "right")


@dataclass
class TorqueOffConfig:
    """Which arm.

    Args:
        robot: LeRobot's `--robot.…` settings; its cameras are not opened.
    """

    robot: RobotConfig


def torque_off(bus) -> list[str]:
    """Switch the torque off in every servo of a LeRobot `MotorsBus`; return the names of those that do not answer.

    Raises:
        ConnectionError: if the port cannot be opened.
    """
    bus.connect(handshake=False)  # it would stop at the first that does not answer
    try:
        return [motor for motor in bus.motors if not _answers(bus, motor)]
    finally:
        bus.disconnect(disable_torque=False)


def _answers(bus, motor: str) -> bool:
    try:
        bus.disable_torque(motor, num_retry=RETRIES)
    except ConnectionError:
        return False
    return True


def buses(config: RobotConfig) -> dict[str, object]:
    """The bus of each arm of a robot, behind what its servos' names begin with."""
    robot = make_robot_from_config(config)
    arms = {"": robot} if hasattr(robot, "bus") else {f"{side}_": getattr(robot, f"{side}_arm", None) for side in SIDES}
    if not all(hasattr(arm, "bus") for arm in arms.values()):
        sys.exit(f"cdp-torque-off: `robot.type` must be an arm on a bus of servos, or two. Got {config.type!r}.")
    return {prefix: arm.bus for prefix, arm in arms.items()}


def main() -> None:
    """Let go of the arm that the command line names."""
    try:
        import lerobot.scripts.lerobot_calibrate  # noqa: F401  # registers LeRobot's robots and cameras
    except ImportError as error:
        sys.exit(f"cdp-torque-off needs the extra `arm`: pip install 'lerobot_policy_cdp[arm]'. Got {error}")
    register_third_party_plugins()
    try:
        robot = draccus.parse(TorqueOffConfig).robot
    except DecodingError as error:
        sys.exit(f"cdp-torque-off: {error}")
    silent, errors = [], []
    for prefix, bus in buses(robot).items():
        try:
            silent += [f"{prefix}{motor}" for motor in torque_off(bus)]
        except ConnectionError as error:
            errors.append(" ".join(str(error).split()))
    if silent:
        errors.append(f"no answer from {', '.join(silent)}: pull the plug of the arm if it still holds.")
    if errors:
        sys.exit("cdp-torque-off: " + " ".join(errors))
    print("The torque is off.")


if __name__ == "__main__":
    main()
