"""LeRobot's `robot_client`, with the token that the server asks for."""

import sys

import grpc
from lerobot.async_inference import robot_client
from lerobot.transport import services_pb2_grpc

from .access import metadata_of, shared_token

__all__ = ["Client", "ShowToken"]


class ShowToken(grpc.UnaryUnaryClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """Adds the token to each call.

    Args:
        token: it.
    """

    def __init__(self, token: str):
        self._metadata = metadata_of(token)

    def intercept_unary_unary(self, continuation, client_call_details, request):
        return continuation(self._shown(client_call_details), request)

    def intercept_stream_unary(self, continuation, client_call_details, request_iterator):
        return continuation(self._shown(client_call_details), request_iterator)

    def _shown(self, details):
        return details._replace(metadata=(*(details.metadata or ()), *self._metadata))


class Client(robot_client.RobotClient):
    """LeRobot's client, with the token of the environment; refused, it lets go of the arm and stops.

    Raises:
        SettingError: if the token is none.
    """

    def __init__(self, config):
        token = shared_token()  # before the arm is on
        super().__init__(config)
        if token is not None:
            self.channel = grpc.intercept_channel(self.channel, ShowToken(token))
            self.stub = services_pb2_grpc.AsyncInferenceStub(self.channel)

    def start(self) -> bool:
        if not super().start():
            self.stop()
            sys.exit("cdp-robot-client: the server refused; the reason is in the line above.")
        return True
