"""The animation: what a film holds, and what the picture shows of it."""

import io

import numpy as np
import torch
from PIL import Image

from eval.animation.__main__ import shown
from eval.animation.film import EVERY, Film, _cut
from eval.animation.picture import GOOD, OPEN, TILE, TITLE, animated


def test_a_film_ends_before_the_environment_starts_over():
    pictures = np.arange(31, dtype=np.uint8).reshape(31, 1, 1, 1)
    done, success = torch.zeros(2, 30, dtype=torch.bool), torch.zeros(2, 30, dtype=torch.bool)
    done[0, 14:], done[1, 29], success[0, 14] = True, True, True
    films = [_cut(pictures, {"done": done, "success": success}, row) for row in range(2)]
    assert films[0].success and not films[1].success
    assert films[0].pictures.ravel().tolist() == [0, EVERY, 2 * EVERY, 14]
    assert films[1].pictures.ravel().tolist() == [*range(0, 29, EVERY), 29]


def test_the_picture_shows_each_episode_and_frames_those_that_ended_well():
    def film(length: int, success: bool) -> Film:
        return Film(np.full((length, 96, 96, 3), 255, np.uint8), success)

    films = {"left": [film(2, True), film(4, False)], "right": [film(4, True), film(3, True)]}
    picture = Image.open(io.BytesIO(animated(films)))
    assert picture.n_frames == 4
    colours = []
    for k in range(4):
        picture.seek(k)
        page = picture.convert("RGB")
        corners = [(0, TITLE), (TILE, TITLE), (page.width - 2 * TILE, TITLE), (page.width - TILE, TITLE)]
        colours.append([page.getpixel(corner) for corner in corners])
    expected = [[OPEN] * 4, [GOOD, OPEN, OPEN, OPEN], [GOOD, OPEN, OPEN, GOOD], [GOOD, OPEN, GOOD, GOOD]]
    np.testing.assert_allclose(np.array(colours), np.array(expected), atol=12)


def test_what_is_shown_has_three_evaluations_of_two_trainings():
    columns = [*shown(0).values()]
    assert len(columns) == 3 and all(evaluation.evaluations == 3 for _, evaluation in columns)
    assert columns[1][0] == columns[2][0] and columns[1][1].steps == "equal" and columns[2][1].steps == "calibrated"
    assert columns[0][1].averaged is False  # LeRobot's diffusion has no average
