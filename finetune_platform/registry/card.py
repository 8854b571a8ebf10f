"""The model card: what an adapter is, what it was made from, how good it is and how to load it.

Words and Markdown only; every figure comes from a manifest.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_platform.manifests import AdapterManifest, DatasetManifest, EvaluationManifest, GateResult, RawManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.task import Task

PEFT_LOADS = """import peft, transformers
tokenizer = transformers.AutoTokenizer.from_pretrained("BUNDLE")
base = transformers.AutoModelForCausalLM.from_pretrained("BASE", dtype="bfloat16")
model = peft.PeftModel.from_pretrained(base, "BUNDLE")"""
WHOLE_LOADS = """import transformers
tokenizer = transformers.AutoTokenizer.from_pretrained("BUNDLE")
model = transformers.AutoModelForCausalLM.from_pretrained("BUNDLE", dtype="auto")"""


def model_card(
    task: Task,
    adapter: AdapterManifest,
    evaluation: EvaluationManifest,
    training: TrainingManifest,
    dataset: DatasetManifest,
    raw: RawManifest,
    url: str,
) -> str:
    """The card of one bundle, in Markdown.

    Args:
        url: Where the bundle will stand.
    """
    sections = [
        f"# {task.name}: {adapter.artifact_id}\n\n{task.description}\n\n**{evaluation.headline}**",
        _model(task, training),
        _data(dataset, raw),
        _training(training),
        _evaluation(evaluation),
        _limits(evaluation),
        _loading(adapter, task, url),
        _lineage(adapter),
    ]
    return "\n\n".join(sections) + "\n"


def _model(task: Task, training: TrainingManifest) -> str:
    kind, use = "A PEFT adapter of", "It works with that base model only."
    if training.is_whole:
        kind, use = "A whole model: all weights trained, from", "It needs no base model beside it."
    return f"""## Model

{kind} `{training.base_model}` (revision `{training.base_model_revision}`, from `{task.base_model.uri}`).
{use} The base model's licence applies to it and to anything made with it; the licences
of the training data are those of the sources below.

System prompt, trained and to be served: `{training.system_prompt}`"""


def _data(dataset: DatasetManifest, raw: RawManifest) -> str:
    splits = [
        (name, split.rows_in_words, f"{split.groups:,}", split.sha256[:12]) for name, split in dataset.splits.items()
    ]
    sources = [(f"`{s.uri}`", s.format, f"{s.rows:,}", f"{s.rejected:,}", s.sha256[:12]) for s in raw.sources]
    return "\n\n".join(
        [
            "## Data",
            f"Dataset `{dataset.artifact_id}`: {sum(s.rows for s in dataset.splits.values()):,} rows kept of "
            f"{raw.rows:,} read, {dataset.rejected:,} set aside with their reasons (`rejected.parquet`).",
            _table(("split", "rows", "groups", "sha256"), splits),
            _table(("source", "format", "rows", "rejected", "sha256"), sources),
        ]
    )


def _training(training: TrainingManifest) -> str:
    final = "" if training.validation_loss is None else f", validation {training.validation_loss:.4f}"
    stages = "\n".join(f"- {_options(stage)}" for stage in training.stages)
    began = ""
    if begins_at := training.parents.get("warm_start"):
        began = (
            f"It began at the weights of `{begins_at}`; {training.replayed_rows:,} rows had been trained on before.\n"
        )
    if training.searched is not None:
        began += f"Search {training.searched.in_words}.\n"
    took = ""
    if training.usage is not None:
        took = "".join(f"{name[0].upper()}{name[1:]}: {told}.\n" for name, told in training.usage.in_words().items())
    if training.merge_in_words is not None:
        took += f"Golden prompts that keep their tokens in a merge: {training.merge_in_words}.\n"
    if training.served_in_words is not None:
        took += (
            "The base model was held in 4 bits in training; the adapter is evaluated and served beside the whole one: "
            f"{training.served_in_words}.\n"
        )
    return f"""## Training

{training.train_rows:,} rows, {training.supervised_tokens:,} supervised tokens, {training.steps:,} steps,
{training.trainable_parameters:,} trainable parameters, {training.train_seconds:.0f} s
({training.rows_per_second:.1f} rows/s) on {training.device}.
{took}Loss {training.first_loss:.4f} → {training.final_loss:.4f}{final}.
{began}
{stages}{_privacy(training)}"""


def _privacy(training: TrainingManifest) -> str:
    lines = [
        f"- (ε, δ) = {one.in_words}: noise {one.noise_multiplier:.3f}, gradients of rows "
        f"clipped to {one.max_grad_norm:g}, {one.steps:,} steps that drew each row with probability "
        f"{one.sample_rate:.4f}, {one.accountant} accountant; the largest group has {one.largest_group} rows"
        for one in training.privacy
    ]
    head = "\n\nDifferentially private; the losses above, and rows of other kinds and splits, are not covered:\n\n"
    return head + "\n".join(lines) if lines else ""


def _evaluation(evaluation: EvaluationManifest) -> str:
    metrics = list(dict.fromkeys(metric for arm in evaluation.summary.values() for metric in arm))
    rows = [
        (arm, *(_interval(**values[m]) if m in values else "" for m in metrics))
        for arm, values in evaluation.summary.items()
    ]
    gates = [_gate_row(gate) for gate in evaluation.gates]
    return "\n\n".join(
        [
            "## Evaluation",
            f"Report `{evaluation.artifact_id}`, verdict **{evaluation.verdict}**. Values with 95% intervals.",
            _table(("arm", *metrics), rows),
            _table(("gate", "tier", "verdict", "observed", "limit", "n", "reason"), gates),
        ]
    )


def _limits(evaluation: EvaluationManifest) -> str:
    open_gates = [g for g in evaluation.gates if g.verdict in ("fail", "inconclusive")]
    lines = [f"- {g.name}: {g.verdict}: {g.reason}" for g in open_gates] or ["- No gate failed or stayed open."]
    return "\n".join(
        [
            "## Limits",
            "",
            "- Measured on held-out rows of the same sources; other text may give other figures.",
            "- Trained for this one task and its answer format; not a general assistant.",
            *lines,
        ]
    )


def _loading(adapter: AdapterManifest, task: Task, url: str) -> str:
    name = f"{task.name}-{adapter.artifact_id}"
    copied, loaded = f"this folder (`{url}`) to `BUNDLE` and the base model to `BASE`", PEFT_LOADS
    vllm = f"--enable-lora --lora-modules {name}=BUNDLE"
    if adapter.is_whole:
        copied, loaded = f"this folder (`{url}`) to `BUNDLE`", WHOLE_LOADS
        vllm = f"--model BUNDLE --served-model-name {name}"
    return f"""## Load and serve

Copy {copied}, then:

```python
{loaded}
options = transformers.GenerationConfig.from_pretrained("BUNDLE")
```

Open every conversation with the system prompt above, apply the chat template with `add_generation_prompt=True` and
pass `generation_config=options` to `generate`. vLLM takes the folder as it is:
`{vllm}`."""


def _lineage(adapter: AdapterManifest) -> str:
    steps = [(asset, f"`{identifier}`") for asset, identifier in adapter.parents.items()]
    return "\n\n".join(
        [
            "## Lineage",
            _table(("made from", "id"), steps),
            f"`finetune lineage {adapter.artifact_id} --rows` lists the rows behind it, each with file and line.",
        ]
    )


def _options(values: Mapping[str, Any]) -> str:
    """`r=16, lora_alpha=32` for the options of a stage, those of its parts in brackets."""
    return ", ".join(f"{k} ({_options(v)})" if isinstance(v, Mapping) else f"{k}={v}" for k, v in values.items())


def _interval(value: float, lower: float, upper: float) -> str:
    return f"{value:.3f} [{lower:.3f}, {upper:.3f}]"


def _gate_row(gate: GateResult) -> tuple[str, ...]:
    observed = ""
    if gate.observed is not None:
        known = gate.lower is not None and gate.upper is not None
        observed = f"{gate.observed:+.3f}" if gate.versus else f"{gate.observed:.3f}"
        observed += f" [{gate.lower:.3f}, {gate.upper:.3f}]" if known else ""
    return (gate.name, gate.tier, gate.verdict, observed, f"{gate.limit:.3f}", f"{gate.n:,}", gate.reason)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
