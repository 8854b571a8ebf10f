"""The task file's `training.search:`: which of a stage's options are searched for, among what, and for how long.

How they are searched for belongs in `training/search/`.
"""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, model_validator

from finetune_platform.strict import Strict

T = TypeVar("T")
Positive = Annotated[float, Field(gt=0)]

OF_THE_ADAPTER = ("r", "lora_alpha", "lora_dropout")
"""Searched options of a stage's `peft`; the others are the stage's own."""


def _rising(bounds: list[float]) -> list[float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("the lowest value comes first, then the highest")
    return bounds


def _different(values: list[T]) -> list[T]:
    if len(set(values)) < len(values):
        raise ValueError("one value stands there twice")
    return values


Bounds = Annotated[list[Positive], Field(min_length=2, max_length=2), AfterValidator(_rising)]
"""From the first to the second, log-uniform."""

Count = Annotated[int, Field(gt=0)]


class Search(Strict):
    """Chooses options of one stage by trials on the training split, measured on the validation split.

    `minutes` are those of all trials together. Of each option: the values to choose from; of `learning_rate` the lowest
    and the highest. What is left out stays as the stage has it; `lora_alpha` then keeps its ratio to `r`. `stage`
    counts from 0.
    """

    minutes: float = Field(gt=0)
    trials: int = Field(default=16, ge=2)
    stage: int = Field(default=0, ge=0)
    seed: int = 0
    learning_rate: Bounds | None = None
    num_train_epochs: Annotated[list[Positive], Field(min_length=2), AfterValidator(_different)] | None = None
    per_device_train_batch_size: Annotated[list[Count], Field(min_length=2), AfterValidator(_different)] | None = None
    weight_decay: (
        Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=2), AfterValidator(_different)] | None
    ) = None
    r: Annotated[list[Count], Field(min_length=2), AfterValidator(_different)] | None = None
    lora_alpha: Annotated[list[Positive], Field(min_length=2), AfterValidator(_different)] | None = None
    lora_dropout: (
        Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2), AfterValidator(_different)] | None
    ) = None

    @property
    def values(self) -> dict[str, list[float]]:
        """What is searched for, by the stage's name of it, and among what."""
        limits = ("minutes", "trials", "stage", "seed")
        return {k: v for k, v in self.model_dump().items() if k not in limits and v is not None}

    @property
    def adapters(self) -> list[str]:
        """What is searched for of the adapter's shape."""
        return [name for name in OF_THE_ADAPTER if name in self.values]

    @model_validator(mode="after")
    def something_is_searched_for(self) -> "Search":
        if not self.values:
            raise ValueError("names no option to search for, such as `learning_rate: [5.0e-5, 1.0e-3]`")
        return self
