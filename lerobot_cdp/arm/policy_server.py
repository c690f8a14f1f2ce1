"""`cdp-policy-server`: async inference for `cdp`, as LeRobot's `robot_client` asks for it.

    cdp-policy-server --port=8080                            for this machine, and for an SSH tunnel to it
    CDP_POLICY_TOKEN=… cdp-policy-server --host=0.0.0.0      for clients that have the token: cdp-robot-client

LeRobot's own server runs what any client sends: it unpickles it. This one has the same settings and protocol, reads the
pickles without running them, serves `cdp` only, and one client at a time.
"""

import sys

import draccus
from draccus.utils import ParsingError

__all__ = ["main"]


def main() -> None:
    """Run the server with the settings on the command line, until it is interrupted."""
    try:
        from .remote.server import ServerConfig, start

        start(draccus.parse(ServerConfig)).wait_for_termination()
    except ImportError as error:
        sys.exit(f"cdp-policy-server needs the extra `arm`: pip install 'lerobot_policy_cdp[arm]'. Got {error}")
    except (ParsingError, ValueError, OSError) as error:
        sys.exit(f"cdp-policy-server: {error}")
    except KeyboardInterrupt:
        sys.exit("cdp-policy-server: interrupted.")


if __name__ == "__main__":
    main()
