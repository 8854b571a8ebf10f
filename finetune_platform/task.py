"""The task file: one strict pydantic model with everything a user decides about one task.

Defaults stand here (those of serving in `task_serving.py`, of retrieval in `task_retrieval.py`, of drift in
`task_drift.py`, of the judge in `task_judge.py`, of labels and retraining in `task_labeling.py`, of places to train in
`task_launcher.py`, of stages in `task_training.py`, of private training in `task_privacy.py`, of a search in
`task_search.py`, of notifications in `task_notifications.py`) and nowhere else. Reading YAML and telling a user where
it is wrong belongs in `task_file.py`; what a decision leads to belongs to the library package that acts on it. Chat
fields carry OpenAI's names.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from finetune_platform.model_ref import BaseModelRef, Sha256
from finetune_platform.rows import SLICE_FIELDS
from finetune_platform.strict import Cron, Strict, checked_regex, nearest
from finetune_platform.task_drift import Drift
from finetune_platform.task_judge import Judge
from finetune_platform.task_labeling import Labeling, Retraining
from finetune_platform.task_launcher import Launcher
from finetune_platform.task_notifications import Notifications
from finetune_platform.task_retrieval import Retrieval
from finetune_platform.task_serving import Rollout, Serving
from finetune_platform.task_training import Training

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"

SourceFormat = Literal[
    "messages", "prompt_completion", "csv", "input_ideal", "preference", "unpaired_preference", "text"
]
Reference = Literal["champion", "prompted", "few_shot", "trivial"]
Fraction = Annotated[float, Field(gt=0, lt=1)]

JSON_LINES = (".jsonl", ".ndjson", ".json")
"""How the names of files end that hold one JSON object a line."""


CSV_ROWS: dict[frozenset[str], SourceFormat] = {
    frozenset({"prompt", "completion"}): "prompt_completion",
    frozenset({"prompt", "chosen", "rejected"}): "preference",
    frozenset({"prompt", "completion", "label"}): "unpaired_preference",
    frozenset({"text"}): "text",
}
"""The JSON format whose keys a CSV file's columns stand for, by what is mapped."""


class CsvColumns(Strict):
    """Which CSV column holds what. `system` overrides the task's system prompt for that row.

    Which columns are mapped says what a row is: `prompt` and `completion`; `prompt`, `chosen` and `rejected`;
    `prompt`, `completion` and `label`; or `text`.
    """

    prompt: str | None = None
    completion: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    label: str | None = None
    text: str | None = None
    system: str | None = None
    task_type: str | None = None
    difficulty: str | None = None
    group: str | None = None

    @property
    def contents(self) -> frozenset[str]:
        """The mapped columns that make the row, not its strata."""
        return frozenset(self.model_dump(exclude_none=True)) & frozenset().union(*CSV_ROWS)

    @property
    def row_format(self) -> SourceFormat:
        """The JSON format that has the same keys."""
        return CSV_ROWS[self.contents]

    @model_validator(mode="after")
    def make_a_row(self) -> "CsvColumns":
        if self.contents not in CSV_ROWS:
            raise ValueError(
                "columns maps prompt and completion; or prompt, chosen and rejected; or prompt, completion and label; "
                f"or text: not {', '.join(sorted(self.contents)) or 'none of them'}"
            )
        if self.system is not None and self.row_format == "text":
            raise ValueError("columns.system: a text has no system prompt")
        return self


class Source(Strict):
    """One place that examples come from.

    `uri` is a local file, folder or glob (relative to the task file), `lake:PATH` (inside LAKE_URL), a bucket
    URL, or `package://NAME==VERSION/path` with the wheel's `sha256`. `optional` sources may be empty.
    """

    uri: str
    format: SourceFormat
    columns: CsvColumns | None = None
    sha256: Sha256 | None = None
    optional: bool = False
    replace_system_prompt: bool = True
    label_source: Literal["imported", "production", "expert", "synthetic"] = "imported"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What files of a folder count."""
        if self.format == "csv":
            return (".csv",)
        return (*JSON_LINES, ".txt", ".md", ".markdown") if self.format == "text" else JSON_LINES

    @property
    def takes_empty_files(self) -> bool:
        """Among documents an empty one is a row to set aside; an empty table of rows is a mistake."""
        return self.format == "text"

    @model_validator(mode="after")
    def csv_needs_columns(self) -> "Source":
        if (self.format == "csv") != (self.columns is not None):
            raise ValueError("columns: goes with format: csv, and only with it")
        if self.uri.startswith("package://") and self.sha256 is None:
            raise ValueError("a package:// source needs sha256, the hash of its wheel")
        return self


class StratumRule(Strict):
    """Names a stratum; the first rule whose patterns are found in a row sets its `field`."""

    field: Literal["task_type", "difficulty"]
    value: str = Field(min_length=1)
    prompt_matches: str | None = None
    answer_matches: str | None = None

    @field_validator("prompt_matches", "answer_matches")
    @classmethod
    def compiles(cls, pattern: str | None) -> str | None:
        return checked_regex(pattern)


class Curation(Strict):
    """How raw rows become a dataset."""

    max_tokens: int = Field(default=1024, gt=0)
    max_line_mb: float = Field(default=16.0, gt=0)
    min_rows: int = Field(default=50, ge=3)
    max_rejected_share: float = Field(default=0.2, ge=0, le=1)
    validation_share: Fraction = 0.1
    test_share: Fraction = 0.2
    seed: int = 0
    strata: list[StratumRule] = []

    @model_validator(mode="after")
    def something_is_left_to_train_on(self) -> "Curation":
        if self.validation_share + self.test_share >= 0.9:
            raise ValueError("validation_share + test_share must leave at least a tenth for training")
        return self


class EntityFormat(Strict):
    """How an answer spells entities: `[NAME - TYPE, NAME - TYPE]`, or `empty` for none."""

    opening: str = "["
    closing: str = "]"
    item_separator: str = ", "
    type_separator: str = " - "
    types: list[str] = []
    empty: str = ""


class Benchmark(Strict):
    """Rows that every arm answers. The first benchmark of a task decides its verdict."""

    name: str = Field(pattern=NAME_PATTERN)
    split: Literal["test", "validation"] = "test"
    max_rows: int | None = Field(default=None, gt=0)


class Gate(Strict):
    """One condition on the evidence.

    With `threshold` the metric itself is compared; with `max_regression_vs` the paired difference to that arm,
    which may be `margin` worse. `hard` gates block registration unless they pass; `warn` gates only tell.
    """

    metric: str
    slice: str = "all"
    direction: Literal["higher", "lower"] = "higher"
    threshold: float | None = None
    max_regression_vs: Reference | None = None
    margin: float = Field(default=0.0, ge=0)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    min_n: int = Field(default=30, gt=0)
    tier: Literal["hard", "warn"] = "hard"

    @model_validator(mode="after")
    def one_comparison(self) -> "Gate":
        if (self.threshold is None) == (self.max_regression_vs is None):
            raise ValueError("a gate has either threshold or max_regression_vs")
        if self.slice != "all" and not re.match(rf"^({'|'.join(SLICE_FIELDS)})=.+$", self.slice):
            raise ValueError('slice is "all", ' + " or ".join(f'"{field}=…"' for field in SLICE_FIELDS))
        return self


class Evaluation(Strict):
    """What the evidence is made of.

    `metrics` are built-in names (`exact_match`, `token_f1`, `entity_f1`, `valid_format`) or
    `package.module:function` for a function `(answer: str, gold: str) -> float` in [0, 1].
    """

    benchmarks: list[Benchmark] = Field(default=[Benchmark(name="test")], min_length=1)
    metrics: list[str] = Field(default=["exact_match", "token_f1"], min_length=1)
    primary_metric: str = "exact_match"
    output_pattern: str | None = None
    entities: EntityFormat | None = None
    max_new_tokens: int = Field(default=256, gt=0)
    batch_size: int = Field(default=32, gt=0)
    few_shot_examples: int = Field(default=4, gt=0)
    side_by_side: int = Field(default=20, ge=0)
    gates: list[Gate] = []

    @field_validator("output_pattern")
    @classmethod
    def compiles(cls, pattern: str | None) -> str | None:
        return checked_regex(pattern)

    @model_validator(mode="after")
    def names_fit(self) -> "Evaluation":
        builtin = ("exact_match", "token_f1", "entity_f1", "valid_format")
        for metric in self.metrics:
            if metric not in builtin and not re.match(r"^[\w.]+:\w+$", metric):
                raise ValueError(f'metric "{metric}" is not known{nearest(metric, builtin)}')
        for needed, option in (("entity_f1", "entities"), ("valid_format", "output_pattern")):
            if needed in self.metrics and getattr(self, option) is None:
                raise ValueError(f"metric {needed} needs {option}:")
        gates = [(g.metric, g.slice, g.max_regression_vs) for g in self.gates]
        if twice := next((gate for gate in gates if gates.count(gate) > 1), None):
            raise ValueError(f"two gates compare {twice[0]} on {twice[1]} with {twice[2] or 'a threshold'}; keep one")
        for metric in [self.primary_metric, *(g.metric for g in self.gates)]:
            if metric not in self.metrics:
                raise ValueError(f'"{metric}" is not among metrics: {self.metrics}{nearest(metric, self.metrics)}')
        return self


class Cost(Strict):
    """Prices of the place where the task runs; a report multiplies them by what was measured."""

    currency: str = "USD"
    training_hour: float = Field(default=0.0, ge=0)
    serving_hour: float = Field(default=0.0, ge=0)
    input_tokens_per_million: float = Field(default=0.0, ge=0)
    output_tokens_per_million: float = Field(default=0.0, ge=0)
    requests_per_month: int = Field(default=0, ge=0)
    label: float = Field(default=0.0, ge=0)


class Schedule(Strict):
    """When the whole chain runs by itself."""

    cron: Cron
    timezone: str = "UTC"
    enabled: bool = False

    @field_validator("timezone")
    @classmethod
    def is_timezone(cls, name: str) -> str:
        from zoneinfo import available_timezones

        if name not in available_timezones():
            raise ValueError(f'timezone "{name}" is not known{nearest(name, sorted(available_timezones()))}')
        return name


class Task(Strict):
    """A narrow task: its model, its data, its evidence and its limits."""

    name: str = Field(pattern=NAME_PATTERN)
    description: str = Field(min_length=1)
    owners: list[str] = []
    base_model: BaseModelRef
    system_prompt: str
    baseline_prompt: str = Field(min_length=1)
    sources: list[Source] = Field(min_length=1)
    curation: Curation = Curation()
    training: Training = Training()
    launcher: Launcher = Launcher()
    evaluation: Evaluation = Evaluation()
    serving: Serving = Serving()
    rollout: Rollout = Rollout()
    retrieval: Retrieval | None = None
    drift: Drift = Drift()
    judge: Judge | None = None
    labeling: Labeling = Labeling()
    retraining: Retraining = Retraining()
    notifications: Notifications = Notifications()
    cost: Cost = Cost()
    schedule: Schedule | None = None
    path: Path | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def private_training_begins_anew(self) -> "Task":
        if self.retraining.warm_start is not None and any(stage.privacy for stage in self.training.stages):
            raise ValueError(
                "retraining.warm_start: the champion's weights hold rows that training.stages[].privacy would not "
                "cover; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def the_search_can_be_made(self) -> "Task":
        search, warm = self.training.search, self.retraining.warm_start
        if search is None:
            return self
        if reason := self.launcher.against_search(self.launcher.place or "local", search.minutes):
            raise ValueError(reason)
        if warm is not None and search.stage == 0:
            if shape := [name for name in search.adapters if name != "lora_dropout"]:
                raise ValueError(
                    f"training.search.{shape[0]}: with retraining.warm_start training begins at the champion, whose "
                    "shape is given; leave one of them out"
                )
            said = warm.model_dump(include={"num_train_epochs", "learning_rate"}, exclude_none=True)
            if self.training.stages[0].method == "sft" and (twice := sorted(said.keys() & search.values)):
                raise ValueError(
                    f"retraining.warm_start.{twice[0]}: training.search searches for it too; leave one of them out"
                )
        return self

    @model_validator(mode="after")
    def vllm_takes_adapters_only(self) -> "Task":
        if self.training.is_whole and self.serving.engine.kind == "vllm":
            raise ValueError(
                "serving.engine: running vLLM servers take adapters only, and training.stages[0].peft: null trains "
                "whole models; use kind in_process, or kind openai with a server of its own for each model"
            )
        return self

    @field_validator("owners")
    @classmethod
    def owners_are_reachable(cls, owners: list[str]) -> list[str]:
        for owner in owners:
            if not re.match(r"^(team:[\w.-]+|[^@\s]+@[^@\s]+\.[^@\s]+)$", owner):
                raise ValueError(f'owner "{owner}" is neither an e-mail address nor "team:NAME"')
        return owners

    @property
    def folder(self) -> Path:
        """Where relative paths of the task file start."""
        return self.path.parent if self.path else Path.cwd()

    @property
    def adapter_prefix(self) -> str:
        return f"{self.name}/adapters"
