"""How the policy samples: the noise it draws, and calls side by side."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from lerobot_cdp.policy.configuration_cdp import SOLVERS
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.conftest import make_batch, make_config

N_THREADS = 3


@pytest.mark.parametrize("prediction", SOLVERS)
def test_the_noise_that_the_policy_draws_is_standard_normal_scaled_by_the_temperature(prediction):
    policy = CDPPolicy(make_config(prediction_type=prediction)).eval()
    batch, starts = make_batch(policy.config, 500), []
    policy.acting_model.backbone.forward = lambda x_t, timesteps, condition: starts.append(x_t) or 0 * x_t
    for temperature in (1.0, 0.25):
        starts.clear()
        policy.config.sampling_temperature = temperature
        policy.predict_action_chunk(batch)
        assert starts[0].mean().item() == pytest.approx(0, abs=0.05 * temperature)
        assert starts[0].std().item() == pytest.approx(temperature, rel=0.05)


EVERY = pytest.mark.parametrize("solver,prediction", [(s, p) for p, solvers in SOLVERS.items() for s in solvers])


@EVERY
@pytest.mark.parametrize("steps", [4, 20])
def test_actions_stay_in_the_range_of_the_dataset(solver, prediction, steps):
    """`clip_sample`, LeRobot's default, keeps them in [-1, 1]."""
    config = make_config(noise_scheduler_type=solver, prediction_type=prediction, num_inference_steps=steps)
    policy = CDPPolicy(config).eval()
    policy.acting_model.backbone.forward = lambda x_t, t, condition: 3 * torch.sin(5 * x_t + t.view(-1, 1, 1))
    assert 0.5 < policy.predict_action_chunk(make_batch(config)).abs().max() <= 1 + 1e-5


@EVERY
def test_chunks_sampled_side_by_side_are_those_sampled_one_by_one(solver, prediction):
    """The threads meet at every evaluation of the network: their steps alternate."""
    policy = CDPPolicy(make_config(noise_scheduler_type=solver, prediction_type=prediction)).eval()
    model, noises = policy.acting_model, torch.randn(N_THREADS, 2, 16, 2)
    condition = torch.randn(2, model.encoder.condition_dim)

    @torch.no_grad()
    def chunk(i: int) -> torch.Tensor:
        return model.conditional_sample(condition, noises[i], torch.Generator().manual_seed(i)).actions

    one_by_one = [chunk(i) for i in range(N_THREADS)]
    meeting, forward = Barrier(N_THREADS, timeout=20), model.backbone.forward
    model.backbone.forward = lambda *given: (meeting.wait(), forward(*given))[1]
    with ThreadPoolExecutor(N_THREADS) as threads:
        side_by_side = list(threads.map(chunk, range(N_THREADS)))
    assert not torch.equal(one_by_one[0], one_by_one[1])
    assert all(torch.equal(a, b) for a, b in zip(one_by_one, side_by_side, strict=True))
