"""`lerobot-train` behind a bar: which checkpoint is its end, which are removed, and what is said when it fails."""

import pytest

from lerobot_cdp.errors import SettingError
from lerobot_cdp.speed_up import training


def test_the_end_is_the_newest_checkpoint_that_is_whole_wherever_the_link_points(tmp_path, monkeypatch):
    """Killed between the last checkpoint and its link."""
    checkpoints = tmp_path / training.TRAINING / "checkpoints"
    for name in ("000003", "000004", "000005"):
        (checkpoints / name).mkdir(parents=True)
    (checkpoints / "last").symlink_to("000003")
    monkeypatch.setattr(training, "missing_in", lambda folder: ["weights"] if folder.name == "000005" else [])
    monkeypatch.setattr(training, "_run_behind_a_bar", lambda *_: None)
    assert training.train(tmp_path, [], 4, "x") == checkpoints / "000004" / "pretrained_model"
    commands = []
    monkeypatch.setattr(training, "_run_behind_a_bar", lambda words, *_: commands.append(words))
    monkeypatch.setattr(training, "resume_command", lambda _: "lerobot-train --resume=true")
    with pytest.raises(SettingError, match="^`lerobot-train` must save after 6 steps. Got 4: see .*training.log.$"):
        training.train(tmp_path, ["--seed=1", "--num_workers=2"], 6, "x")
    assert commands == [["--resume=true", "--num_workers=2"]]  # which may have been too many


def test_checkpoints_from_before_the_last_are_removed_while_it_trains(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    for name in ("000001", "000002", "000003"):
        (checkpoints / name).mkdir(parents=True)
    training._remove_older(tmp_path)
    assert len([*checkpoints.iterdir()]) == 3  # between two links
    (checkpoints / "last").symlink_to("000002")
    training._remove_older(tmp_path)
    assert {path.name for path in checkpoints.iterdir()} == {"000002", "000003", "last"}  # it is writing the third


def printing(*lines: str, status: int = 0) -> tuple[str, str]:
    return "-c", f"import sys; sys.stderr.write({''.join(lines)!r}); sys.exit({status})"


def test_the_bar_counts_and_the_rest_goes_to_the_log(tmp_path, monkeypatch, capsys):
    bar = "Training:  {}%|#| {}/4 [00:00<00:00, 1step/s]\r"
    lines = ("INFO begins\n", bar.format(25, 1), bar.format(100, 4), "\nINFO ends\n")
    monkeypatch.setattr(training, "PROGRAM", printing(*lines))
    training._run_behind_a_bar(["--steps=4"], tmp_path, "distil")
    assert (tmp_path / training.LOG).read_text() == "$ lerobot-train --steps=4\nINFO begins\nINFO ends\n"
    assert "distil: 100%" in capsys.readouterr().err


def test_in_a_job_of_slurm_the_bar_counts_as_well(tmp_path, monkeypatch, capsys):
    """LeRobot has none there."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    bar = "from lerobot.utils.utils import inside_slurm\nif not inside_slurm(): print('Training: 1/2 [')"
    monkeypatch.setattr(training, "PROGRAM", ("-c", bar))
    training._run_behind_a_bar([], tmp_path, "distil")
    assert "1/2" in capsys.readouterr().err


def test_a_training_that_is_killed_says_by_what(tmp_path, monkeypatch):
    kill = "import os, signal; print('INFO step:300', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(training, "PROGRAM", ("-c", kill))
    with pytest.raises(SettingError, match="Got SIGKILL, often for lack of memory: .*`batch_size`"):
        training._run_behind_a_bar([], tmp_path, "distil")


def test_a_training_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "PROGRAM", printing("Traceback\n", "ValueError: no disk\n", status=3))
    with pytest.raises(SettingError, match="^`lerobot-train` must succeed. Got 'ValueError: no disk': .*log.$"):
        training._run_behind_a_bar([], tmp_path, "distil")
