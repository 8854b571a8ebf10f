"""What a training run says of itself, and the records that it is made of.

What every manifest has belongs in `manifests.py`.
"""

import math
from typing import Any, Literal

from finetune_platform.manifests import Manifest, Record
from finetune_platform.report_page import money
from finetune_platform.rows import Kind


class HostedModel(Record):
    """A model that a provider trained and keeps: `model` is what its endpoint calls it, `job` the job that made it."""

    provider: Literal["openai", "bedrock"]
    model: str
    job: str


class Usage(Record):
    """What a stage of training took.

    `flops` of its steps are counted from the model's shape (`training/work.py`); `seconds` are theirs, validation
    and start-up apart, and those of one of the `processes` that shared the work; with `fsdp` the base model was
    divided among them. `peak_memory_bytes` is the GPU's, or on a CPU the process's, libraries included.
    `utilisation` is the share of the GPU's matrix rate by its data sheet that the counted operations reached.
    `energy_wh` is null where it was not measured over the whole run, and `energy_from` says what was measured, or
    why nothing; `cost` is null where the task names no price.
    """

    device: str
    processes: int = 1
    fsdp: bool = False
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
            "cost": "unknown: cost.training_hour is not set" if self.cost is None else money(self.cost, self.currency),
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

    `replayed_rows` of the `train_rows` had been trained on before; null where training did not begin at an adapter. A
    `hosted` model has no `adapter/`: its weights, its template and what else is empty here are its provider's. `kinds`
    are the kinds of rows that the run read of its dataset, `privacy` what its private stages promise.
    `golden_kept_by_merge` counts the golden prompts that are answered the same once the adapter is merged, in the run's
    number format; null where nothing was merged (`merge_in_words`). `served` is what became of an adapter whose base
    model was held in 4 bits: its golden prompts and their merge are those of the base model as it is served, its losses
    those of training.
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
    def merge_in_words(self) -> str | None:
        """How many golden prompts keep their tokens in a merge, or why that is not known; None: nothing to merge."""
        if self.golden_kept_by_merge is not None:
            return f"{self.golden_kept_by_merge} of {len(self.golden)}"
        divided = self.usage is not None and self.usage.fsdp
        return "not tested: the base model was divided among processes" if divided and not self.is_whole else None

    @property
    def is_whole(self) -> bool:
        """Whether all weights were trained, not an adapter."""
        return self.hosted is None and bool(self.stages) and self.stages[-1].get("peft", {}) is None
