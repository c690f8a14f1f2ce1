"""An exported sampler gives the policy's chunks, of observations and noise that it was not exported with."""

import copy

import pytest
import torch

from lerobot_cdp.errors import SettingError
from lerobot_cdp.policy.exportable import ExportableSampler
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.conftest import make_batch, make_config


def observations(policy, seed):
    batch = make_batch(policy.config, batch_size=1, seed=seed)
    return {key: value for key, value in batch.items() if key.startswith("observation")}


# torch 2.11 reads a saved program from a buffer that it does not write to (2026-11-26).
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {"prediction_type": "sample"},
        {"prediction_type": "velocity", "smoothing": 1},
        {"prediction_type": "epsilon", "sampling_temperature": 0.5},
        {"backbone": "mlp", "noise_scheduler_type": "DPMSolver++"},
        {"timestep_spacing": "leading"},
        {"backbone": "dit"},
        {"images": True, "vision_stages": 3},
        {"noise_scheduler_type": "LCM"},
        {"noise_scheduler_type": "LCM", "prediction_type": "sample", "num_inference_steps": 1},
        {"noise_scheduler_type": "LCM", "prediction_type": "velocity"},
        {"noise_scheduler_type": "LCM", "prediction_type": "velocity", "num_inference_steps": 1},
    ],
    ids=str,
)
def test_the_exported_chunk_is_the_policys(settings, tmp_path):
    torch.manual_seed(0)
    policy = CDPPolicy(make_config(**{"num_inference_steps": 3} | settings)).eval()
    noise = torch.randn(2, 1, 16, 2)
    with torch.no_grad():
        sampler = ExportableSampler(policy)
        program = torch.export.export(sampler, (observations(policy, 0), noise[0]))
    copy.deepcopy(sampler)  # nothing of the graph is left in it
    torch.export.save(program, tmp_path / "sampler.pt2")
    loaded = torch.export.load(tmp_path / "sampler.pt2").module()
    expected = policy.predict_action_chunk(observations(policy, 1), noise=noise[1])
    torch.testing.assert_close(loaded(observations(policy, 1), noise[1]), expected)


def test_a_solver_that_draws_noise_is_refused():
    policy = CDPPolicy(make_config(noise_scheduler_type="DDPM"))
    with pytest.raises(SettingError, match="`noise_scheduler_type` must be one of"):
        ExportableSampler(policy)
