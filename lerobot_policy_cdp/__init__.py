"""Where LeRobot finds the policy: it imports the module of each installed distribution `lerobot_policy_*`.

The code is in `lerobot_cdp`, whose import registers the policy type `cdp`.
"""

import lerobot_cdp  # noqa: F401
