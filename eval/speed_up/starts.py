"""What a policy observes first from start states of an environment."""

from collections.abc import Callable, Sequence

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env, make_env_pre_post_processors
from lerobot.envs.utils import preprocess_observation
from torch import Tensor

from lerobot_cdp.errors import require

__all__ = ["N_ENVS", "first_observations"]

N_ENVS = 16  # side by side


def first_observations(
    env_config: EnvConfig, config: PreTrainedConfig, preprocessor: Callable, seeds: Sequence[int]
) -> dict[str, Tensor]:
    """Normalised, (N, n_obs_steps, …): until there are as many, a policy sees the first one again.

    Args:
        env_config: The environment.
        config: Of the policy.
        preprocessor: Of the policy.
        seeds: N of the environment; a multiple of N_ENVS.
    """
    require(len(seeds) % N_ENVS == 0, "seeds", f"a multiple of {N_ENVS}", len(seeds))
    to_policy, _ = make_env_pre_post_processors(env_config, config)
    ((env,),) = (tasks.values() for tasks in make_env(env_config, N_ENVS).values())
    found = []
    try:
        for i in range(0, len(seeds), N_ENVS):
            observation, _ = env.reset(seed=[*seeds[i : i + N_ENVS]])
            found.append(preprocessor(to_policy(preprocess_observation(observation))))
    finally:
        env.close()
    stacked = {key: torch.cat([batch[key] for batch in found]) for key in config.input_features}
    return {key: torch.stack([values] * config.n_obs_steps, dim=1) for key, values in stacked.items()}
