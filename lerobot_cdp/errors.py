"""Errors for people: one line that names what must be changed, and what to do where the Hub is the problem."""

import httpx
from draccus.utils import ParsingError
from huggingface_hub import constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

__all__ = ["HUB_ERRORS", "SettingError", "explain", "first_line", "require"]

# Whatever huggingface_hub raises; it wraps a failed upload in a RuntimeError.
HUB_ERRORS = (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, RuntimeError)
LOG_IN = "`hf auth login`, or set HF_TOKEN to a token of https://huggingface.co/settings/tokens"


class SettingError(ParsingError):
    """A setting is not what it must be.

    Not a ValueError: of those, draccus tells a user at the command line only that the config "couldn't" be made.
    """


def require(holds: bool, name: str, must_be: str, got: object) -> None:
    """Raise a SettingError that names the setting, what it must be and what it is, unless it holds."""
    if not holds:
        raise SettingError(f"`{name}` must be {must_be}. Got {got!r}.")


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says anything, or its name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def explain(error: BaseException, repo_id: str) -> str:
    """What is wrong about `repo_id`, and what to do."""
    causes = list(_causes(error))
    statuses = {cause.response.status_code for cause in causes if isinstance(cause, HfHubHTTPError)}
    if any(isinstance(cause, HFValidationError) for cause in causes):
        return f"{repo_id!r} must be a name like USER/NAME"
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return f"{repo_id!r} has no such revision: check its branches and tags on the Hub"
    if any("Invalid credentials" in str(cause) or "Invalid user token" in str(cause) for cause in causes):
        return f"the token is not valid: {LOG_IN}"
    if any(isinstance(cause, LocalTokenNotFoundError) for cause in causes):
        return f"there is no token: {LOG_IN}"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return f"there is no repository {repo_id!r}, or it is private: check the name, and {LOG_IN}"
    if 401 in statuses:
        return f"you are not logged in to the Hub: {LOG_IN}"
    if 403 in statuses:
        return f"the token must have the right to write to {repo_id!r}: choose a name of your own, or another token"
    if any(isinstance(cause, httpx.TransportError | OfflineModeIsEnabled) for cause in causes):
        return f"{constants.ENDPOINT} cannot be reached: check the network and HF_HUB_OFFLINE, then run it again"
    if any(isinstance(cause, LocalEntryNotFoundError) for cause in causes):
        return f"{repo_id!r} is not in the cache and cannot be downloaded from {constants.ENDPOINT}: check the network"
    first, last = first_line(causes[0]), first_line(causes[-1])
    return first if first == last else f"{first} ({last})"


def _causes(error: BaseException | None):
    """An error and what led to it, the latest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
