"""Where LeRobot finds the policy: it imports the module of each installed distribution `lerobot_policy_*`.

Importing it registers the policy type `cdp`, the last step of its postprocessor, and the environments
`so101_pick_place` and `aloha_transfer_cube`. The code is in `lerobot_cdp`.
"""

from contextlib import suppress
from importlib.util import find_spec

import lerobot_cdp.envs
import lerobot_cdp.policy.configuration_cdp
import lerobot_cdp.policy.processor_cdp  # noqa: F401

if find_spec("lerobot.distributed") is not None:  # not in 0.6.1
    from lerobot_cdp.policy.lerobot_main import adapt

    adapt()

# LeRobot's async `robot_client` knows the cameras that it imports, and those of plugins: not the network camera.
with suppress(ImportError):
    import lerobot.cameras.zmq  # noqa: F401
