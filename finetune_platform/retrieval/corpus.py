"""A task's documents as they are read from its corpus, and those set aside with place and reason.

Where files are belongs in `locations.py`; cutting documents belongs in `chunks.py`.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import NamedTuple

from finetune_platform.locations import SourceFile
from finetune_platform.manifests import SourceRecord
from finetune_platform.task_retrieval import CorpusSource

MAX_FILE_BYTES = 64 * 1024 * 1024
"""A document is read whole; a larger file is no text for people."""

BOM = "\ufeff"


class Document(NamedTuple):
    """One readable document. `row` is its line in a JSON-lines file, 0 where the file is the document."""

    name: str
    uri: str
    row: int
    text: str


class SetAside(NamedTuple):
    """A document that is not indexed: where it stands, a countable reason, a sentence for a person."""

    uri: str
    row: int
    reason: str
    detail: str


class Corpus(NamedTuple):
    """What was read: documents in the order of their files, those set aside, and a record of every file."""

    documents: list[Document]
    set_aside: list[SetAside]
    files: list[SourceRecord]


def read_corpus(found: list[tuple[CorpusSource, SourceFile]]) -> Corpus:
    """Reads every file; a text that was there before is set aside, for it would take two places among passages."""
    corpus = Corpus([], [], [])
    places: dict[str, str] = {}
    for source, file in found:
        rows = rejected = 0
        data = _bytes(file)
        for one in _refused_file(file, data) or _documents(source, file, data):
            if isinstance(one, Document) and one.text in places:
                one = SetAside(one.uri, one.row, "duplicate", f"the same text as {places[one.text]}")
            if isinstance(one, Document):
                places[one.text] = f"{one.uri}:{one.row}" if one.row else one.uri
                corpus.documents.append(one)
                rows += 1
            else:
                corpus.set_aside.append(one)
                rejected += 1
        sha256 = hashlib.sha256(data).hexdigest()
        record = SourceRecord(uri=file.uri, sha256=sha256, format=source.format, rows=rows, rejected=rejected)
        corpus.files.append(record)
    return corpus


def _bytes(file: SourceFile) -> bytes:
    with file.open() as stream:
        return stream.read(MAX_FILE_BYTES + 1)


def _refused_file(file: SourceFile, data: bytes) -> list[SetAside]:
    """What is wrong with a file as a whole, if anything."""
    if len(data) > MAX_FILE_BYTES:
        detail = f"larger than {MAX_FILE_BYTES // 1024**2} MiB; split it"
        return [SetAside(file.uri, 0, "too_large", detail)]
    if not data.strip():
        return [SetAside(file.uri, 0, "empty", "nothing but white space")]
    return []


def _documents(source: CorpusSource, file: SourceFile, data: bytes) -> Iterator[Document | SetAside]:
    if source.format != "jsonl":
        yield _document(file.uri, file.uri, 0, data)
        return
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            yield _json_document(source, file, number, line)


def _document(name: str, uri: str, row: int, data: bytes) -> Document | SetAside:
    try:
        text = data.decode("utf-8").removeprefix(BOM)
    except UnicodeDecodeError as error:
        return SetAside(uri, row, "not_utf8", f"byte {error.start} is not UTF-8; save it as UTF-8")
    if "\0" in text:
        return SetAside(uri, row, "binary", f"character {text.index(chr(0))} is a null: this is no text")
    return Document(name, uri, row, text)


def _json_document(source: CorpusSource, file: SourceFile, number: int, line: bytes) -> Document | SetAside:
    try:
        value = json.loads(line.removeprefix(BOM.encode()))
    except (ValueError, RecursionError) as error:
        return SetAside(file.uri, number, "invalid_json", f"not JSON: {error}")
    text = value.get(source.text_field) if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        return SetAside(file.uri, number, "no_text", f"has no text in {source.text_field!r}")
    given = value.get(source.name_field) if source.name_field else None
    name = str(given) if given else f"{file.uri}:{number}"
    # A lone surrogate is valid JSON and no text that a file takes.
    return _document(name.encode("utf-8", "replace").decode(), file.uri, number, text.encode("utf-8", "surrogatepass"))
