"""The options of a trial: what a stage becomes with them."""

from collections.abc import Mapping
from typing import Any

from finetune_platform.task_search import OF_THE_ADAPTER, Search
from finetune_platform.task_training import Lora, Stage


def with_options(stage: Stage, options: Mapping[str, float]) -> Stage:
    """The stage with searched options in place of its own."""
    own: dict[str, Any] = {name: value for name, value in options.items() if name not in OF_THE_ADAPTER}
    if stage.peft is not None:
        own["peft"] = adapter_with(stage.peft, options)
    return stage.model_copy(update=own)


def adapter_with(peft: Lora, options: Mapping[str, float]) -> Lora:
    """The adapter's shape with searched options; without one of its own `lora_alpha` keeps its ratio to `r`."""
    shape: dict[str, Any] = {name: options[name] for name in OF_THE_ADAPTER if name in options}
    if "lora_alpha" not in shape and shape.get("r", peft.r) != peft.r:
        shape["lora_alpha"] = peft.lora_alpha * shape["r"] / peft.r
    return peft.model_copy(update=shape)


def written(search: Search, stage: Stage) -> dict[str, float] | None:
    """The stage's own values of what is searched for; None where they are not among those to choose from."""
    options: dict[str, float] = {}
    for name, values in search.values.items():
        value = getattr(stage.peft if name in OF_THE_ADAPTER else stage, name)
        within = values[0] <= value <= values[1] if name == "learning_rate" else value in values
        if not within:
            return None
        options[name] = value
    return options


def most_demanding(search: Search, stage: Stage) -> Stage:
    """The stage with what takes most time and memory among what is searched for: epochs and rank."""
    values = search.values
    return with_options(stage, {name: max(values[name]) for name in ("num_train_epochs", "r") if name in values})
