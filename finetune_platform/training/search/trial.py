"""One trial: the stage trained with other options, measured at rungs, with nothing kept but what was measured.

Which options and whether it is behind is decided by who asks; steps, losses and their order are those of the stage's
own run, so that a whole trial has the loss which that run will have.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finetune_platform.errors import PermanentError
from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.lake import Lake
from finetune_platform.task_training import Stage
from finetune_platform.training.capacity import TOKENS_PER_FORWARD
from finetune_platform.training.divergence import LossWatch
from finetune_platform.training.loop import StepLog, mean_loss, sorted_batches, train_steps
from finetune_platform.training.optimizer import learning_rates, optimizer_of
from finetune_platform.training.prepare import Data, Prepared, load, plan_of
from finetune_platform.training.processes import Processes
from finetune_platform.training.random_state import seed_everything
from finetune_platform.training.search.proposals import RUNGS


class Ground(NamedTuple):
    """What all trials of a search share.

    Attributes:
        base: The model, which each trial loads anew.
        tokenizer: Of the model.
        data: Tokenised and proven; the plan is each trial's own.
        device: `cuda` or `cpu`.
        begin: Puts the weights into the model at which training begins.
        lake: As `load` takes it; likewise `work_dir`.
    """

    base: ResolvedModel
    tokenizer: Any
    data: Data
    device: str
    begin: Callable[[Any], None]
    lake: Lake
    work_dir: Path


def rungs_of(steps: int) -> list[int]:
    """The steps after which a trial of so many is measured; those of a short trial may fall together."""
    return [math.ceil(steps * rung / RUNGS[-1]) for rung in RUNGS]


def run_trial(
    ground: Ground,
    stage: Stage,
    *,
    planned: Callable[[int], None],
    told: Callable[[StepLog], None],
    behind: Callable[[Sequence[float]], bool],
    stop: Callable[[], bool],
    processes: Processes,
) -> list[float]:
    """Trains to the end, or until it is behind.

    Args:
        ground: What it shares with others.
        stage: With the options to try.
        planned: Told how many steps there are.
        told: Told of every step, with the validation loss where it was measured.
        behind: Asked at each rung but the last, at the first process: given the validation loss at each rung so far,
            whether to end here.
        stop: Asked before every forward pass.
        processes: That train together.

    Returns:
        The validation loss at each rung that it reached: at all where it was trained to the end.

    Raises:
        Stopped: `stop` said so, at this process or another.
        PermanentError: The trial failed, at every process alike.
    """
    data = ground.data._replace(plan=plan_of(stage, ground.data.objective, ground.device))
    held_out, plan = data.held_out, data.plan
    assert held_out is not None
    planned(len(plan))
    prepared = _load(ground, stage, data, processes)
    optimizer = optimizer_of(prepared.model, stage, processes)
    seed_everything(stage.seed + processes.rank)
    steps = train_steps(
        prepared.forward,
        optimizer,
        data.objective,
        plan,
        learning_rates(len(plan), stage.learning_rate, stage.lr_scheduler_type, stage.warmup_ratio),
        held_out=held_out,
        eval_steps=len(plan),
        tokens_per_forward=TOKENS_PER_FORWARD[ground.device],
        max_grad_norm=stage.max_grad_norm,
        stop=stop,
        processes=processes,
    )
    batches = sorted_batches(held_out, TOKENS_PER_FORWARD[ground.device])
    rungs, measured, watch = rungs_of(len(plan)), list[float](), LossWatch()
    for entry in steps:
        watch.see(entry.loss)
        due = rungs.count(entry.step)
        if due and entry.validation_loss is None:
            entry = entry._replace(validation_loss=mean_loss(prepared.forward, held_out, batches, processes)[0])
        told(entry)
        if due and entry.validation_loss is not None:
            if not math.isfinite(entry.validation_loss):
                raise PermanentError(
                    f"step {entry.step}: the validation loss is {entry.validation_loss}", "lower the learning rate"
                )
            measured += [entry.validation_loss] * due
            ends = entry.step < len(plan) and processes.leads and behind(measured)
            if processes.gather(ends)[0]:
                break
    return measured


def _load(ground: Ground, stage: Stage, data: Data, processes: Processes) -> Prepared:
    """The model with a fresh adapter; where one process cannot have it, none goes on."""
    prepared, problem = None, None
    try:
        prepared = load(
            ground.lake,
            ground.base,
            stage,
            ground.tokenizer,
            data,
            ground.work_dir,
            _silent,
            begin=ground.begin,
            proven=True,
            processes=processes,
        )
    except PermanentError as error:
        problem = error
    if failed := [one for one in processes.gather(problem) if one is not None]:
        raise failed[0]
    assert prepared is not None
    return prepared


def _silent(line: str) -> None:
    """What loading says was said once, when it was proven."""
