"""Reading documents: names and places, and what is set aside with which reason."""

import json
from pathlib import Path

import pytest

from finetune_platform.lake import Lake
from finetune_platform.locations import find_files
from finetune_platform.retrieval import corpus as corpus_module
from finetune_platform.retrieval.corpus import Corpus, read_corpus
from finetune_platform.task_retrieval import CorpusSource


def read(folder: Path, lake: Lake, **source: str) -> Corpus:
    wanted = CorpusSource.model_validate(source)
    files = find_files(wanted, folder, lake, folder / "cache", print)
    return read_corpus([(wanted, file) for file in files])


def test_a_folder_of_text_files_has_a_document_a_file(tmp_path: Path, local_lake: Lake) -> None:
    (tmp_path / "docs" / "sub").mkdir(parents=True)
    (tmp_path / "docs" / "a.txt").write_bytes("\ufeffGrüße".encode())
    (tmp_path / "docs" / "sub" / "b.txt").write_text("second")
    (tmp_path / "docs" / "c.md").write_text("another kind")
    found = read(tmp_path, local_lake, uri="docs")
    assert [(d.name, d.text) for d in found.documents] == [("docs/a.txt", "Grüße"), ("docs/sub/b.txt", "second")]
    assert [f.rows for f in found.files] == [1, 1]


def test_documents_of_a_bucket_are_read_too(tmp_path: Path, lake: Lake) -> None:
    lake.put("handbook/a.md", b"# One")
    found = read(tmp_path, lake, uri="lake:handbook", format="markdown")
    assert [(d.name, d.text) for d in found.documents] == [("lake:handbook/a.md", "# One")]


@pytest.mark.parametrize(
    ("content", "reason", "told"),
    [
        (b"", "empty", "white space"),
        (b" \n", "empty", "white space"),
        (b"caf\xe9 au lait", "not_utf8", "byte 3"),
        (b"PK\x03\0abc", "binary", "character 3"),
        (b"x" * 101, "too_large", "split it"),
    ],
)
def test_a_bad_file_is_set_aside_with_its_reason_and_the_others_stay(
    content: bytes, reason: str, told: str, tmp_path: Path, local_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "MAX_FILE_BYTES", 100)
    (tmp_path / "bad.txt").write_bytes(content)
    (tmp_path / "good.txt").write_text("fine")
    found = read(tmp_path, local_lake, uri="*.txt")
    assert [d.uri for d in found.documents] == ["good.txt"]
    assert [(s.uri, s.reason) for s in found.set_aside] == [("bad.txt", reason)]
    assert told in found.set_aside[0].detail


def test_json_lines_are_documents_with_a_name_and_a_line(tmp_path: Path, local_lake: Lake) -> None:
    rows = [
        json.dumps({"title": "First", "body": "one"}),
        "{broken",
        json.dumps({"title": "No body"}),
        "",
        json.dumps({"body": "two"}),
        json.dumps({"title": "Again", "body": "one"}),
        '{"body": "half a pair: \\ud800"}',
        json.dumps(["body"]),
    ]
    (tmp_path / "docs.jsonl").write_text("\n".join(rows))
    found = read(tmp_path, local_lake, uri="docs.jsonl", format="jsonl", text_field="body", name_field="title")
    assert [(d.name, d.row, d.text) for d in found.documents] == [("First", 1, "one"), ("docs.jsonl:5", 5, "two")]
    assert [(s.row, s.reason) for s in found.set_aside] == [
        (2, "invalid_json"),
        (3, "no_text"),
        (6, "duplicate"),
        (7, "not_utf8"),
        (8, "no_text"),
    ]
    assert "docs.jsonl:1" in found.set_aside[2].detail
    assert (found.files[0].rows, found.files[0].rejected) == (2, 5)
