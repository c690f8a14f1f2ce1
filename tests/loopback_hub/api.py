"""The requests that this Hub answers, each a function named after its kind, and the table of their addresses."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import yaml

from .errors import BadRequestError, ConflictError, ForbiddenError, NotFoundError, UnauthorizedError
from .store import File, Repository, describe_file, describe_folder

if TYPE_CHECKING:
    from .server import Hub

__all__ = ["ROUTES", "Reply", "Request"]

DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Request:
    """What was asked, by whom (None: nobody known)."""

    hub: "Hub"
    query: dict[str, str]
    body: Iterator[bytes]
    user: str | None

    @property
    def content(self) -> bytes:
        return b"".join(self.body)

    @property
    def json(self) -> dict:
        return json.loads(self.content)

    def visible(self, kind: str, id: str) -> Repository:
        return self.hub.visible(kind, id, self.user)

    def writable(self, kind: str, id: str) -> Repository:
        found = self.visible(kind, id)
        self.check_owner(id)
        return found

    def check_owner(self, id: str) -> None:
        if self.user is None:
            raise UnauthorizedError("Invalid username or password.")
        if id.split("/")[0] != self.user:
            raise ForbiddenError(f"You don't have the rights to write to {id}")


@dataclass
class Reply:
    """Status, content (plain data, bytes, or a file) and headers."""

    status: int
    content: object = b""
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = False  # whether a part of the content may be asked for


# ------------------------------------------------------------------ accounts, repositories


def whoami(request: Request) -> Reply:
    if request.user is None:
        raise UnauthorizedError("Invalid username or password.")
    return Reply(200, {"type": "user", "name": request.user, "orgs": [], "auth": {"type": "access_token"}})


def create_repo(request: Request) -> Reply:
    asked = request.json
    id = f"{asked.get('organization') or request.user}/{asked['name']}"
    request.check_owner(id)
    kind = asked.get("type") or "model"
    url = f"{request.hub.url}/{'datasets/' if kind == 'dataset' else ''}{id}"
    if (kind, id) in request.hub.repositories:
        return Reply(409, {"error": "You already created this repository", "url": url})
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    request.hub.repositories[kind, id] = Repository(kind, id, private)
    return Reply(200, {"url": url, "name": id, "id": id})


def validate_yaml(request: Request) -> Reply:
    """The metadata at the head of a card must be YAML, and a mapping."""
    content = request.json["content"]
    errors = []
    if content.startswith("---"):
        try:
            head = yaml.safe_load(content.split("---")[1])
            if not isinstance(head, dict | None):
                errors.append({"message": "Metadata must be a mapping"})
        except yaml.YAMLError as error:
            errors.append({"message": str(error)})
    return Reply(400 if errors else 200, {"errors": errors, "warnings": []})


# ------------------------------------------------------------------ reading


def info(request: Request, kind: str, id: str, revision: str = "") -> Reply:
    repository = request.visible(kind, id)
    commit = repository.at(revision or "main")
    return Reply(
        200,
        {
            "id": id,
            "sha": commit.oid,
            "private": repository.private,
            "lastModified": DATE,
            "tags": [],
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        },
    )


def tree(request: Request, kind: str, id: str, revision: str, folder: str) -> Reply:
    recursive = request.query.get("recursive", "").lower() in ("1", "true")
    return Reply(200, request.visible(kind, id).tree(revision, folder, recursive))


def paths_info(request: Request, kind: str, id: str, revision: str) -> Reply:
    files = request.visible(kind, id).at(revision).files
    found = []
    for path in parse_qs(request.content.decode()).get("paths", []):
        if path in files:
            found.append(describe_file(path, files[path]))
        elif any(name.startswith(f"{path}/") for name in files):
            found.append(describe_folder(path))
    return Reply(200, found)


def refs(request: Request, kind: str, id: str) -> Reply:
    repository = request.visible(kind, id)

    def listing(names: dict, folder: str) -> list[dict]:
        return [{"name": n, "ref": f"refs/{folder}/{n}", "targetCommit": c.oid} for n, c in names.items()]

    named = {"branches": listing(repository.branches, "heads"), "tags": listing(repository.tags, "tags")}
    return Reply(200, named | {"converts": [], "pullRequests": []})


def commits(request: Request, kind: str, id: str, revision: str) -> Reply:
    history = request.visible(kind, id).history(revision)
    return Reply(200, [{"id": c.oid, "title": c.title, "message": "", "authors": [], "date": DATE} for c in history])


def resolve(request: Request, kind: str, id: str, revision: str, path: str) -> Reply:
    commit, file = request.visible(kind, id).file(revision, path)
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
    if file.content is not None:
        return Reply(200, file.content, headers, ranges=True)
    headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"'}
    location = f"{request.hub.storage_url}/objects/{file.sha256}?signature={request.hub.signature}"
    return Reply(302, b"", headers | {"Location": location})


def download(request: Request, sha256: str) -> Reply:
    _check_signature(request)
    path = request.hub.objects.path(sha256)
    if request.hub.corrupt:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        return Reply(200, bytes(content), {"ETag": f'"{sha256}"'}, ranges=True)
    return Reply(200, path, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}, ranges=True)


def _check_signature(request: Request) -> None:
    if request.query.get("signature") != request.hub.signature:
        raise ForbiddenError("The signature does not match")


# ------------------------------------------------------------------ writing


def preupload(request: Request, kind: str, id: str, revision: str) -> Reply:
    """How each file is to be sent, and what is there already under its name."""
    present = request.writable(kind, id).at(revision).files
    answers = []
    for asked in request.json["files"]:
        path, size = asked["path"], asked["size"]
        large = size >= request.hub.large_from or path.endswith((".safetensors", ".parquet", ".mp4"))
        oid = present[path].etag if path in present else None
        mode = "lfs" if large else "regular"
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return Reply(200, {"files": answers})


def large_batch(request: Request, kind: str, id: str) -> Reply:
    """Where to send large files; those that are here already need not be sent."""
    request.writable(kind, id)
    objects = []
    for asked in request.json["objects"]:
        oid, known = asked["oid"], asked["oid"] in request.hub.objects
        signed = f"{request.hub.url}/objects/{oid}?signature={request.hub.signature}"
        verify = f"{request.hub.url}/{'datasets/' if kind == 'dataset' else ''}{id}.git/info/lfs/objects/verify"
        actions = {} if known else {"actions": {"upload": {"href": signed}, "verify": {"href": verify}}}
        objects.append({"oid": oid, "size": asked["size"]} | actions)
    return Reply(200, {"transfer": "basic", "objects": objects})


def upload(request: Request, sha256: str) -> Reply:
    _check_signature(request)
    request.hub.objects.receive(sha256, request.body)
    return Reply(200)


def verify(request: Request, kind: str, id: str) -> Reply:
    request.writable(kind, id)
    asked = request.json
    path = request.hub.objects.path(asked["oid"])
    if not path.exists() or path.stat().st_size != asked["size"]:
        raise NotFoundError("The object was not uploaded")
    return Reply(200, {})


def commit(request: Request, kind: str, id: str, revision: str) -> Reply:
    """All operations of the newline-separated JSON, or none."""
    repository = request.writable(kind, id)
    lines = [json.loads(line) for line in request.content.splitlines() if line]
    header, added, deleted = {}, {}, []
    for line in lines:
        value = line["value"]
        match line["key"]:
            case "header":
                header = value
            case "file":
                added[value["path"]] = File.regular(base64.b64decode(value["content"]))
            case "lfsFile":
                if value["oid"] not in request.hub.objects:
                    raise BadRequestError(f"{value['path']}: the object was not uploaded")
                added[value["path"]] = File.large(value["oid"], value["size"])
            case "deletedFile":
                deleted.append(value["path"])
            case "deletedFolder":
                deleted.append(value["path"].rstrip("/") + "/")
    made = repository.commit(revision, header["summary"], header.get("parentCommit"), added, deleted)
    url = f"{request.hub.url}/{'datasets/' if kind == 'dataset' else ''}{id}/commit/{made.oid}"
    return Reply(200, {"success": True, "commitOid": made.oid, "commitUrl": url})


def create_tag(request: Request, kind: str, id: str, revision: str) -> Reply:
    repository, name = request.writable(kind, id), request.json["tag"]
    if name in repository.tags:
        raise ConflictError("Tag exists already")
    repository.tags[name] = repository.at(revision)
    return Reply(200, {})


def delete_tag(request: Request, kind: str, id: str, revision: str) -> Reply:
    if request.writable(kind, id).tags.pop(revision, None) is None:
        raise NotFoundError("Tag not found", "RevisionNotFound")
    return Reply(200, {})


def create_branch(request: Request, kind: str, id: str, revision: str) -> Reply:
    repository = request.writable(kind, id)
    if revision in repository.branches:
        raise ConflictError("Reference already exists")
    repository.branches[revision] = repository.at(request.json.get("startingPoint") or "main")
    return Reply(200, {})


API = r"/api/(?P<kind>model|dataset)s/(?P<id>[^/]+/[^/]+)"
PAGE = r"/(?P<kind>datasets/)?(?P<id>[^/]+/[^/]+?)"
REVISION = r"(?P<revision>[^/]+)"
OBJECT = "/objects/(?P<sha256>[0-9a-f]{64})"
ROUTES = (
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/repos/create", create_repo),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("GET", API, info),
    ("GET", f"{API}/revision/{REVISION}", info),
    ("GET", f"{API}/tree/{REVISION}/?(?P<folder>.*)", tree),
    ("POST", f"{API}/paths-info/{REVISION}", paths_info),
    ("GET", f"{API}/refs", refs),
    ("GET", f"{API}/commits/{REVISION}", commits),
    ("POST", f"{API}/preupload/{REVISION}", preupload),
    ("POST", f"{API}/commit/{REVISION}", commit),
    ("POST", f"{API}/tag/{REVISION}", create_tag),
    ("DELETE", f"{API}/tag/{REVISION}", delete_tag),
    ("POST", f"{API}/branch/{REVISION}", create_branch),
    ("GET|HEAD", OBJECT, download),
    ("PUT", OBJECT, upload),
    ("GET|HEAD", f"{PAGE}/resolve/{REVISION}/(?P<path>.+)", resolve),
    ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", large_batch),
    ("POST", rf"{PAGE}\.git/info/lfs/objects/verify", verify),
)
