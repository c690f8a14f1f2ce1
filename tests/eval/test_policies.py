"""What a checkpoint is called, so that one policy's results are never taken for another's."""

from dataclasses import replace
from pathlib import Path

import pytest

from eval.alarm.__main__ import _part_name
from eval.alarm.settings import AlarmConfig
from eval.policies import STUDENT, policy_digest, policy_name, require_checkpoints
from lerobot_cdp.errors import SettingError


@pytest.fixture
def checkpoints(tmp_path):
    """Two steps of one training, and the same step of another one with the same name."""
    folders = [
        tmp_path / where / "checkpoints" / step / "pretrained_model"
        for where, step in (("a/plain", "004000"), ("a/plain", "010000"), ("b/plain", "010000"))
    ]
    for i, folder in enumerate(folders):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(bytes([i]))
    return folders


def test_steps_of_a_training_have_different_names(checkpoints):
    early, late, other = checkpoints
    assert [policy_name(folder) for folder in checkpoints] == ["plain-004000", "plain-010000", "plain-010000"]
    assert policy_name(early.parent) == "004000"
    require_checkpoints([early, late])
    with pytest.raises(SettingError, match="^`checkpoints` must be policies with names of their own. Got 'plain-0"):
        require_checkpoints([early, late, other])


def test_students_of_one_teacher_have_different_names(tmp_path, monkeypatch):
    students = [tmp_path / "teacher" / kind / STUDENT for kind in ("repair-0", "repair-0.03")]
    assert [policy_name(folder) for folder in students] == ["teacher-repair-0", "teacher-repair-0.03"]
    students[0].mkdir(parents=True)
    monkeypatch.chdir(students[0].parent)
    assert policy_name(Path(STUDENT)) == "teacher-repair-0"


def test_the_digest_changes_with_settings_and_weights(checkpoints):
    digests = {policy_digest(folder) for folder in checkpoints}
    (checkpoints[0] / "config.json").write_text('{"horizon": 8}')
    assert len(digests | {policy_digest(checkpoints[0])}) == 4


def test_the_alarm_reuses_nothing_that_was_measured_otherwise(checkpoints):
    cfg = AlarmConfig(checkpoints[:1])
    others = [replace(cfg, demonstrations=52), replace(cfg, num_inference_steps=3), replace(cfg, starts=7)]
    names = {_part_name(cfg, checkpoint, "usual") for checkpoint in checkpoints}
    names |= {_part_name(cfg, checkpoints[0], "unseen")} | {_part_name(o, checkpoints[0], "usual") for o in others}
    assert len(names) == 7 and all("/" not in name for name in names)
