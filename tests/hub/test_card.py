"""Names and tasks come from others' datasets: in the card they are text, and in its commands arguments."""

import re
import shlex

import pytest

from lerobot_cdp.errors import SettingError
from lerobot_cdp.hub.card import DatasetFacts, Facts, TaskResult, make_card
from tests.conftest import feature, make_config

HOSTILE = '<img src=x onerror=alert(1)>\n```\n# Own heading\n[link](http://x) `code` | cell "; rm -rf ~; $(id)'


def card(**changes) -> str:
    observed = {"observation.state": feature("STATE", 2), f"observation.images.{HOSTILE}": feature("VISUAL", 3, 40, 40)}
    config = make_config(input_features=observed, repo_id="user/name", license=HOSTILE, tags=[HOSTILE])
    facts = Facts(
        config=config,
        train={"steps": HOSTILE, "seed": 3},
        dataset=DatasetFacts(HOSTILE, 1, 2, 3, HOSTILE, (HOSTILE, "push")),
        results=(TaskResult(HOSTILE, 3, 50.0, 1.0),),
        environment=HOSTILE,
        **changes,
    )
    return make_card(facts)


def outside_of_code(text: str) -> str:
    """The Markdown without its fences and code spans, in which nothing is HTML."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!\\)`[^`\n]+`", "", text)


def test_nothing_of_others_is_html_a_link_a_heading_or_a_cell():
    made = card()
    text = outside_of_code(made.text)
    assert "<img" not in text and "&lt;img" in text  # shown, not run
    assert not re.search(r"(?<!\\)\]\(http://x", text)
    assert "# Own heading" not in text.splitlines() and made.text.count("\n```") % 2 == 0
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} <= {3, 4, 5}
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in tables if "&lt;img" in line] == [3, 5]  # setting, result
    assert made.data.license == HOSTILE and made.data.datasets == HOSTILE  # in YAML, which quotes it


def test_arguments_are_arguments():
    command = re.search(r"^lerobot-rollout .*?[^\\]$", card().text, re.DOTALL | re.MULTILINE)[0]
    words = shlex.split(command.replace("\\\n", " "))
    line = " ".join(HOSTILE.split())
    assert f"--task={line}" in words and f"--robot.type={line}" in words
    assert words[-1] == "--duration=60" and not [word for word in words if word in (";", "rm")]


def test_plain_names_stay_as_they_are():
    dataset = DatasetFacts("user/so101_place", 1, 2, 3, "so101", ("Put it there.",))
    config = make_config(images=True, repo_id="user/name")
    text = make_card(Facts(config=config, dataset=dataset)).text
    for part in (
        "[user/so101_place](https://huggingface.co/datasets/user/so101_place)", "Task: Put it there.",
        "--robot.type=so101", "--task='Put it there.'", "| `observation.images.top` |", "{ top: {type: opencv",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize("name", ["user/<b>", 'user/x" onerror="y', "a b"])
def test_no_card_for_what_is_no_name(name):
    with pytest.raises(SettingError, match="^`repo_id` must be a name"):
        make_card(Facts(config=make_config(repo_id=name)))
