"""An ensemble's classifier from its members' own datasets: learnt on train, calibrated on validation, judged on test.

Those splits never cut a near-duplicate cluster of a task, so the figures are of texts that the classifier has not seen.
The decision rule stands in `ensemble_router.py`.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.identity import content_id, folder_sha256
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, DatasetManifest
from finetune_platform.progress import Report
from finetune_platform.rows import Split
from finetune_platform.sequential import rate_bounds
from finetune_platform.serving.ensemble_file import Ensemble
from finetune_platform.serving.ensemble_router import (
    WEIGHTS,
    HeldOut,
    RouterManifest,
    decided,
    probabilities,
)

if TYPE_CHECKING:
    import numpy as np

    from finetune_platform.inference.embedder import Embedder

CODE_VERSION = "1"
MIN_ROWS = {"train": 20, "validation": 5, "test": 5}
BINS = 10


class _Part(NamedTuple):
    """Vectors of one split, shape (rows, dimension), and the index of each row's task."""

    vectors: "np.ndarray"
    labels: "np.ndarray"


def build_router(ensemble: Ensemble, lake: Lake, database: Database, embedder: "Embedder", report: Report) -> str:
    """Trains, judges and publishes the router of an ensemble.

    The general task is learnt too where it has a dataset: texts like its own then go to it however sure one is.

    Args:
        ensemble: Its file.
        lake: Holds the members' datasets, and the router afterwards.
        database: Knows the newest dataset of each task, and the router afterwards.
        embedder: Turns texts into vectors.
        report: Told what is being done.

    Returns:
        The router's id.

    Raises:
        BadInput: A specialist has no dataset, or too few rows in a split.
    """
    datasets = _datasets(ensemble, lake, database)
    labels = list(datasets)
    parts: dict[Split, _Part] = {}
    for split in ("train", "validation", "test"):
        texts = {task: _texts(lake, dataset, split, ensemble.max_rows) for task, dataset in datasets.items()}
        report(f"{split}: " + ", ".join(f"{task} {len(found):,}" for task, found in texts.items()))
        parts[split] = _embedded(embedder, labels, texts)
    weights, bias = _learnt(parts["train"], len(labels))
    temperature = _temperature(parts["validation"], weights, bias)
    odds = probabilities(parts["test"].vectors @ weights.T + bias, temperature)
    manifest = RouterManifest(
        artifact_id="",
        task=ensemble.name,
        parents={f"curated_dataset/{task}": dataset.artifact_id for task, dataset in datasets.items()},
        code_version=CODE_VERSION,
        labels=labels,
        general=ensemble.general,
        min_confidence=ensemble.min_confidence,
        temperature=temperature,
        embedder=embedder.id,
        train_rows={task: int((parts["train"].labels == index).sum()) for index, task in enumerate(labels)},
        held_out=held_out(odds, parts["test"].labels, labels, ensemble.general, ensemble.min_confidence),
    )
    return _published(manifest, weights, bias, lake, database)


def held_out(
    odds: "np.ndarray", truth: "np.ndarray", labels: Sequence[str], general: str, min_confidence: float
) -> HeldOut:
    """What a classifier's probabilities are worth.

    Args:
        odds: Shape (rows, labels).
        truth: Index of each row's own label, shape (rows,).
    """
    import numpy as np

    best, confidence = odds.argmax(axis=1), odds.max(axis=1)
    right = best == truth
    chosen = [decided(labels[b], float(c), general, min_confidence).task for b, c in zip(best, confidence, strict=True)]
    own = [labels[t] for t in truth]
    special = [(mine, got) for mine, got in zip(own, chosen, strict=True) if mine != general]
    covered = [(mine, got) for mine, got in special if got != general]
    well = sum(mine == got for mine, got in covered)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs(float(right[bins == b].mean() - confidence[bins == b].mean())) * (bins == b).mean() for b in set(bins)]
    pairs = Counter(zip(own, chosen, strict=True))
    answering = sorted({*labels, general})
    return HeldOut(
        n=len(truth),
        accuracy=float(right.mean()),
        coverage=len(covered) / len(special) if special else 0.0,
        covered_n=len(covered),
        covered_accuracy=well / len(covered) if covered else None,
        covered_lower=rate_bounds(len(covered), well, 0.05).lower,
        calibration_error=float(sum(gaps)),
        confusion={mine: {task: pairs[mine, task] for task in answering} for mine in labels},
    )


def _datasets(ensemble: Ensemble, lake: Lake, database: Database) -> dict[str, DatasetManifest]:
    """The newest dataset of each member that has one."""
    found: dict[str, DatasetManifest] = {}
    for task in ensemble.members:
        row = database.latest_artifact(task, "curated_dataset")
        if row is not None:
            found[task] = lake.manifest(DatasetManifest, DatasetManifest.path_of(task, row.artifact_id))
        elif task != ensemble.general:
            raise BadInput(
                f"{ensemble.path or ensemble.name}: {task} has no dataset yet to learn from",
                f"`finetune run {task} --to curated_dataset` makes it",
            )
    if len(found) < 2:
        raise BadInput(
            f"{ensemble.path or ensemble.name}: one task alone leaves nothing to tell apart",
            f"name a second specialist, or give {ensemble.general} a dataset: `finetune run {ensemble.general}`",
        )
    return found


def _texts(lake: Lake, dataset: DatasetManifest, split: Split, most: int) -> list[str]:
    """First user messages of a split's rows of kind `sft`; of many those with the smallest ids, which are hashes."""
    import daft

    place = f"{dataset.path}/{split}.parquet"
    answered = lake.dataframe(place).where(daft.col("kind") == "sft")
    frame = answered.select("example_id", "prompt").sort("example_id").limit(most).to_pydict()
    texts = [first_user_text(json.loads(prompt)) for prompt in frame["prompt"]]
    if len(texts) < MIN_ROWS[split]:
        raise BadInput(
            f"{lake.url_of(place)}: {len(texts)} rows, {MIN_ROWS[split]} are needed to tell {dataset.task} from others",
            f"add data to {dataset.task}, or leave it out of the ensemble",
        )
    return texts


def first_user_text(messages: Sequence[dict[str, object]]) -> str:
    """What a conversation is about: its first user message. It stays the same as the conversation goes on."""
    found = next((message.get("content") for message in messages if message.get("role") == "user"), "")
    return str(found or "")


def _embedded(embedder: "Embedder", labels: Sequence[str], texts: dict[str, list[str]]) -> _Part:
    import numpy as np

    counts = [len(texts[task]) for task in labels]
    vectors = embedder.embed([text for task in labels for text in texts[task]])
    return _Part(vectors, np.repeat(np.arange(len(labels)), counts))


def _learnt(train: _Part, classes: int) -> tuple["np.ndarray", "np.ndarray"]:
    """Multinomial logistic regression, every task weighing the same; shapes (classes, dimension) and (classes,)."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
    model.fit(train.vectors, train.labels)
    weights, bias = model.coef_.astype(np.float32), model.intercept_.astype(np.float32)
    if classes == 2:
        # Of two classes one row is learnt, the log odds of the second.
        return np.concatenate([-weights / 2, weights / 2]), np.concatenate([-bias / 2, bias / 2])
    return weights, bias


def _temperature(validation: _Part, weights: "np.ndarray", bias: "np.ndarray") -> float:
    """The temperature, of a grid, under which the validation rows are likeliest (Guo et al. 2017).

    Their labels count as a little uncertain, the less the more rows there are (Platt 1999, "Probabilistic outputs for
    support vector machines"): a few rows without an error would else make it certain of everything.
    """
    import numpy as np

    logits = validation.vectors @ weights.T + bias
    n, classes = logits.shape
    targets = np.full((n, classes), 1 / (n + classes))
    targets[np.arange(n), validation.labels] = (n + 1) / (n + classes)

    def loss(temperature: float) -> float:
        return float(-(targets * np.log(np.maximum(probabilities(logits, temperature), 1e-12))).sum(axis=1).mean())

    return float(min(np.geomspace(0.05, 20.0, 97), key=loss))


def _published(
    manifest: RouterManifest, weights: "np.ndarray", bias: "np.ndarray", lake: Lake, database: Database
) -> str:
    import numpy as np
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # Scikit-learn's columns come first in memory, and safetensors writes memory as it lies.
        save_file({"weights": np.ascontiguousarray(weights), "bias": np.ascontiguousarray(bias)}, folder / WEIGHTS)
        content = manifest.model_dump(mode="json", exclude={"artifact_id", "created_at"})
        whole = manifest.model_copy(
            update={"artifact_id": content_id("er", {"files": folder_sha256(folder), "manifest": content})}
        )
        (folder / MANIFEST_NAME).write_bytes(whole.to_bytes())
        lake.publish(folder, whole.path)
    database.record_artifact(whole, "ensemble_router", lake.url_of(whole.path), None)
    return whole.artifact_id
