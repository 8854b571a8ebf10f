"""Chance of a private run: the secret of its noise, and the rows that each step draws.

All of it follows from the secret and the number of the step, so a resumed run draws what the killed one would have:
a step that is repeated repeats its rows and its noise, and gives nothing away that it had not given before.
"""

import hashlib
import math
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from finetune_platform.lake import Lake
from finetune_platform.task_training import Stage
from finetune_platform.training.batches import Shape, Step, split_by_tokens

if TYPE_CHECKING:
    import numpy

ROWS_AT_ONCE = 16
"""Rows of a forward pass: each of them has a gradient of its own in memory."""


class Sampling(NamedTuple):
    """How often a run draws, and with what probability each row each time."""

    rate: float
    steps: int

    def expected_rows(self, rows: int) -> float:
        """Of a step, of so many rows in all."""
        return self.rate * rows


def sampling_of(stage: Stage, rows: int) -> Sampling:
    """The rate at which a step draws as many rows as the stage's batch on average, and the steps of its epochs."""
    rate = min(1.0, stage.per_device_train_batch_size * stage.gradient_accumulation_steps / rows)
    return Sampling(rate, max(1, math.ceil(stage.num_train_epochs / rate - 1e-9)))


def noise_key(lake: Lake, run_path: str) -> bytes:
    """The secret of a run, made at its first start and the same at every later one."""
    path = _key_path(run_path)
    lake.put_new(path, secrets.token_bytes(32))
    return lake.get(path)


def forget_noise_key(lake: Lake, run_path: str) -> None:
    """Removes the secret: whoever has it can take the noise out of the weights again."""
    lake.delete(_key_path(run_path))


def poisson_plan(key: bytes, shapes: Sequence[Shape], sampling: Sampling, tokens_per_forward: int) -> list[Step]:
    """Every step of a private run: each draws every row with probability `sampling.rate`, and may draw none.

    Batches of one size, or an order in which every row comes once an epoch, would not have the privacy that is
    accounted for (Mironov, Talwar and Zhang 2019).

    Args:
        key: The run's secret.
        shapes: Of each row.
        sampling: How often and how many.
        tokens_per_forward: As in `plan_steps`.
    """
    steps = []
    for number in range(sampling.steps):
        drawn = (uniforms(key, f"rows/{number}", len(shapes)) < sampling.rate).nonzero()[0].tolist()
        drawn.sort(key=lambda row: shapes[row].tokens)
        parts = split_by_tokens(drawn, shapes, tokens_per_forward)
        batches = [part[at : at + ROWS_AT_ONCE] for part in parts for at in range(0, len(part), ROWS_AT_ONCE)]
        steps.append(Step((number + 1) * sampling.rate, tuple(batches)))
    return steps


def uniforms(key: bytes, purpose: str, count: int) -> "numpy.ndarray":
    """(count,) numbers from [0, 1) with 53 random bits each: SHAKE-256 of the secret and what they are for.

    A generator for simulations would do for the statistics, but its state can be computed from what it gave.
    """
    import numpy

    stream = hashlib.shake_256(key + purpose.encode()).digest(8 * count)
    return (numpy.frombuffer(stream, dtype="<u8") >> numpy.uint64(11)) * 2.0**-53


def normals(key: bytes, purpose: str, count: int) -> "numpy.ndarray":
    """(count,) independent numbers of the standard normal distribution, float32 (Box and Muller 1958)."""
    import numpy

    pairs = (count + 1) // 2
    drawn = uniforms(key, purpose, 2 * pairs)
    radius, angle = numpy.sqrt(-2 * numpy.log1p(-drawn[:pairs])), 2 * math.pi * drawn[pairs:]
    both = numpy.concatenate([radius * numpy.cos(angle), radius * numpy.sin(angle)])
    return both[:count].astype(numpy.float32)


def _key_path(run_path: str) -> str:
    return f"{run_path}/noise.key"
