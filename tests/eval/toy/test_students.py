"""Students of the toy: taught by what they begin as, and what is measured of maps that are known."""

import json

import pytest
import torch

from eval.toy import students
from eval.toy.model import Denoiser, Modes
from eval.toy.students import StudentsConfig, acting, main, make_student, measure
from lerobot_cdp.errors import SettingError


def test_a_student_begins_with_its_teachers_network():
    torch.manual_seed(0)
    network = Denoiser().requires_grad_(False)
    student = make_student(network, 0.0)
    x_t, timesteps = torch.randn(5, 1, 2), torch.full((5,), 30)
    models = (student.diffusion, student.acting_model, student.lessons.teacher.model)
    assert all(torch.equal(model.backbone(x_t, timesteps), network(x_t, timesteps)) for model in models)
    assert {p.requires_grad for p in student.diffusion.backbone.parameters()} == {True}
    before = acting(student, 1)(x_t)
    for p in student.acting_model.backbone.parameters():
        p.data.zero_()
    assert not torch.equal(acting(student, 1)(x_t), before)  # it acts by the average


def test_measures_of_maps_that_are_known():
    modes = Modes.on_circle(4, radius=3.0, spread=0.1)
    one = measure(lambda noise: modes.centres[:1] + 0.05 * noise[:, 0], modes, 400)
    assert one["modes_kept"] == 0.25 and one["on_modes"] > 0.9 and one["factor"] == pytest.approx(0.05, rel=0.01)
    middle = measure(lambda noise: 0.0 * noise[:, 0], modes, 400)
    assert middle["modes_kept"] == middle["on_modes"] == 0 and middle["energy_distance"] > 1


def test_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(students, "WEIGHTS", (0.0, 3.0))
    main(StudentsConfig(tmp_path, n_seeds=2, teacher_steps=2, steps=6, n_demonstrations=1, n_samples=100))
    rows = json.loads((tmp_path / "students.json").read_text())["rows"]
    assert {row["policy"] for row in rows} == {"teacher", "γ = 0", "γ = 3"} and len(rows) == 2 * (1 + 2 * 2)
    weighted, free = ([row["energy_distance"] for row in rows if row["policy"] == name] for name in ("γ = 3", "γ = 0"))
    assert weighted != free
    assert capsys.readouterr().out.count("| γ = 3 |") == 2


def test_bad_settings_are_refused():
    with pytest.raises(SettingError, match="^`n_seeds` must be at least 2. Got 1."):
        StudentsConfig(n_seeds=1)
