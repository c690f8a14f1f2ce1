"""Where LeRobot finds the policy: it imports the module of each installed distribution `lerobot_policy_*`.

The code is in `lerobot_cdp`, whose import registers the policy type `cdp`.
"""

from contextlib import suppress

import lerobot_cdp  # noqa: F401

# LeRobot's async `robot_client` knows the cameras that it imports, and those of plugins: not the network camera.
with suppress(ImportError):
    import lerobot.cameras.zmq  # noqa: F401
