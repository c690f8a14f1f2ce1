"""What the Hub answers when something is wrong: status, and the header by which huggingface_hub knows the case."""

__all__ = [
    "BadRequestError",
    "ConflictError",
    "ForbiddenError",
    "HubError",
    "NotFoundError",
    "UnauthorizedError",
    "WrongTokenError",
]


class HubError(Exception):
    """An answer that is no success.

    Args:
        message: For people.
        code: `X-Error-Code`, None where the Hub sends none.
        headers: More headers.
    """

    status = 500

    def __init__(self, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.message, self.code, self.headers = message, code, headers or {}


class BadRequestError(HubError):
    status = 400


class UnauthorizedError(HubError):
    status = 401


class WrongTokenError(UnauthorizedError):
    """The client takes any other message on a 401 for a missing repository."""

    def __init__(self):
        super().__init__("Invalid credentials in Authorization header")


class ForbiddenError(HubError):
    status = 403


class NotFoundError(HubError):
    status = 404


class ConflictError(HubError):
    status = 409
