"""The training loop: one step after the other, each told to the caller, who logs, saves and reports.

Nothing here writes a file or prints. Resuming is starting at a later step with everything restored.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from finetune_platform.errors import PermanentError
from finetune_platform.training.batches import Step, by_likeness, split_by_tokens
from finetune_platform.training.forward import Forward
from finetune_platform.training.objectives import Objective
from finetune_platform.training.optimizer import AdapterOptimizer
from finetune_platform.training.private.gradients import PrivateGradient
from finetune_platform.training.processes import ALONE, Pass, Processes
from finetune_platform.training.random_state import random_state, restore_random_state


class StepLog(NamedTuple):
    """What one step did: a line of `log.jsonl`.

    Attributes:
        step: Steps done, from 1.
        epoch: Passes over the data done.
        loss: Mean over the step's supervised tokens before the step, in nats a token; 0 where a private step drew no
            row.
        learning_rate: Of this step.
        grad_norm: Before clipping.
        rows: Rows of the step; `tokens` likewise, template included, padding not.
        seconds: Of the step, validation not included.
        validation_loss: After the step, where it was measured.
        measures: Of preferences: `reward_margin`, `reward_accuracy`, means over the step's units before the step; with
            `validation_` before the name, of the validation units after it.
    """

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    rows: int
    tokens: int
    seconds: float
    rows_per_second: float
    tokens_per_second: float
    validation_loss: float | None = None
    measures: dict[str, float] = {}

    def line(self) -> str:
        return json.dumps(self._asdict(), allow_nan=False)

    @classmethod
    def from_line(cls, line: str) -> "StepLog":
        return cls(**json.loads(line))


class Stopped(Exception):
    """Training was asked to stop: weights, optimizer and random states are those after `steps_done` steps."""

    def __init__(self, steps_done: int) -> None:
        super().__init__(f"stopped after step {steps_done}")
        self.steps_done = steps_done


def train_steps(
    forward: Forward,
    optimizer: AdapterOptimizer,
    objective: Objective,
    plan: Sequence[Step],
    rates: Sequence[float],
    *,
    held_out: Objective | None,
    eval_steps: int,
    tokens_per_forward: int,
    max_grad_norm: float,
    start: int = 0,
    stop: Callable[[], bool] = lambda: False,
    processes: Processes = ALONE,
    private: PrivateGradient | None = None,
) -> Iterator[StepLog]:
    """Trains from step `start` on; yields after every step, the same at every process.

    Args:
        forward: A PEFT model, whose trainable weights are the optimizer's, and the way through it.
        optimizer: Moves them.
        objective: What is made smaller; `plan` numbers its units.
        plan: Every step of the whole run.
        rates: The learning rate of every step.
        held_out: Of the validation loss, measured every `eval_steps` and at the end; None for none.
        eval_steps: Steps between two measurements.
        tokens_per_forward: Most tokens of a forward pass without a gradient.
        max_grad_norm: Where gradients are clipped; a private one, whose rows were, no more.
        start: Steps done before.
        stop: Asked before every forward pass.
        processes: That share the work.
        private: Computes the gradient instead, where training is private.

    Raises:
        Stopped: `stop` said so, at this process or another; the step under way is undone.
        PermanentError: A loss or gradient is not finite; nothing has moved in that step.
    """
    batches = [] if held_out is None else sorted_batches(held_out, tokens_per_forward)
    inputs = [sum(max(row.inputs, 1) for row in objective.rows([unit])) for unit in range(len(objective.shapes))]
    forward.model.train()
    for number in range(start, len(plan)):
        step, began = plan[number], time.perf_counter()
        mine = processes.share(step.batches, inputs)
        loss, measures = _gradient(forward, optimizer, objective, step, mine, number, stop, processes, private)
        norm = (
            optimizer.step(rates[number], max_grad_norm if private is None else math.inf)
            if math.isfinite(loss)
            else math.nan
        )
        if not math.isfinite(norm):
            raise _not_finite(number + 1, loss, norm, rates[number])
        seconds = time.perf_counter() - began
        tokens = sum(len(row.input_ids) for batch in step.batches for row in objective.rows(batch))
        measured = None
        if held_out is not None and ((number + 1) % eval_steps == 0 or number + 1 == len(plan)):
            measured = mean_loss(forward, held_out, batches, processes)
        yield StepLog(
            step=number + 1,
            epoch=round(step.epoch, 4),
            loss=loss,
            learning_rate=rates[number],
            grad_norm=norm,
            rows=step.rows,
            tokens=tokens,
            seconds=round(seconds, 4),
            rows_per_second=round(step.rows / seconds, 2),
            tokens_per_second=round(tokens / seconds, 1),
            validation_loss=None if measured is None else measured[0],
            measures={**measures, **({f"validation_{k}": v for k, v in measured[1].items()} if measured else {})},
        )


def _gradient(
    forward: Forward,
    optimizer: AdapterOptimizer,
    objective: Objective,
    step: Step,
    mine: Sequence[Pass],
    steps_done: int,
    stop: Callable[[], bool],
    processes: Processes,
    private: PrivateGradient | None,
) -> tuple[float, dict[str, float]]:
    """Leaves the gradient of the step's mean loss in the parameters; returns that loss and the measures."""
    before = random_state()
    weight = sum(objective.weight(batch) for batch in step.batches) or 1.0
    sums, asked = Counter[str](), False
    for units, counts in mine:
        if asked := processes.agree(stop()):
            break
        if private is None:
            part = objective.loss(forward, units)
            # What counts nothing goes backward too: the others gather their layers with this process.
            (part.total / weight if counts else part.total * 0.0).backward()
        else:
            part = private.add(objective.rows(units))
        if counts:
            sums.update({"loss": part.total.item(), **part.measures})
    # Here and nowhere else: one that left earlier would leave the others waiting for its sums.
    names = ("loss", *objective.measured)
    *values, stopped = processes.sums(*(sums[name] / weight for name in names), asked)
    if stopped:
        optimizer.drop_gradients()
        if private is not None:
            private.drop()
        restore_random_state(before)
        raise Stopped(steps_done)
    if private is not None:
        private.finish(steps_done, processes)
    elif not optimizer.divided:  # Those of divided weights were added up on their way back.
        processes.add_gradients(optimizer.parameters)
    loss, *measures = values
    return loss, dict(zip(objective.measured, measures, strict=True))


def sorted_batches(objective: Objective, tokens_per_forward: int) -> list[tuple[int, ...]]:
    """All units in forward passes of about equal rows."""
    shapes = objective.shapes
    return split_by_tokens(by_likeness(range(len(shapes)), shapes), shapes, tokens_per_forward)


def mean_loss(
    forward: Forward, objective: Objective, batches: Sequence[Sequence[int]], processes: Processes = ALONE
) -> tuple[float, dict[str, float]]:
    """The mean loss over all units without a gradient, and the means of what is measured beside it.

    Args:
        forward: The model and the way through it.
        objective: What is measured.
        batches: All units.
        processes: That share the work.
    """
    import torch

    sums, was_training = Counter[str](), forward.model.training
    forward.model.eval()
    with torch.no_grad():
        for units, counts in processes.deal(batches):
            part = objective.loss(forward, units)
            if counts:
                sums.update({"loss": part.total.item(), **part.measures})
    forward.model.train(was_training)
    weight = objective.weight(range(len(objective.shapes)))
    loss, *measures = processes.sums(*(sums[name] / weight for name in ("loss", *objective.measured)))
    return loss, dict(zip(objective.measured, measures, strict=True))


def _not_finite(step: int, loss: float, norm: float, rate: float) -> PermanentError:
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
    return PermanentError(
        f"training step {step}: {what} (learning rate {rate:.2g}); the checkpoints before it are kept",
        "lower training.stages[0].learning_rate or max_grad_norm, or set dtype: float32",
    )
