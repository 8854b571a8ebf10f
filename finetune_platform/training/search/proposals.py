"""Which options are tried next, and which trial is behind: Optuna's TPE sampler and its successive halving.

Optuna keeps nothing: each answer is made of the recorded trials, told to a study of its own in their order, and of a
seed that is the trial's. So a search that was killed proposes what it would have proposed.
"""

import itertools
import random
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from finetune_platform.errors import BadInput
from finetune_platform.task_search import Search
from finetune_platform.training.search.record import TrialRecord

if TYPE_CHECKING:
    from optuna import Study, Trial

REDUCTION = 3
"""Of the trials that reach a rung, the best one of so many go on (eta in Li et al. 2020, ASHA)."""

RUNGS = (1, 3, 9)
"""Parts of nine of a trial's steps, after which it is measured; successive halving counts in powers of `REDUCTION`."""

RANDOM_TRIALS = 5
"""Trials before TPE says more than chance; Optuna's ten are most of a small search."""

DRAWS = 20


def require_optuna() -> None:
    """Stops where a search cannot be made.

    Raises:
        BadInput: Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise BadInput(
            "training.search: Optuna proposes the trials, and it is not installed here",
            "install the extra: pip install 'finetune-platform[search]', or leave training.search out",
        )


def propose(search: Search, trials: Sequence[TrialRecord], first: dict[str, float] | None) -> dict[str, float] | None:
    """The options of the next trial, none that was tried; None where all were.

    Args:
        search: What is searched for.
        trials: Ended ones, in order.
        first: What the first trial tries: the stage's own values, where they are among those to choose from.
    """
    if not trials and first is not None:
        return first
    tried = [trial.options for trial in trials]
    study = _study(search, trials)
    for draw in range(DRAWS):
        study.sampler = _sampler(random.Random(f"{search.seed}/{len(trials)}/{draw}").getrandbits(32))
        options = dict(study.ask(_space(search)).params)
        if options not in tried:
            return options
    if search.learning_rate is not None:
        raise AssertionError("a continuous draw came twice")
    values = search.values
    every = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    left = [options for options in every if options not in tried]
    return random.Random(f"{search.seed}/{len(trials)}").choice(left) if left else None


def behind(search: Search, trials: Sequence[TrialRecord], current: TrialRecord) -> bool:
    """Whether successive halving ends a trial at the rung that it has reached.

    Args:
        search: What is searched for.
        trials: Ended ones, in order.
        current: With the validation losses that it has.
    """
    study = _study(search, trials)
    return _climb(_begin(study, search, current), current)


def _study(search: Search, trials: Sequence[TrialRecord]) -> "Study":
    """A study that knows the trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=0),  # Asked for nothing: every option is given.
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=REDUCTION),
    )
    for record in trials:
        trial = _begin(study, search, record)
        if (
            record.state != "failed"
        ):  # Else one that was good until it failed would end all others: nobody would be left.
            _climb(trial, record)
        if record.state == "complete":
            study.tell(trial, record.measured[-1])
        else:
            state = optuna.trial.TrialState
            study.tell(trial, state=state.FAIL if record.state == "failed" else state.PRUNED)
    return study


def _begin(study: "Study", search: Search, record: TrialRecord) -> "Trial":
    study.enqueue_trial(record.options)
    return study.ask(_space(search))


def _climb(trial: "Trial", record: TrialRecord) -> bool:
    """Tells Optuna of every rung, in order: it compares with those who had reached it before."""
    ends = False
    for rung, loss in zip(RUNGS, record.measured, strict=False):
        trial.report(loss, rung)
        ends = trial.should_prune()
    return ends


def _sampler(seed: int) -> Any:
    import optuna

    return optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed)


def _space(search: Search) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        name: FloatDistribution(*values, log=True) if name == "learning_rate" else CategoricalDistribution(values)
        for name, values in search.values.items()
    }
