"""How clients are pointed at the Hub on loopback: processes by their environment, this one by its constants.

Both get a home of their own, so that no test sees the caches or the token of whoever runs it.
"""

import os
from pathlib import Path

from huggingface_hub import constants, hf_api

from .server import Hub

__all__ = ["environment", "redirect"]


def environment(hub_url: str, home: Path, token: str | None = "hf_user") -> dict[str, str]:
    """The environment of a process that talks to the Hub at `hub_url`; caches are in `home`."""
    unwanted = ("HF_", "HUGGING_FACE_", "TRANSFORMERS_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    own |= {"HF_ENDPOINT": hub_url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost", "OMP_NUM_THREADS": "1"}
    own |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return own | ({"HF_TOKEN": token} if token else {})


def redirect(monkeypatch, hub: Hub, home: Path, token: str | None = "hf_user") -> None:
    """Let this process talk to `hub`: huggingface_hub read the environment on import, its constants count now."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)  # of huggingface_hub's plain functions
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN", raising=False)
