"""Provenance: one typed record for every artifact in the lake, each naming its parents.

From an adapter one walks back over `parents` to every row, from a row forward to every adapter it touched.
A manifest is the last file written of its folder: a folder without one does not exist. What training says of itself
belongs in `manifests_training.py`, what a look at the traffic says in `manifests_drift.py`.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from finetune_platform.errors import BadInput
from finetune_platform.rows import Kind, Split

MANIFEST_NAME = "manifest.json"
WHOLE_WEIGHTS, WHOLE_CONFIG = "model.safetensors", "config.json"
"""What a folder of tuned weights holds instead of an adapter where all weights were trained."""

Verdict = Literal["pass", "fail", "inconclusive", "skipped"]
M = TypeVar("M", bound="Manifest")


class Record(BaseModel):
    """A part of a manifest: strict, so that a wrong writer fails at once."""

    model_config = ConfigDict(extra="forbid")


class FunnelStep(Record):
    """How many rows one step took in, and how many it kept."""

    step: str
    rows_in: int
    rows_out: int
    reasons: dict[str, int] = {}


class Manifest(Record):
    """What every artifact says of itself. `created_at` is never part of an id."""

    artifact_id: str
    task: str
    parents: dict[str, str] = {}
    code_version: str
    created_at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    FOLDER: ClassVar[str]
    """Folder of all artifacts of this kind, inside the task's."""

    @classmethod
    def path_of(cls, task: str, artifact_id: str) -> str:
        """Folder of one artifact inside the lake."""
        return f"{task}/{cls.FOLDER}/{artifact_id}"

    @property
    def path(self) -> str:
        return self.path_of(self.task, self.artifact_id)

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=2).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return cls.model_validate_json(data)


class SourceRecord(Record):
    """One source file as it was read."""

    uri: str
    sha256: str
    format: str
    rows: int
    rejected: int


class RawManifest(Manifest):
    """`raw_examples`: canonical rows (`examples.parquet`) and refused ones (`rejected.parquet`).

    `labels` of the rows are what experts and users decided. Parents: `expert_labels`, where there are some.
    """

    FOLDER = "raw_examples"

    rows: int
    labels: int = 0
    sources: list[SourceRecord]
    funnel: list[FunnelStep]


class SplitRecord(Record):
    """One split of a dataset; `kinds` counts its rows by kind (empty in datasets of before there were several)."""

    rows: int
    groups: int
    sha256: str
    kinds: dict[Kind, int] = {}

    @property
    def rows_in_words(self) -> str:
        """`412 (400 sft, 12 text)`; the number alone where all rows are of kind `sft`."""
        of_kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.items())
        return f"{self.rows:,} ({of_kinds})" if set(self.kinds) - {"sft"} else f"{self.rows:,}"


class DatasetManifest(Manifest):
    """`curated_dataset`: `train|validation|test|rejected.parquet`. Parents: `raw_examples`."""

    FOLDER = "datasets"

    splits: dict[Split, SplitRecord]
    rejected: int
    funnel: list[FunnelStep]
    strata: dict[str, dict[str, int]]
    tokens: dict[str, float]
    base_model: str


class IndexManifest(Manifest):
    """`retrieval_index`: `chunks.parquet`, `vectors.npy`, `words/` (BM25), `set_aside.parquet`.

    `cut_short` counts chunks longer than the embedder reads: their ends are found by words only.
    """

    FOLDER = "retrieval_indexes"

    documents: int
    chunks: int
    files: list[SourceRecord]
    set_aside: dict[str, int]
    settings: dict[str, int]
    embedder: str
    embedder_id: str
    cut_short: int = 0
    funnel: list[FunnelStep]
    versions: dict[str, str]


class GateResult(Record):
    """One gate's outcome. `observed`, `lower`, `upper` are the metric, or its difference to `versus`."""

    name: str
    metric: str
    slice: str
    tier: Literal["hard", "warn"]
    verdict: Verdict
    versus: str | None
    limit: float
    observed: float | None
    lower: float | None
    upper: float | None
    n: int
    minimum_detectable_effect: float | None
    reason: str


class EvaluationManifest(Manifest):
    """`evaluation_report`: `report.html`, `report.json`, `predictions.parquet`.

    Parents: `trained_adapter`, `curated_dataset`, and `champion` where there was one. `summary` is
    `{arm: {metric: {"value", "lower", "upper"}}}` of the first benchmark.
    """

    FOLDER = "evaluations"

    verdict: Verdict
    headline: str
    gates: list[GateResult]
    summary: dict[str, dict[str, dict[str, float]]]
    generation_seconds: float

    @property
    def blocking(self) -> list[GateResult]:
        """Hard gates that keep the adapter out: everything but a pass, or a skip for want of a champion."""
        return [g for g in self.gates if g.tier == "hard" and g.verdict in ("fail", "inconclusive")]


class AdapterManifest(Manifest):
    """`registered_adapter`: the bundle. Its id is the hash of `files` (path to SHA-256), manifest and card apart.

    Parents: `evaluation_report`, `trained_adapter`, `curated_dataset`, `raw_examples`.
    """

    FOLDER = "adapters"

    files: dict[str, str]
    base_model: str
    base_model_revision: str
    system_prompt: str
    chat_template_sha256: str
    summary: dict[str, dict[str, dict[str, float]]]
    mlflow_model: str
    golden: list[dict[str, Any]]

    @property
    def is_whole(self) -> bool:
        """Whether it holds a whole model, not an adapter beside its base model."""
        return WHOLE_WEIGHTS in self.files


class ReferenceManifest(Manifest):
    """`drift_reference`: `rows.parquet`, the traffic that later traffic is compared with, with its vectors.

    `first` and `last` are the moments of its first and last row. Parents: `registered_adapter`, where one answered.
    """

    FOLDER = "drift_references"

    champion: str
    rows: int
    embedder_id: str
    first: str
    last: str


class BatchManifest(Manifest):
    """`review_batch`: `items.parquet`, the rows that were chosen for people, with why and how likely each was.

    `chosen` counts them by selection. Parents: `drift_report`, where an alarm asked for it.
    """

    FOLDER = "review_batches"

    cause: str
    reason: str
    rows: int
    chosen: dict[str, int]
    candidates: int
    since: str
    until: str


class LabelsManifest(Manifest):
    """`expert_labels`: `labels.parquet`, the label of each prompt as it stands.

    `by_source` counts the rows by who gave them, `replaced` are labels that a better or newer one of the same prompt
    overrules, `distrusted` those below the task's trust. Agreement, hours and cost are the newest batch's. Parents:
    `review_batch`, the newest one, where there is one; `batches` names all that the rows come from.
    """

    FOLDER = "label_sets"

    rows: int
    by_source: dict[str, int]
    replaced: int
    distrusted: int
    batches: list[str]
    alpha: float | None
    alpha_lower: float | None
    alpha_upper: float | None
    hours: float
    cost: float


class ProposalManifest(Manifest):
    """`base_model_proposal`: `proposal.json`, `proposal.html`: what another base model would bring.

    `place` is what `base_model` in the task file would be; `revision` what it amounts to. `next_steps` are sentences.
    Parents: `registered_adapter` (the champion), `curated_dataset`, `evaluation_report`.
    """

    FOLDER = "migrations"

    base_model: str
    revision: str
    revision_before: str
    place: dict[str, str | None]
    recommendation: Literal["retrain", "stay", "no_difference"]
    headline: str
    next_steps: list[str]


def expect_same(what: str, ours: str, theirs: str, place: str) -> None:
    """Stops where two records that must agree do not.

    Raises:
        BadInput: With both values.
    """
    if ours != theirs:
        raise BadInput(
            f"{place}: {what} is {theirs}, but {ours} was expected",
            "materialize the chain again from the asset that changed",
        )
