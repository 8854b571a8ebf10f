"""Making an index: addresses by content, nothing made twice, and a corpus that cannot be indexed."""

from pathlib import Path

import pytest

from finetune_platform.errors import BadInput
from finetune_platform.inference import embedder as embedder_module
from finetune_platform.lake import Lake
from finetune_platform.retrieval import build as build_module
from finetune_platform.retrieval.build import build_index, set_aside_of
from finetune_platform.retrieval.index import load_index
from finetune_platform.task import Task


def with_retrieval(task: Task, **changes: object) -> Task:
    assert task.retrieval is not None
    return task.model_copy(update={"retrieval": task.retrieval.model_copy(update=changes)})


def test_an_index_is_whole_wherever_it_was_published(bank_help: Task, lake: Lake, tmp_path: Path) -> None:
    made = build_index(bank_help, lake, tmp_path / "cache", print)
    assert (made.documents, made.chunks, made.set_aside, made.cut_short) == (12, 12, {}, 0)
    assert made.artifact_id.startswith("ix-")
    copy = lake.fetch(made.path, tmp_path / "copy")
    index = load_index(copy, embedder_module.load_embedder(Path(bank_help.retrieval.embedder.uri)))  # type: ignore[union-attr]
    assert index.search("I forgot my PIN", 1)[0].place.name == "pages/pin.md"


def test_the_same_corpus_is_not_embedded_again_and_another_has_another_address(
    bank_help: Task, local_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_index(bank_help, local_lake, tmp_path / "cache", print)
    with monkeypatch.context() as patched:
        patched.setattr(build_module, "load_embedder", lambda folder: pytest.fail("it was embedded again"))
        lines: list[str] = []
        assert build_index(bank_help, local_lake, tmp_path / "cache", lines.append) == first
        assert any("is there" in line for line in lines)
        # How passages enter a prompt has no part in the index.
        assert build_index(with_retrieval(bank_help, top_k=9), local_lake, tmp_path / "cache", print) == first
    others = [build_index(with_retrieval(bank_help, chunk_chars=100), local_lake, tmp_path / "cache", print)]
    (tmp_path / "pages" / "pin.md").write_text("# PIN\n\nChoose it yourself at any cash machine.")
    others.append(build_index(bank_help, local_lake, tmp_path / "cache", print))
    (tmp_path / "pages" / "bad.md").write_bytes(b"\xff\xff")
    others.append(build_index(bank_help, local_lake, tmp_path / "cache", print))
    assert len({first.artifact_id, *(other.artifact_id for other in others)}) == 4
    assert others[0].chunks > first.chunks
    assert others[2].set_aside == {"not_utf8": 1}
    assert [(s.uri, s.reason) for s in set_aside_of(others[2], local_lake)] == [("pages/bad.md", "not_utf8")]


def test_chunks_that_the_embedder_does_not_read_whole_are_counted(
    bank_help: Task, local_lake: Lake, tmp_path: Path
) -> None:
    (tmp_path / "pages" / "long.md").write_text("number " + " ".join(str(n) for n in range(1000)))
    made = build_index(with_retrieval(bank_help, chunk_chars=5000), local_lake, tmp_path / "cache", print)
    assert made.cut_short == 1


def test_a_corpus_without_one_readable_document_says_why(bank_help: Task, local_lake: Lake, tmp_path: Path) -> None:
    for page in (tmp_path / "pages").iterdir():
        page.write_bytes(b"\xff")
    with pytest.raises(BadInput, match=r"12 x not_utf8; first pages/abroad\.md: byte 0"):
        build_index(bank_help, local_lake, tmp_path / "cache", print)
    assert local_lake.list() == []


def test_too_many_chunks_are_refused(
    bank_help: Task, local_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "MOST_CHUNKS", 11)
    with pytest.raises(BadInput, match="12 chunks are more than 11"):
        build_index(bank_help, local_lake, tmp_path / "cache", print)


def test_a_task_without_a_corpus_says_so(bank_help: Task, local_lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="names no corpus"):
        build_index(bank_help.model_copy(update={"retrieval": None}), local_lake, tmp_path / "cache", print)
