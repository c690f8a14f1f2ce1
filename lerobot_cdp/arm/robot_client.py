"""`cdp-robot-client`: LeRobot's async `robot_client`, which shows a server the token in CDP_POLICY_TOKEN.

    CDP_POLICY_TOKEN=… cdp-robot-client --server_address=HOST:8080 --policy_type=cdp …

It takes the settings of LeRobot's. Like that one it unpickles what the server sends: use it with a server you trust.
"""

import sys

from draccus.utils import ParsingError
from lerobot.utils.import_utils import register_third_party_plugins

__all__ = ["main"]


def main() -> None:
    """Run the client with the settings on the command line, until it is interrupted."""
    try:
        from .remote.client import Client, robot_client
    except ImportError as error:
        sys.exit(f"cdp-robot-client needs the extra `arm`: pip install 'lerobot_policy_cdp[arm]'. Got {error}")
    register_third_party_plugins()
    try:
        robot_client.RobotClient = Client  # which `async_client` makes
        robot_client.async_client()
    except ParsingError as error:
        sys.exit(f"cdp-robot-client: {error}")


if __name__ == "__main__":
    main()
