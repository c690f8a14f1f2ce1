"""Who may connect: this machine, or whoever has the token.

The token is a secret that server and client share, in the environment variable CDP_POLICY_TOKEN. It is sent with every
call, unencrypted, as everything else is: it keeps strangers out, not those who can read the network's traffic.
"""

import hmac
import os
import socket
from collections.abc import Iterable
from ipaddress import ip_address

from ...errors import SettingError

__all__ = ["TOKEN", "is_loopback", "metadata_of", "shared_token", "shows_token"]

TOKEN = "CDP_POLICY_TOKEN"
KEY = "authorization"
SHORTEST = 16


def shared_token() -> str | None:
    """The token of the environment; None where there is none.

    Raises:
        SettingError: if it could be guessed, or not be sent.
    """
    token = os.environ.get(TOKEN)
    if token is None:
        return None
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingError(f"`{TOKEN}` must be at least {SHORTEST} ASCII characters without spaces. Got another.")
    return token


def metadata_of(token: str) -> tuple[tuple[str, str]]:
    """What a client sends with each call."""
    return ((KEY, f"Bearer {token}"),)


def shows_token(metadata: Iterable[tuple[str, str | bytes]], token: str) -> bool:
    """Whether a call comes from somebody who has the token."""
    [(_, wanted)] = metadata_of(token)
    shown = [sent for key, sent in metadata if key == KEY and isinstance(sent, str)]
    return len(shown) == 1 and hmac.compare_digest(shown[0].encode(), wanted.encode())


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`.

    Raises:
        SettingError: if there is no such host.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None)
    except OSError as error:
        raise SettingError(f"`host` must be an address of this machine. Got {host!r} ({error}).") from error
    return all(ip_address(address[0].partition("%")[0]).is_loopback for *_, address in found)
