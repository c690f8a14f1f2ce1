"""Repositories: immutable commits, and names (branches, tags) that point at them.

A commit is made complete before a branch points at it: a reader sees the old state or the new one.
"""

import hashlib
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from .errors import BadRequestError, ConflictError, NotFoundError

__all__ = ["File", "LargeObjects", "Repository"]

GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True)
class File:
    """A file of a commit.

    Attributes:
        size: in bytes.
        oid: git's name of it (of a large file's pointer).
        content: None for a large file.
        sha256: name among the large objects, None for a file that git holds.
    """

    size: int
    oid: str
    content: bytes | None = None
    sha256: str | None = None

    @classmethod
    def regular(cls, content: bytes) -> "File":
        return cls(len(content), _git_oid(content), content=content)

    @classmethod
    def large(cls, sha256: str, size: int) -> "File":
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return cls(size, _git_oid(pointer.encode()), sha256=sha256)

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, File]
    parent: "Commit | None" = None


class LargeObjects:
    """Large files by their sha256, in a folder. One that does not have its checksum is refused."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def __contains__(self, sha256: str) -> bool:
        return self.path(sha256).exists()

    def receive(self, sha256: str, chunks) -> None:
        """Keep an upload.

        Raises:
            BadRequestError: if its checksum is another one; then nothing is kept.
        """
        partial, digest = self.folder / f"{sha256}.partial-{os.urandom(4).hex()}", hashlib.sha256()
        try:
            with partial.open("wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != sha256:
                raise BadRequestError(f"The checksum of the upload is {digest.hexdigest()}, announced was {sha256}.")
            os.replace(partial, self.path(sha256))
        finally:
            partial.unlink(missing_ok=True)


@dataclass
class Repository:
    """A model or dataset repository."""

    kind: str
    id: str
    private: bool = False
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _numbers: itertools.count = field(default_factory=itertools.count)

    def __post_init__(self):
        self.commit("main", "initial commit", None, {".gitattributes": File.regular(GITATTRIBUTES)}, [])

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a tag or a commit's own name."""
        for names in (self.branches, self.tags, self.commits):
            if revision in names:
                return names[revision]
        raise NotFoundError(f"Invalid rev id: {revision}", "RevisionNotFound")

    def file(self, revision: str, path: str) -> tuple[Commit, File]:
        commit = self.at(revision)
        if path not in commit.files:
            raise NotFoundError(f"{path} does not exist", "EntryNotFound", {"X-Repo-Commit": commit.oid})
        return commit, commit.files[path]

    def commit(
        self, branch: str, title: str, expected_parent: str | None, added: dict[str, File], deleted: list[str]
    ) -> Commit:
        """Make a commit and point the branch at it; the first one makes the branch.

        Args:
            deleted: paths; those that end with / are folders.
        """
        with self._lock:
            parent = self.branches.get(branch)
            if parent is None and self.branches:
                raise NotFoundError(f"Invalid rev id: {branch}", "RevisionNotFound")
            if expected_parent and parent and expected_parent != parent.oid:
                raise ConflictError("A commit has happened since.")
            files = dict(parent.files) if parent else {}
            for path in deleted:
                gone = [name for name in files if name == path or (path.endswith("/") and name.startswith(path))]
                if not gone:
                    raise NotFoundError("A file with this name doesn't exist", "EntryNotFound")
                for name in gone:
                    del files[name]
            files |= added
            listing = "\n".join(f"{path} {file.etag}" for path, file in sorted(files.items()))
            name = f"{self.kind} {self.id} {next(self._numbers)} {title}\n{listing}"
            commit = Commit(hashlib.sha1(name.encode()).hexdigest(), title, files, parent)
            self.commits[commit.oid] = commit
            self.branches[branch] = commit
            return commit

    def history(self, revision: str) -> list[Commit]:
        """The commits that lead to a revision, the latest first."""
        commit, found = self.at(revision), []
        while commit is not None:
            found.append(commit)
            commit = commit.parent
        return found

    def tree(self, revision: str, folder: str, recursive: bool) -> list[dict]:
        """The entries of a folder, '' for all, as the Hub's API lists them."""
        prefix = f"{folder}/" if folder else ""
        files = {path: file for path, file in self.at(revision).files.items() if path.startswith(prefix)}
        if folder and not files:
            raise NotFoundError(f"{folder} does not exist", "EntryNotFound")
        entries = {}
        for path, file in sorted(files.items()):
            parts = path.removeprefix(prefix).split("/")
            depths = range(1, len(parts)) if recursive else range(1, min(2, len(parts)))
            for parent in (prefix + "/".join(parts[:depth]) for depth in depths):
                entries.setdefault(parent, describe_folder(parent))
            if recursive or len(parts) == 1:
                entries[path] = describe_file(path, file)
        return list(entries.values())


def describe_folder(path: str) -> dict:
    return {"type": "directory", "oid": _git_oid(path.encode()), "size": 0, "path": path}


def describe_file(path: str, file: File) -> dict:
    large = {"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 134}} if file.sha256 else {}
    return {"type": "file", "oid": file.oid, "size": file.size, "path": path} | large
