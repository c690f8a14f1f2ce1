"""What LeRobot's real-time chunking asks of a call, checked, as what the sampler goes on from."""

from dataclasses import replace

from torch import Tensor

from ..acting.real_time import Prefix, make_prefix, strip_padding
from ..errors import require
from .checks import check_left_over
from .configuration_cdp import CDPConfig

__all__ = ["going_on"]


def going_on(
    left_over: Tensor | None,
    inference_delay: int,
    execution_horizon: int | None,
    config: CDPConfig,
    batch_size: int,
) -> tuple[Tensor | None, Prefix | None]:
    """The actions not executed yet, (1 or B, R, A), without LeRobot's padding, and how much each of them binds.

    Args:
        left_over, inference_delay, execution_horizon: See `CDPPolicy.predict_action_chunk`.
        config: With an enabled `rtc_config`.
        batch_size: B of the observation.

    Returns:
        None and None where none is left.

    Raises:
        ValueError: if the actions are misshaped or not finite.
        SettingError: if a number is too small.
    """
    if left_over is not None:
        check_left_over(left_over, batch_size, *config.action_feature.shape)
    for name, value, least in (("inference_delay", inference_delay, 0), ("execution_horizon", execution_horizon, 1)):
        require(value is None or value >= least, name, f"at least {least}", value)
    rest, rtc = strip_padding(left_over), config.rtc_config
    if rest is None:
        return None, None
    if execution_horizon is not None:
        rtc = replace(rtc, execution_horizon=execution_horizon)
    return rest, make_prefix(rest, inference_delay, rtc, config.horizon, config.n_obs_steps - 1)
