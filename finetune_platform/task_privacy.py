"""Differentially private training in the task file. What it does belongs in `training/private/`."""

from typing import Literal

from pydantic import Field, model_validator

from finetune_platform.strict import Strict


class DifferentialPrivacy(Strict):
    """Opacus' options, by its names: how much noise covers what each row adds to a step.

    Either `target_epsilon` is given, and the noise follows from it, or `noise_multiplier`, and epsilon follows from
    that. `max_grad_norm` is what the gradient of one row is clipped to; the stage's own clipping of the whole gradient
    is then left out.
    """

    target_epsilon: float | None = Field(default=None, gt=0)
    noise_multiplier: float | None = Field(default=None, gt=0)
    delta: float = Field(gt=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    accountant: Literal["prv", "rdp"] = "prv"

    @model_validator(mode="after")
    def noise_is_decided_once(self) -> "DifferentialPrivacy":
        if (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("privacy has either target_epsilon or noise_multiplier")
        return self
