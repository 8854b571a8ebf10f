"""The task file's `training:`: stages, their methods and the adapter's shape, by PEFT's and TRL's names.

What a stage leads to belongs in `training/`; private training has its options in `task_privacy.py`, a search for
options in `task_search.py`.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from finetune_platform.rows import Kind
from finetune_platform.strict import Strict
from finetune_platform.task_privacy import DifferentialPrivacy
from finetune_platform.task_search import Search


class Lora(Strict):
    """PEFT's LoraConfig, by its own names."""

    r: int = Field(default=16, gt=0)
    lora_alpha: float = Field(default=32, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False


class Quantization(Strict):
    """How the frozen base model is held in training, by the names of transformers' BitsAndBytesConfig.

    Defaults are those of QLoRA (Dettmers et al. 2023), not transformers'. What is computed with is the stage's `dtype`.
    """

    load_in_4bit: Literal[True]
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    bnb_4bit_use_double_quant: bool = True

    @property
    def in_words(self) -> str:
        return f"{self.bnb_4bit_quant_type}{', scales quantised too' if self.bnb_4bit_use_double_quant else ''}"


Method = Literal["cpt", "sft", "dpo", "orpo", "kto"]

KIND_OF: dict[Method, Kind] = {
    "cpt": "text",
    "sft": "sft",
    "dpo": "preference",
    "orpo": "preference",
    "kto": "unpaired_preference",
}
"""The rows of a dataset that each method trains on."""


class Stage(Strict):
    """One training stage, by TRL's names: `cpt` on documents, `sft` on answers, `dpo`, `orpo`, `kto` on preferences.

    `save_steps` and `eval_steps` count optimizer steps; `max_length` counts tokens of prompt and answer. `peft: null`
    trains all weights of the base model instead of an adapter. `dtype: auto` is bfloat16 where the hardware multiplies
    it natively, else float32. `beta` is for preferences, `desirable_weight` and `undesirable_weight` for `kto`.
    """

    method: Method = "sft"
    peft: Lora | None = Lora()
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
    beta: float = Field(default=0.1, gt=0)
    desirable_weight: float = Field(default=1.0, gt=0)
    undesirable_weight: float = Field(default=1.0, gt=0)
    quantization: Quantization | None = None
    privacy: DifferentialPrivacy | None = None

    @model_validator(mode="after")
    def privacy_is_of_rows(self) -> "Stage":
        if self.privacy is not None:
            if self.method not in ("cpt", "sft"):
                raise ValueError(
                    f"privacy: is for the methods cpt and sft; {self.method} compares rows with each other"
                )
            if self.peft is None:
                raise ValueError(
                    "privacy: is for adapters: a gradient for each row of all weights takes the model's memory for "
                    "every row; leave peft: null out"
                )
            if self.peft.use_dora:
                raise ValueError("privacy: with use_dora the gradient of one row is not known; leave one of them out")
        return self

    @model_validator(mode="after")
    def only_what_is_frozen_is_quantised(self) -> "Stage":
        if self.quantization is not None and self.peft is None:
            raise ValueError(
                "quantization: holds the weights that an adapter leaves alone, and with peft: null none are; leave one "
                "of them out"
            )
        return self

    @property
    def kind(self) -> Kind:
        """The rows of a dataset that it trains on."""
        return KIND_OF[self.method]

    @property
    def is_whole(self) -> bool:
        """Whether all weights are trained, not an adapter."""
        return self.peft is None


class Training(Strict):
    """How the adapter is trained: the stages in order, by how many `processes` together; `auto`: one for every GPU.

    With `fsdp` each of them holds a part of the base model instead of all of it. With a `search` the options of one
    stage are chosen by trials before it begins.
    """

    stages: list[Stage] = Field(default=[Stage()], min_length=1)
    processes: Literal["auto"] | Annotated[int, Field(gt=0)] = "auto"
    fsdp: bool = False
    search: Search | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all weights are trained, not an adapter."""
        return self.stages[0].is_whole

    @model_validator(mode="after")
    def one_adapter(self) -> "Training":
        for number, stage in enumerate(self.stages[1:], 1):
            if stage.peft != self.stages[0].peft:
                raise ValueError(
                    f"stages[{number}].peft differs from stages[0].peft: stages go on with the same weights, those of "
                    "one adapter or (null) all, so write the same in every stage"
                )
            if stage.quantization != self.stages[0].quantization:
                raise ValueError(
                    f"stages[{number}].quantization differs from stages[0].quantization: the adapter would learn "
                    "beside one base model and go on beside another, so write the same in all"
                )
        return self

    @model_validator(mode="after")
    def what_is_divided_can_be(self) -> "Training":
        if not self.fsdp:
            return self
        if self.processes == 1:
            raise ValueError(
                "fsdp: divides the base model among processes, and processes is 1; write how many, or `auto` for one "
                "on every GPU, or leave fsdp out"
            )
        for number, stage in enumerate(self.stages):
            if stage.quantization is not None:
                raise ValueError(
                    f"fsdp: weights in 4 bits are not divided, and stages[{number}].quantization holds them so; leave "
                    "one of them out"
                )
            if stage.privacy is not None:
                raise ValueError(
                    f"fsdp: the gradient of each row, which stages[{number}].privacy asks for, is made of weights that "
                    "are whole; leave one of them out"
                )
        return self

    @model_validator(mode="after")
    def private_rows_are_read_once(self) -> "Training":
        kinds = [stage.kind for stage in self.stages]
        for number, stage in enumerate(self.stages):
            if stage.privacy is not None and kinds.count(stage.kind) > 1:
                raise ValueError(
                    f"stages[{number}].privacy: another stage trains on the same rows of kind {stage.kind}, and what "
                    "that takes from them is not covered; let one stage alone read them"
                )
        return self

    @model_validator(mode="after")
    def the_searched_stage_is_there(self) -> "Training":
        if self.search is None:
            return self
        number = self.search.stage
        if number >= len(self.stages):
            raise ValueError(
                f"search.stage is {number}, and the last stage is {len(self.stages) - 1}: they count from 0"
            )
        if self.stages[number].privacy is not None:
            raise ValueError(
                f"search: every trial would read the rows of stages[{number}], and its privacy does not cover that; "
                "leave one of them out"
            )
        if self.search.adapters and self.stages[number].peft is None:
            raise ValueError(
                f"search.{self.search.adapters[0]}: stages[{number}].peft: null has no adapter; leave one of them out"
            )
        if number > 0 and self.search.adapters:
            raise ValueError(
                f"search.{self.search.adapters[0]}: stages[{number}] trains the adapter of the stage before on, whose "
                "shape is given; search for it in stage 0"
            )
        return self
