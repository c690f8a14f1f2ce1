"""The Hub's HTTP interface, as far as huggingface_hub, datasets and LeRobot use it."""

import json
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from . import api
from .errors import HubError, NotFoundError, UnauthorizedError, WrongTokenError
from .store import LargeObjects, Repository

__all__ = ["Hub"]

CHUNK = 1 << 20


@dataclass
class Hub:
    """A Hub with its users.

    Attributes:
        tokens: user names by their tokens.
        large_from: size in bytes from which a file is a large one; a `.safetensors` file always is.
        drop: kinds of requests (`commit`, `upload`, …) whose connection is closed unanswered, before anything happens.
        corrupt: whether downloads of large files have a wrong byte.
        log: what was asked: (method, path, status).
    """

    folder: Path
    tokens: dict[str, str] = field(default_factory=lambda: {"hf_user": "user", "hf_other": "other"})
    large_from: int = 1 << 20
    drop: set[str] = field(default_factory=set)
    corrupt: bool = False
    log: list[tuple[str, str, int]] = field(default_factory=list)
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)

    def __post_init__(self):
        self.objects = LargeObjects(self.folder / "objects")
        # What a signed address is on the real Hub: uploads carry no token.
        self.signature = secrets.token_hex(8)
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        # Another host, as the real Hub's: clients do not follow it when they ask for a file's name only.
        self.storage_url = f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        # Polled often: closing would else wait for half a second.
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def repository(self, kind: str, id_: str) -> Repository:
        """A repository, whoever may see it."""
        if (kind, id_) not in self.repositories:
            raise NotFoundError("Repository not found", "RepoNotFound")
        return self.repositories[kind, id_]

    def visible(self, kind: str, id_: str, user: str | None) -> Repository:
        """A repository as `user` sees it: a private one of another is not there; strangers are asked who they are."""
        found = self.repositories.get((kind, id_))
        if found is None or (found.private and id_.split("/")[0] != user):
            missing = NotFoundError if user else UnauthorizedError
            raise missing("Repository not found", "RepoNotFound")
        return found


class _DroppedError(Exception):
    """The connection is to be closed without an answer."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def _answer(self) -> None:
        address, body = urlsplit(self.path), self._body()
        try:
            reply = self._dispatch(address.path, parse_qs(address.query), body)
        except HubError as error:
            reply = api.Reply(error.status, {"error": error.message}, {"X-Error-Message": error.message})
            reply.headers |= error.headers | ({"X-Error-Code": error.code} if error.code else {})
        except (_DroppedError, ConnectionError):
            self.close_connection = True
            return
        try:
            for _ in body:  # what was not read would be taken for the next request
                pass
            self._send(reply)
        except ConnectionError:  # the client went away
            self.close_connection = True
        self.hub.log.append((self.command, address.path, reply.status))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def _dispatch(self, path: str, query: dict[str, list[str]], body: Iterator[bytes]) -> api.Reply:
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise WrongTokenError
        user = self.hub.tokens.get(token)
        request = api.Request(self.hub, {name: values[-1] for name, values in query.items()}, body, user)
        for methods, pattern, handle in api.ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods.split("|"):
                if handle.__name__ in self.hub.drop:
                    raise _DroppedError
                parts = {name: unquote(value or "") for name, value in match.groupdict().items()}
                if "kind" in parts:
                    parts["kind"] = parts["kind"].removesuffix("s/") or "model"
                return handle(request, **parts)
        raise NotFoundError(f"{self.command} {path} is not part of this Hub.")

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("content-length") or 0)
        while left:
            chunk = self.rfile.read(min(CHUNK, left))
            if not chunk:
                raise ConnectionError("The client went away.")
            left -= len(chunk)
            yield chunk

    def _send(self, reply: api.Reply) -> None:
        content = reply.content if isinstance(reply.content, Path | bytes) else json.dumps(reply.content).encode()
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        start, end, status = 0, size, reply.status
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", "")) if reply.ranges else None
        if wanted:
            start, end = int(wanted[1]), min(size, int(wanted[2]) + 1 if wanted[2] else size)
            status = 206
            reply.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        self.send_response(status)
        for name, value in (reply.headers | {"Content-Length": str(end - start)}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            for chunk in _read(content, start, end):
                self.wfile.write(chunk)


def _read(content: bytes | Path, start: int, end: int) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content[start:end]
        return
    with content.open("rb") as file:
        file.seek(start)
        while start < end and (chunk := file.read(min(CHUNK, end - start))):
            start += len(chunk)
            yield chunk
