"""`cdp-policy-server`: LeRobot's async inference server, for `cdp` as well.

    cdp-policy-server --host=127.0.0.1 --port=8080

LeRobot's `python -m lerobot.async_inference.policy_server` takes a fixed list of policies and loads no plugins. This
is the same server with the same settings, `cdp` on its list; LeRobot's `robot_client` needs nothing else.
"""

import logging
import sys

from ..policy.configuration_cdp import CDPConfig

__all__ = ["main", "warn_of_short_chunks"]


def warn_of_short_chunks(config: CDPConfig, actions_per_chunk: int) -> None:
    """Say so where a client asks for more actions than `predict_action_chunk` gives, which is as many as it gets."""
    if config.n_action_steps < actions_per_chunk:
        logging.getLogger("policy_server").warning(
            "`actions_per_chunk` must be at most n_action_steps = %s of the checkpoint. Got %s: chunks are shorter.",
            config.n_action_steps,
            actions_per_chunk,
        )


def main() -> None:
    """Run the server with the settings on the command line, until it is interrupted."""
    try:
        from lerobot.async_inference import constants, policy_server
    except ImportError as error:
        sys.exit(f"cdp-policy-server needs the extra `arm`: pip install 'lerobot_policy_cdp[arm]'. Got {error}")

    class Server(policy_server.PolicyServer):
        def SendPolicyInstructions(self, request, context):  # noqa: N802
            reply = super().SendPolicyInstructions(request, context)
            if self.running and self.policy_type == "cdp":
                warn_of_short_chunks(self.policy.config, self.actions_per_chunk)
            return reply

    constants.SUPPORTED_POLICIES.append("cdp")  # the list that the server looks at
    policy_server.PolicyServer = Server
    policy_server.serve()


if __name__ == "__main__":
    main()
