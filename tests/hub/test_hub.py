"""The Hub on loopback answers huggingface_hub as the real one does: what other tests rest on."""

import json

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.loopback_hub.client import redirect

MODEL = "user/model"
LARGE = b"large" * 1000


@pytest.fixture
def api(hub, monkeypatch, tmp_path):
    redirect(monkeypatch, hub, tmp_path / "home")
    return HfApi()


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


@pytest.fixture
def repository(api):
    """A repository with a regular file, and a large one in a folder; the name of its commit."""
    api.create_repo(MODEL)
    return api.create_commit(MODEL, [add("a.json", b"{}"), add("w/b.safetensors", LARGE)], commit_message="first").oid


def test_what_is_committed_is_read_again(api, repository, hub, tmp_path):
    assert api.list_repo_files(MODEL) == [".gitattributes", "a.json", "w/b.safetensors"]
    assert [entry.path for entry in api.list_repo_tree(MODEL)] == [".gitattributes", "a.json", "w"]
    assert [entry.path for entry in api.list_repo_tree(MODEL, "w")] == ["w/b.safetensors"]
    folder = snapshot_download(MODEL)
    with open(f"{folder}/w/b.safetensors", "rb") as file:
        assert file.read() == LARGE
    assert HfFileSystem(endpoint=hub.url).read_bytes(f"{MODEL}/a.json") == b"{}"
    with HfFileSystem(endpoint=hub.url).open(f"{MODEL}/w/b.safetensors", "rb", block_size=64) as file:
        file.seek(4321)
        assert file.read(10) == LARGE[4321:4331]
    info = api.get_paths_info(MODEL, ["w/b.safetensors", "w", "nothing"])
    assert [(entry.path, getattr(entry, "size", None)) for entry in info] == [("w/b.safetensors", 5000), ("w", None)]
    assert api.verify_repo_checksums(MODEL).mismatches == []
    assert api.whoami()["name"] == "user"


def test_revisions(api, repository):
    api.create_branch(MODEL, branch="dev/one")
    api.create_commit(MODEL, [add("a.json", b"[1]")], commit_message="second")
    api.create_tag(MODEL, tag="v1.0", revision=repository)
    for revision, content in (("main", b"[1]"), ("dev/one", b"{}"), ("v1.0", b"{}"), (repository, b"{}")):
        with open(hf_hub_download(MODEL, "a.json", revision=revision), "rb") as file:
            assert file.read() == content, revision
    refs = api.list_repo_refs(MODEL)
    assert {ref.name for ref in refs.branches} == {"main", "dev/one"}
    assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("v1.0", repository)]
    assert [commit.title for commit in api.list_repo_commits(MODEL)] == ["second", "first", "initial commit"]
    api.delete_tag(MODEL, tag="v1.0")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(MODEL, revision="v1.0")


def test_what_is_there_is_not_sent_again(api, repository, hub):
    def sent() -> int:
        return sum(method == "PUT" for method, _, _ in hub.log)

    assert sent() == 1
    api.create_commit(MODEL, [add("copy.safetensors", LARGE)], commit_message="same content, another name")
    assert sent() == 1
    before = len(api.list_repo_commits(MODEL))
    api.create_commit(MODEL, [add("a.json", b"{}"), add("copy.safetensors", LARGE)], commit_message="nothing new")
    assert len(api.list_repo_commits(MODEL)) == before


def test_errors(api, repository, hub, monkeypatch, tmp_path):
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(MODEL, "nothing.json")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(MODEL, "a.json", revision="nothing")
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("user/nothing", "a.json")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(MODEL)
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("other/model")
    with pytest.raises(ValueError, match="mapping values"):
        api.create_commit(MODEL, [add("README.md", b"---\na: b: c\n---\n")], commit_message="bad card")


@pytest.mark.parametrize("token", [None, "hf_other", "hf_wrong"])
def test_private_repositories_need_their_owners_token(api, repository, hub, monkeypatch, tmp_path, token):
    api.create_repo("user/secret", private=True)
    api.create_commit("user/secret", [add("a.json", b"{}")], commit_message="secret")
    hf_hub_download("user/secret", "a.json")
    redirect(monkeypatch, hub, tmp_path / "stranger", token)
    with pytest.raises(HfHubHTTPError if token == "hf_wrong" else RepositoryNotFoundError):
        hf_hub_download("user/secret", "a.json")
    with pytest.raises(HfHubHTTPError):
        HfApi().create_commit(MODEL, [add("a.json", b"[]")], commit_message="not mine")
    assert json.loads(hub.repository("model", MODEL).file("main", "a.json")[1].content) == {}


def test_a_dropped_connection_leaves_the_old_state(api, repository, hub, monkeypatch):
    hub.drop.add("commit")
    with pytest.raises(Exception, match="disconnected"):
        api.create_commit(MODEL, [add("a.json", b"[1]"), add("new.safetensors", LARGE * 2)], commit_message="second")
    assert hub.repository("model", MODEL).at("main").oid == repository


def test_a_wrong_checksum_is_refused(api, repository, hub):
    operation = add("new.safetensors", LARGE * 2)
    operation.upload_info.sha256 = bytes(32)
    with pytest.raises(RuntimeError, match="Error while uploading"):
        api.create_commit(MODEL, [operation], commit_message="damaged")
    assert len(list(hub.objects.folder.iterdir())) == 1
