"""The training loop: one step after the other, each told to the caller, who logs, saves and reports.

Nothing here writes a file or prints. Resuming is starting at a later step with everything restored.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from finetune_platform.errors import PermanentError
from finetune_platform.training.batches import Step, split_by_tokens
from finetune_platform.training.engine import Engine
from finetune_platform.training.loss import mean_loss, supervised_loss
from finetune_platform.training.optimizer import AdapterOptimizer
from finetune_platform.training.processes import ALONE, Processes
from finetune_platform.training.random_state import random_state, restore_random_state
from finetune_platform.training.rows import TrainRow


class StepLog(NamedTuple):
    """What one step did: a line of `log.jsonl`.

    Attributes:
        step: Steps done, from 1.
        epoch: Passes over the data done.
        loss: Mean over the step's supervised tokens before the step, in nats a token.
        learning_rate: Of this step.
        grad_norm: Before clipping.
        rows: Rows of the step; `tokens` likewise, template included, padding not.
        seconds: Of the step, validation not included.
        validation_loss: After the step, where it was measured.
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
    model: Any,
    optimizer: AdapterOptimizer,
    rows: Sequence[TrainRow],
    plan: Sequence[Step],
    rates: Sequence[float],
    *,
    validation: Sequence[TrainRow],
    eval_steps: int,
    tokens_per_forward: int,
    max_grad_norm: float,
    engine: Engine,
    start: int = 0,
    stop: Callable[[], bool] = lambda: False,
    processes: Processes = ALONE,
) -> Iterator[StepLog]:
    """Trains from step `start` on; yields after every step, the same at every process.

    Args:
        model: A PEFT model; its trainable weights are the optimizer's.
        optimizer: Moves them.
        rows: What `plan` numbers.
        plan: Every step of the whole run.
        rates: The learning rate of every step.
        validation: Rows of the validation loss, measured every `eval_steps` and at the end; may be empty.
        eval_steps: Steps between two measurements.
        tokens_per_forward: Most tokens of a forward pass without a gradient.
        max_grad_norm: Where gradients are clipped.
        engine: Makes the tensors of a batch.
        start: Steps done before.
        stop: Asked before every forward pass.
        processes: That share the work.

    Raises:
        Stopped: `stop` said so, at this process or another; the step under way is undone.
        PermanentError: A loss or gradient is not finite; nothing has moved in that step.
    """
    shapes = engine.shapes(validation)
    order = sorted(range(len(validation)), key=lambda i: (shapes[i].family, shapes[i].tokens))
    validation_batches = split_by_tokens(order, shapes, tokens_per_forward)[processes.rank :: processes.size]
    inputs = [max(row.inputs, 1) for row in rows]
    model.train()
    for number in range(start, len(plan)):
        step, began = plan[number], time.perf_counter()
        mine = processes.share(step.batches, inputs)
        loss = _gradient(model, optimizer, rows, step, mine, engine, number, stop, processes)
        norm = optimizer.step(rates[number], max_grad_norm) if math.isfinite(loss) else math.nan
        if not math.isfinite(norm):
            raise _not_finite(number + 1, loss, norm, rates[number])
        seconds = time.perf_counter() - began
        tokens = sum(len(rows[i].input_ids) for batch in step.batches for i in batch)
        measure = validation and ((number + 1) % eval_steps == 0 or number + 1 == len(plan))
        measured = mean_loss(model, validation, validation_batches, engine) if measure else None
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
            validation_loss=None if measured is None else processes.sums(measured)[0],
        )


def _gradient(
    model: Any,
    optimizer: AdapterOptimizer,
    rows: Sequence[TrainRow],
    step: Step,
    mine: Sequence[Sequence[int]],
    engine: Engine,
    steps_done: int,
    stop: Callable[[], bool],
    processes: Processes,
) -> float:
    """Leaves the gradient of the step's mean loss in the parameters; returns that loss."""
    before = random_state()
    total_weight = sum(sum(rows[i].weights) for batch in step.batches for i in batch)
    loss, asked = 0.0, False
    for batch in mine:
        if asked := stop():
            break
        part = supervised_loss(model, engine.batch([rows[i] for i in batch])) / total_weight
        part.backward()
        loss += part.item()
    # Here and nowhere else: one that left earlier would leave the others waiting for its sums.
    loss, stopped = processes.sums(loss, asked)
    if stopped:
        optimizer.drop_gradients()
        restore_random_state(before)
        raise Stopped(steps_done)
    processes.add_gradients(optimizer.parameters)
    return loss


def _not_finite(step: int, loss: float, norm: float, rate: float) -> PermanentError:
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
    return PermanentError(
        f"training step {step}: {what} (learning rate {rate:.2g}); the checkpoints before it are kept",
        "lower training.stages[0].learning_rate or max_grad_norm, or set dtype: float32",
    )
