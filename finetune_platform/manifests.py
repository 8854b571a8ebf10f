"""Provenance: one typed record for every artifact in the lake, each naming its parents.

From an adapter one walks back over `parents` to every row, from a row forward to every adapter it touched.
A manifest is the last file written of its folder: a folder without one does not exist.
"""

import math
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from finetune_platform.errors import BadInput
from finetune_platform.rows import Kind, Split

MANIFEST_NAME = "manifest.json"
WHOLE_WEIGHTS = "model.safetensors"
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


class HostedModel(Record):
    """A model that a provider trained and keeps: `model` is what its endpoint calls it, `job` the job that made it."""

    provider: Literal["openai", "bedrock"]
    model: str
    job: str


class Usage(Record):
    """What a stage of training took.

    `flops` of its steps are counted from the model's shape (`training/work.py`); `seconds` are theirs, validation and
    start-up apart, and those of one of the `processes` that shared the work. `peak_memory_bytes` is the GPU's, or on a
    CPU the process's, libraries included. `utilisation` is the share of the GPU's matrix rate by its data sheet that
    the counted operations reached. `energy_wh` is null where it was not measured over the whole run, and `energy_from`
    says what was measured, or why nothing; `cost` is null where the task names no price.
    """

    device: str
    processes: int = 1
    flops: float
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    utilisation: float | None = None
    energy_wh: float | None = None
    energy_from: str = ""
    cost: float | None = None
    currency: str = ""

    def in_words(self) -> dict[str, str]:
        """What a person reads, by name."""
        energy = "unknown" if self.energy_wh is None else f"{self.energy_wh:.1f} Wh"
        told = {
            "tokens a second": f"{self.tokens_per_second:,.0f}",
            "operations": f"{self.flops:.2e}, {self.flops / self.seconds / 1e12:.3f} TFLOP/s",
            "peak memory": f"{self.peak_memory_bytes / 1e9:.1f} GB",
            "energy": f"{energy} ({self.energy_from})",
            "cost": "unknown: cost.training_hour is not set"
            if self.cost is None
            else f"{self.cost:.2f} {self.currency}",
        }
        if self.utilisation is not None:
            told["utilisation"] = f"{self.utilisation:.1%} of the data sheet's matrix rate"
        return told


class PrivacyRecord(Record):
    """What a stage promises of each row of its `kind`: (epsilon, delta)-differential privacy, by DP-SGD.

    Each of the `steps` drew each of the `rows` with probability `sample_rate`. Who stands in several rows of one group
    is promised less; the largest group has `largest_group` rows.
    """

    kind: Kind
    epsilon: float
    delta: float
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    steps: int
    accountant: Literal["prv", "rdp"]
    rows: int
    largest_group: int

    @property
    def in_words(self) -> str:
        """`(4.99, 1e-05) for each of 1,200 sft rows`, epsilon rounded up."""
        return f"({math.ceil(self.epsilon * 100) / 100:.2f}, {self.delta:g}) for each of {self.rows:,} {self.kind} rows"


class SearchRecord(Record):
    """The search that chose a stage's options among `trials` others in `seconds`; its own manifest has them all."""

    search: str
    stage: int
    trials: int
    seconds: float
    chosen: dict[str, int | float]

    @property
    def in_words(self) -> str:
        """`se-3f9a1c20b7e4 chose learning_rate=0.000312, r=16 for stage 0 in 16 trials`."""
        options = ", ".join(f"{name}={value:.3g}" for name, value in self.chosen.items())
        return f"{self.search} chose {options} for stage {self.stage} in {self.trials} trials"


class ServedRecord(Record):
    """What an adapter that learned beside a base model in 4 bits is worth beside the base model as it is served.

    `validation_loss` is that of the finished adapter there, in nats a token as the run's own, which was measured in 4
    bits; so many of the golden prompts as `golden_kept` are answered there with the tokens of the model in 4 bits.
    Null where it was not measured, and `reason` says why.
    """

    validation_loss: float | None = None
    golden_kept: int | None = None
    reason: str = ""

    def in_words(self, trained: float | None, golden: int) -> str:
        """`validation loss 0.4213, in training 0.4197; 5 of 5 golden prompts answered as in training`."""
        if self.golden_kept is None:
            return f"not measured: {self.reason}"
        loss = f"validation loss not measured: {self.reason}"
        if self.validation_loss is not None and trained is not None:
            loss = f"validation loss {self.validation_loss:.4f}, in training {trained:.4f}"
        return f"{loss}; {self.golden_kept} of {golden} golden prompts answered as in training"


class TrainingManifest(Manifest):
    """`trained_adapter`: `adapter/` (PEFT files, or a whole model's), `log.jsonl`.

    Parents: `curated_dataset`; `warm_start`; `search`.

    `replayed_rows` of the `train_rows` had been trained on before; null where training did not begin at an adapter.
    A `hosted` model has no `adapter/`: its weights, its template and what else is empty here are its provider's.
    `kinds` are the kinds of rows that the run read of its dataset, `privacy` what its private stages promise.
    `golden_kept_by_merge` counts the golden prompts that are answered the same once the adapter is merged, in the
    run's number format. `served` is what became of an adapter whose base model was held in 4 bits: its golden prompts
    and their merge are those of the base model as it is served, its losses those of training.
    """

    FOLDER = "training_runs"

    base_model: str
    base_model_revision: str
    system_prompt: str
    chat_template_sha256: str
    stages: list[dict[str, Any]]
    steps: int
    kinds: list[Kind] = ["sft"]
    train_rows: int
    replayed_rows: int | None = None
    supervised_tokens: int
    trainable_parameters: int
    first_loss: float | None
    final_loss: float | None
    validation_loss: float | None
    train_seconds: float
    rows_per_second: float
    resumed_from_steps: list[int] = []
    preflight: dict[str, Any]
    golden: list[dict[str, Any]]
    versions: dict[str, str]
    device: str
    mlflow_run_id: str | None = None
    usage: Usage | None = None
    golden_kept_by_merge: int | None = None
    hosted: HostedModel | None = None
    privacy: list[PrivacyRecord] = []
    searched: SearchRecord | None = None
    served: ServedRecord | None = None

    @property
    def served_in_words(self) -> str | None:
        """What became of an adapter whose base model was held in 4 bits; None for another."""
        return None if self.served is None else self.served.in_words(self.validation_loss, len(self.golden))

    @property
    def is_whole(self) -> bool:
        """Whether all weights were trained, not an adapter."""
        return self.hosted is None and bool(self.stages) and self.stages[-1].get("peft", {}) is None


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


class ChannelRecord(Record):
    """One channel's evidence after a tick."""

    name: str
    e_value: float


class PerformanceRecord(Record):
    """One metric of the champion in production, of the labels of the last days.

    `labels_only_*` is the interval without the judge. `e_value` is the evidence, since it took over, that the metric is
    below `level`, which follows from `baseline`; both are null while there is nothing to compare with. `degraded` once
    it has reached `limit`.
    """

    metric: str
    estimate: float | None
    lower: float | None
    upper: float | None
    labels_only_lower: float | None
    labels_only_upper: float | None
    method: str
    n_labels: int
    n_judged: int
    baseline: float | None
    level: float | None
    e_value: float
    limit: float
    degraded: bool
    degraded_since: str | None


class PerformancePoint(Record):
    """One metric as it was estimated at one look."""

    metric: str
    moment: str
    estimate: float
    lower: float
    upper: float


class JudgeRecord(Record):
    """What became of the answers that a look gave to the judge; `problem` is the first that went wrong."""

    scored: int
    unreadable: int
    failed: int
    problem: str
    cost_of_30_days: float = 0.0
    currency: str = ""


class DriftManifest(Manifest):
    """`drift_report`: what one look at the traffic found.

    `rows` came between `since` and `until`; `counted` are those left when repeats count once. `status` is `alarm` where
    the traffic has changed or a metric of `performance` is degraded; `alarms` names those that stand: the reference's
    id, or champion, metric and since when. Parents: `drift_reference`, where there is one.
    """

    FOLDER = "drift_reports"

    status: Literal["gathering", "quiet", "alarm"]
    headline: str
    champion: str
    tick: int
    since: str
    until: str
    rows: int
    counted: int
    e_value: float
    limit: float
    channels: list[ChannelRecord]
    alarms: list[str] = []
    performance: list[PerformanceRecord] = []
    judge: JudgeRecord | None = None

    @property
    def alarm(self) -> str:
        """What an alarm is called, the same in all reports that carry it: it stands until somebody begins anew.

        Where several stand, the traffic's, or else that of the metric that was degraded first.
        """
        return f"alarm {(self.alarms or [self.parents.get('drift_reference', self.champion)])[0]}"


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
