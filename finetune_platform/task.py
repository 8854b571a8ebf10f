"""The task file: one strict pydantic model with everything a user decides about one task.

Defaults stand here and nowhere else. Reading YAML and telling a user where it is wrong belongs here too;
what a decision leads to belongs to the library package that acts on it. Training options carry PEFT's and
TRL's names, chat fields OpenAI's.
"""

import difflib
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from finetune_platform.errors import BadInput

TASK_FILE_SUFFIXES = (".yaml", ".yml")
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"

SourceFormat = Literal["messages", "prompt_completion", "csv", "input_ideal"]
Reference = Literal["champion", "prompted", "few_shot", "trivial"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Strict(BaseModel):
    """A part of the task file: unknown keys are errors, values are not coerced across types."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BaseModelRef(Strict):
    """Where the base model comes from.

    `uri` is one of: a hub id (`org/name`), a local folder (`./models/x`, `/models/x`), a lake or bucket URL
    (`s3://…`, or `lake:base_models/x` inside LAKE_URL), or a file in a Python package
    (`package://NAME==VERSION/path/in/wheel.gguf`, with `sha256` of the wheel).
    """

    uri: str
    revision: str | None = None
    sha256: Sha256 | None = None
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")

    @model_validator(mode="after")
    def packages_are_pinned(self) -> "BaseModelRef":
        if self.uri.startswith("package://") and self.sha256 is None:
            raise ValueError("a package:// model needs sha256, the hash of its wheel")
        return self


class CsvColumns(Strict):
    """Which CSV column holds what. `system` overrides the task's system prompt for that row."""

    prompt: str
    completion: str
    system: str | None = None
    task_type: str | None = None
    difficulty: str | None = None
    group: str | None = None


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
        return _checked_regex(pattern)


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


class Lora(Strict):
    """PEFT's LoraConfig, by its own names."""

    r: int = Field(default=16, gt=0)
    lora_alpha: float = Field(default=32, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False


class Stage(Strict):
    """One training stage, by TRL's SFTConfig names.

    `save_steps` and `eval_steps` count optimizer steps; `max_length` counts tokens of prompt and answer.
    `dtype: auto` is bfloat16 where the hardware multiplies it natively, else float32.
    """

    method: Literal["sft"] = "sft"
    peft: Lora = Lora()
    num_train_epochs: float = Field(default=2.0, gt=0)
    per_device_train_batch_size: int = Field(default=16, gt=0)
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=1024, gt=0)
    save_steps: int = Field(default=20, gt=0)
    save_total_limit: int = Field(default=2, gt=0)
    eval_steps: int = Field(default=50, gt=0)
    seed: int = 0
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"


class Training(Strict):
    """How the adapter is trained: the stages in order."""

    stages: list[Stage] = Field(default=[Stage()], min_length=1, max_length=1)


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
        if self.slice != "all" and not re.match(r"^(task_type|difficulty)=.+$", self.slice):
            raise ValueError('slice is "all", "task_type=…" or "difficulty=…"')
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
        return _checked_regex(pattern)

    @model_validator(mode="after")
    def names_fit(self) -> "Evaluation":
        builtin = ("exact_match", "token_f1", "entity_f1", "valid_format")
        for metric in self.metrics:
            if metric not in builtin and not re.match(r"^[\w.]+:\w+$", metric):
                raise ValueError(f'metric "{metric}" is not known{_nearest(metric, builtin)}')
        for needed, option in (("entity_f1", "entities"), ("valid_format", "output_pattern")):
            if needed in self.metrics and getattr(self, option) is None:
                raise ValueError(f"metric {needed} needs {option}:")
        gates = [(g.metric, g.slice, g.max_regression_vs) for g in self.gates]
        if twice := next((gate for gate in gates if gates.count(gate) > 1), None):
            raise ValueError(f"two gates compare {twice[0]} on {twice[1]} with {twice[2] or 'a threshold'}; keep one")
        for metric in [self.primary_metric, *(g.metric for g in self.gates)]:
            if metric not in self.metrics:
                raise ValueError(f'"{metric}" is not among metrics: {self.metrics}{_nearest(metric, self.metrics)}')
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

    cron: str
    timezone: str = "UTC"
    enabled: bool = False

    @field_validator("cron")
    @classmethod
    def is_cron(cls, cron: str) -> str:
        if len(cron.split()) != 5:
            raise ValueError(f'"{cron}" is not a five-field cron expression such as "0 3 * * 1"')
        return cron

    @field_validator("timezone")
    @classmethod
    def is_timezone(cls, name: str) -> str:
        from zoneinfo import available_timezones

        if name not in available_timezones():
            raise ValueError(f'timezone "{name}" is not known{_nearest(name, sorted(available_timezones()))}')
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
    evaluation: Evaluation = Evaluation()
    cost: Cost = Cost()
    schedule: Schedule | None = None
    path: Path | None = Field(default=None, exclude=True)

    @field_validator("base_model", mode="before")
    @classmethod
    def a_bare_uri_is_enough(cls, value: Any) -> Any:
        return {"uri": value} if isinstance(value, str) else value

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


def load_task(path: Path) -> Task:
    """Reads and checks one task file.

    Raises:
        BadInput: With one line `FILE:LINE: FIELD: what is wrong` a problem, all problems at once.
    """
    text = _read_text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise BadInput(f"{place}: not YAML: {getattr(error, 'problem', error)}", "fix the syntax there") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path}:1: a task file is a mapping of keys", "start from `finetune init NAME`")
    if "path" in values:
        raise BadInput(f"{path}: path: unknown key", "remove it")
    try:
        return Task.model_validate({**values, "path": path.resolve()})
    except ValidationError as error:
        lines = [_explain(path, node, problem) for problem in error.errors()]
        raise BadInput("\n".join(lines), "change these keys; `finetune init NAME` writes a commented file") from error


def find_tasks(folder: Path) -> list[Task]:
    """Every task file in `folder`, by name; no folder means no task.

    Raises:
        BadInput: A file is wrong, or two files name the same task.
    """
    files = sorted(p for p in folder.glob("*") if p.suffix in TASK_FILE_SUFFIXES) if folder.is_dir() else []
    tasks: dict[str, Task] = {}
    for path in files:
        task = load_task(path)
        if task.name in tasks:
            raise BadInput(f"{path}: name: {task.name} is taken by {tasks[task.name].path}", "name one differently")
        tasks[task.name] = task
    return [tasks[name] for name in sorted(tasks)]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = _nearest(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise BadInput(f"{path}: no such file{near}", "`finetune init NAME` writes one") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: byte {error.start} is not UTF-8", "save the file as UTF-8") from error


def _explain(path: Path, node: yaml.Node | None, problem: Any) -> str:
    loc = problem["loc"]
    line = _line_of(node, loc)
    field = ".".join(str(part) for part in loc) or "task"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = f"unknown key{_nearest(str(loc[-1]), _keys_at(loc[:-1]))}"
    elif problem["type"] == "missing":
        message = "this key is missing"
    elif problem["type"] not in ("value_error", "literal_error"):
        message = f"{message} (it is {problem['input']!r})"
    elif problem["type"] == "literal_error":
        expected = re.findall(r"'([^']*)'", message)
        message = f"{problem['input']!r} is not one of {', '.join(expected)}{_nearest(str(problem['input']), expected)}"
    return f"{path}:{line}: {field}: {message}"


def _line_of(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    """Line of the deepest part of `loc` that the file has, counted from 1."""
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    model: Any = Task
    for part in loc:
        if isinstance(part, str) and part in getattr(model, "model_fields", {}):
            model = _model_in(model.model_fields[part].annotation)
    return [k for k in getattr(model, "model_fields", {}) if k != "path"]


def _model_in(annotation: Any) -> Any:
    """The model class inside `list[X]`, `X | None` and the like."""
    if typing.get_origin(annotation) in (list, typing.Union, types.UnionType):
        for inner in typing.get_args(annotation):
            if hasattr(_model_in(inner), "model_fields"):
                return _model_in(inner)
    return annotation


def _nearest(word: str, known: typing.Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def _checked_regex(pattern: str | None) -> str | None:
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
    return pattern
