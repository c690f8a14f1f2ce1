"""The signals of policies that are known, and what counts of an episode."""

import numpy as np
import pandas as pd
import pytest
import torch

from eval.alarm.episodes import farthest
from eval.alarm.report import alarm_page, scored
from eval.alarm.signals import SIGNALS, Observed, Signals, energy_distance
from eval.policies import planned_from
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.closed_forms import gaussian, give_denoiser
from tests.conftest import make_config, make_observation

N_ACTION_STEPS = 8


@pytest.fixture
def policy():
    """Flow matching of actions N(0, 0.5²), in steps so many that they follow the ODE."""
    settings = {"prediction_type": "velocity", "num_inference_steps": 50, "clip_sample": False, "ema_decay": 0}
    policy = CDPPolicy(make_config(n_action_steps=N_ACTION_STEPS, timestep_spacing="trailing", **settings)).eval()
    give_denoiser(policy.diffusion, gaussian(0.0, 0.5))
    return policy


def test_the_signals_of_a_gaussian(policy, seed):
    """The ODE multiplies noise by 0.5: factor and spread. Its plans are new draws of one distribution."""
    torch.manual_seed(seed)
    signals = Signals(policy.acting_model, Observed(torch.randn(5000, policy.diffusion.encoder.condition_dim)))
    n_envs = 200
    observation = make_observation(policy.config, n_envs, None)
    with planned_from(policy, signals):
        actions = [policy.select_action(observation) for _ in range(N_ACTION_STEPS + 1)]
    assert len(signals.measured) == 2
    first, second = (dict(zip(SIGNALS, each, strict=True)) for each in signals.measured)
    assert first["contraction factor"] == pytest.approx(0.5, rel=0.1)
    assert first["spread"].mean() == pytest.approx(0.5, rel=0.1)
    assert np.isnan(first["disagreement"]).all()
    assert second["disagreement"].mean() == pytest.approx(0, abs=4 * second["disagreement"].std() / n_envs**0.5)
    # With a covariance of 1 it is the norm of the features.
    with torch.no_grad():
        norm = policy.diffusion.encoder(
            {key: value.unsqueeze(1).expand(-1, 2, -1) for key, value in observation.items()}
        )
    np.testing.assert_allclose(second["distance to data"], norm.norm(dim=1), rtol=0.15)
    assert torch.stack(actions).std() == pytest.approx(0.5, rel=0.1)
    signals.begin()
    assert signals.measured == []


def test_the_chunk_is_sampled_from_the_noise_that_is_chosen(policy):
    noise = torch.randn(3, 16, 2)
    with planned_from(policy, lambda batch: noise):
        chosen = policy.select_action(make_observation(policy.config, 3, None))
    policy.reset()
    assert torch.equal(chosen, policy.select_action(make_observation(policy.config, 3, None), noise=noise))


def test_the_energy_distance_of_plans(seed):
    """Of certain plans twice their distance; of one distribution, 0 on average."""
    a, b = torch.zeros(8, 4, 3, 2), torch.full((8, 4, 3, 2), 0.5)
    torch.testing.assert_close(energy_distance(a, b), torch.full((4,), 2 * 0.5 * 6**0.5))
    a, b = torch.randn(2, 8, 20_000, 2)
    assert energy_distance(a, b).mean().item() == pytest.approx(0, abs=0.01)


def test_the_distance_to_data_is_mahalanobis(seed):
    covariance = torch.tensor([[4.0, 1.0], [1.0, 1.0]])
    data = torch.randn(100_000, 2) @ torch.linalg.cholesky(covariance).T + 5
    x = torch.tensor([[7.0, 4.0], [5.0, 5.0]])
    expected = ((x - 5) @ torch.linalg.inv(covariance) * (x - 5)).sum(1).sqrt()
    torch.testing.assert_close(Observed(data).distance(x).float(), expected, rtol=0.03, atol=0.03)


def test_unseen_starts_are_the_farthest_from_any_demonstration():
    known = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    observations = torch.tensor([[0.0, 1.0], [5.0, 0.0], [10.0, 3.0], [0.0, 0.0]])
    assert farthest(observations, known, [7, 8, 9, 10], 2) == [8, 9]


def chunks() -> pd.DataFrame:
    """PushT, 300 steps. Failures: their spread is higher from the start. Successes end at 60 or at 200."""
    rows = []
    for start in range(40):
        success, end = start % 2 == 0, 300
        if success:
            end = 60 if start % 4 == 0 else 200
        signals = {"contraction factor": 0.5, "spread": 1.0 + (not success), "disagreement": np.nan}
        rows += [
            {"policy": "p", "task": "pusht_keypoints", "condition": "usual", "start": start, "success": success}
            | {"steps": end, "step": step, "distance to data": float(step)}
            | signals
            for step in range(0, end, 8)
        ]
    return pd.DataFrame(rows).assign(evaluations=5)


def test_a_score_is_of_what_came_before_and_of_episodes_that_go_on():
    early, late = scored(chunks(), 0.1, "max"), scored(chunks(), 0.5, "mean")
    assert len(early) == 40 and len(late) == 30 and early["failed"].sum() == late["failed"].sum() == 20
    assert set(early["distance to data"]) == {24.0}  # of the steps 0, 8, 16, 24
    assert set(late["distance to data"]) == {72.0}  # mean of 0, 8, … 144


def test_the_page_tells_which_signal_knows():
    page = alarm_page({"pusht": chunks()})
    table = page.split("Better than")[0]
    assert "| spread | 1.00 [1.00, 1.00] |" in table and "| contraction factor | 0.50 [0.50, 0.50] |" in table
    assert "| disagreement | – |" in table and "Failures: usual 50 % of 40." in table
