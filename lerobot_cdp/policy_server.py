"""`cdp-policy-server`: LeRobot's async inference server, for `cdp` as well.

    cdp-policy-server --host=127.0.0.1 --port=8080

LeRobot's `python -m lerobot.async_inference.policy_server` takes a fixed list of policies and loads no plugins. This
is the same server with the same settings, `cdp` on its list; LeRobot's `robot_client` needs nothing else.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the server with the settings on the command line, until it is interrupted."""
    try:
        from lerobot.async_inference import constants, policy_server
    except ImportError as error:
        sys.exit(f"cdp-policy-server needs the extra `arm`: pip install 'lerobot_policy_cdp[arm]'. Got {error}")
    import lerobot_cdp  # noqa: F401  (registers cdp)

    constants.SUPPORTED_POLICIES.append("cdp")  # the list that the server looks at
    policy_server.serve()


if __name__ == "__main__":
    main()
