"""A corpus as an immutable index in the lake, at an address that its content and settings decide.

Reading documents belongs in `corpus.py`, searching in `index.py`.
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from finetune_platform.errors import BadInput
from finetune_platform.identity import content_id
from finetune_platform.inference.embedder import Embedder, embedder_id, fetch_embedder, load_embedder
from finetune_platform.lake import Lake
from finetune_platform.locations import SourceFile, find_files
from finetune_platform.manifests import MANIFEST_NAME, FunnelStep, IndexManifest
from finetune_platform.progress import Report, Ticker
from finetune_platform.retrieval.chunks import chunk
from finetune_platform.retrieval.corpus import Corpus, SetAside, read_corpus
from finetune_platform.retrieval.index import CHUNKS_NAME, SET_ASIDE_NAME, VECTORS_NAME, WORDS_NAME, Place
from finetune_platform.retrieval.words import WordIndex
from finetune_platform.task import Task
from finetune_platform.task_retrieval import CorpusSource, Retrieval

RETRIEVAL_VERSION = "1"
"""Raise it when the same corpus would lead to another index."""

MOST_CHUNKS = 100_000
"""Every question is compared with every chunk; at this many that costs some 20 ms and 150 MB."""

_CHUNKS_A_CALL = 256


def build_index(task: Task, lake: Lake, cache_dir: Path, report: Report) -> IndexManifest:
    """Cuts and indexes the corpus of `task` and publishes `{task}/retrieval_indexes/{id}/`.

    The id is a hash of the documents, of what was set aside, of the settings that decide chunks and of the embedder's
    files: the same corpus is read and hashed, and not embedded again.

    Args:
        task: Its `retrieval` section is used; it has one.
        lake: Where the index goes, and what `lake:` sources read.
        cache_dir: Where packages and models are kept.
        report: Hears of files and of progress.

    Returns:
        The manifest; that of the earlier build where the index is already there.

    Raises:
        BadInput: A source is missing, no document can be read, or there are more chunks than `MOST_CHUNKS`.
        Unreachable: A bucket, a package index or a model hub does not answer.
    """
    wanted = _section(task)
    corpus = read_corpus(_files(wanted, task, lake, cache_dir, report))
    report(f"corpus: {len(corpus.documents):,} documents, {len(corpus.set_aside):,} set aside")
    places, texts = _cut(corpus, wanted)
    _judge(task, corpus, len(texts))
    model = fetch_embedder(wanted.embedder, task.folder, lake, cache_dir, report)
    manifest = _manifest(task, corpus, len(texts), embedder_id(model))
    if lake.is_published(manifest.path):
        report(f"{manifest.artifact_id}: the index of this corpus is there")
        return lake.manifest(IndexManifest, manifest.path)
    embedder = load_embedder(model)
    manifest = manifest.model_copy(
        update={"cut_short": sum(n > embedder.max_tokens for n in embedder.count_tokens(texts))}
    )
    with tempfile.TemporaryDirectory(prefix="retrieval_index-") as temp:
        folder = Path(temp)
        _write_chunks(folder, places, texts)
        _write_set_aside(folder, corpus.set_aside)
        _write_vectors(folder, texts, embedder, report)
        WordIndex.of(list(texts)).save(folder / WORDS_NAME)
        (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        lake.publish(folder, manifest.path)
    return lake.manifest(IndexManifest, manifest.path)


def set_aside_of(index: IndexManifest, lake: Lake) -> list[SetAside]:
    """The documents that an index in the lake does not have, with place and reason."""
    frame = lake.dataframe(f"{index.path}/{SET_ASIDE_NAME}")
    return [SetAside(*(row[field] for field in SetAside._fields)) for row in frame.iter_rows()]


def _section(task: Task) -> Retrieval:
    if task.retrieval is None:
        raise BadInput(
            f"{task.path or task.name}: retrieval: the task names no corpus",
            "add a retrieval section with a corpus to the task file",
        )
    return task.retrieval


def _files(
    wanted: Retrieval, task: Task, lake: Lake, cache_dir: Path, report: Report
) -> list[tuple[CorpusSource, SourceFile]]:
    return [
        (source, file) for source in wanted.corpus for file in find_files(source, task.folder, lake, cache_dir, report)
    ]


def _cut(corpus: Corpus, wanted: Retrieval) -> tuple[list[Place], list[str]]:
    places: list[Place] = []
    texts: list[str] = []
    for document in corpus.documents:
        for piece in chunk(document.text, wanted.chunk_chars, wanted.overlap_chars):
            places.append(Place(document.name, document.uri, document.row, piece.start, piece.end))
            texts.append(piece.text)
    return places, texts


def _judge(task: Task, corpus: Corpus, chunks: int) -> None:
    """Stops where there is nothing to index, or too much."""
    if not chunks:
        reasons = Counter(one.reason for one in corpus.set_aside)
        first = f"; first {corpus.set_aside[0].uri}: {corpus.set_aside[0].detail}" if corpus.set_aside else ""
        told = ", ".join(f"{n:,} x {reason}" for reason, n in reasons.most_common(3)) or "there is no file"
        raise BadInput(
            f"{task.path or task.name}: retrieval.corpus: no document can be read: {told}{first}",
            "put documents there, or correct format and text_field",
        )
    if chunks > MOST_CHUNKS:
        raise BadInput(
            f"{task.path or task.name}: retrieval.corpus: {chunks:,} chunks are more than {MOST_CHUNKS:,}, up to which "
            "every question can be compared with all",
            "raise retrieval.chunk_chars, or take documents out of the corpus",
        )


def _manifest(task: Task, corpus: Corpus, chunks: int, embedder: str) -> IndexManifest:
    wanted = _section(task)
    settings = {"chunk_chars": wanted.chunk_chars, "overlap_chars": wanted.overlap_chars}
    reasons = Counter(one.reason for one in corpus.set_aside)
    documents, refused = len(corpus.documents), len(corpus.set_aside)
    content = {
        "documents": [[d.name, d.uri, d.row, hashlib.sha256(d.text.encode()).hexdigest()] for d in corpus.documents],
        "set_aside": corpus.set_aside,
        "settings": settings,
        "embedder": embedder,
        "version": RETRIEVAL_VERSION,
    }
    return IndexManifest(
        artifact_id=content_id("ix", content),
        task=task.name,
        code_version=RETRIEVAL_VERSION,
        documents=documents,
        chunks=chunks,
        files=corpus.files,
        set_aside=dict(reasons.most_common()),
        settings=settings,
        embedder=wanted.embedder.name or wanted.embedder.uri,
        embedder_id=embedder,
        funnel=[FunnelStep(step="read", rows_in=documents + refused, rows_out=documents, reasons=dict(reasons))],
        versions={"bm25s": version("bm25s")},
    )


def _write_chunks(folder: Path, places: Sequence[Place], texts: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict(zip(Place._fields, zip(*places, strict=True), strict=True))
    pq.write_table(pa.table({**{name: list(values) for name, values in columns.items()}, "text": list(texts)}),
                   folder / CHUNKS_NAME)  # fmt: skip


def _write_set_aside(folder: Path, set_aside: Sequence[SetAside]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({"uri": pa.string(), "row": pa.int64(), "reason": pa.string(), "detail": pa.string()})
    pq.write_table(pa.Table.from_pylist([one._asdict() for one in set_aside], schema=schema), folder / SET_ASIDE_NAME)


def _write_vectors(folder: Path, texts: Sequence[str], embedder: Embedder, report: Report) -> None:
    import numpy as np

    vectors = np.empty((len(texts), embedder.dimension), dtype=np.float32)
    ticker = Ticker(report, "embedding", len(texts), "chunks")
    for start in range(0, len(texts), _CHUNKS_A_CALL):
        part = texts[start : start + _CHUNKS_A_CALL]
        vectors[start : start + len(part)] = embedder.embed(part)
        ticker.at(start + len(part))
    np.save(folder / VECTORS_NAME, vectors, allow_pickle=False)
