"""What a private run spends, (epsilon, delta), and the noise that a budget asks for: Opacus' accountants.

Adding or removing one row changes the probability of any adapter by at most a factor of e^epsilon, but for a
probability of delta.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

from finetune_platform.errors import BadInput
from finetune_platform.manifests_training import PrivacyRecord
from finetune_platform.task_privacy import DifferentialPrivacy
from finetune_platform.task_training import Stage
from finetune_platform.training.private.sampling import Sampling
from finetune_platform.training.rows import TrainRow

PLACE = "training.stages[].privacy"


def promise(stage: Stage, sampling: Sampling, rows: Sequence[TrainRow], groups: Mapping[str, str]) -> PrivacyRecord:
    """What training by this plan promises of each row.

    Args:
        stage: With its `privacy`.
        sampling: Of the run.
        rows: All rows that may be drawn.
        groups: The group of each place that rows come from.

    Raises:
        BadInput: Opacus is not installed, or the budget allows no run.
    """
    options = stage.privacy
    assert options is not None
    if options.delta * len(rows) >= 1:
        raise BadInput(
            f"{PLACE}: delta {options.delta:g} with {len(rows)} rows: whoever published one row as it is would keep "
            "that promise",
            f"set delta well below {1 / len(rows):.1g}, one by the number of rows",
        )
    noise = options.noise_multiplier or _noise_for(options, sampling)
    spent = epsilon(noise, sampling, options.delta, options.accountant)
    if not math.isfinite(spent):
        raise BadInput(f"{PLACE}: noise_multiplier {noise:g} promises nothing: epsilon is {spent}", "raise it")
    return PrivacyRecord(
        kind=stage.kind,
        epsilon=spent,
        delta=options.delta,
        noise_multiplier=noise,
        max_grad_norm=options.max_grad_norm,
        sample_rate=sampling.rate,
        steps=sampling.steps,
        accountant=options.accountant,
        rows=len(rows),
        largest_group=max(Counter(groups[row.place] for row in rows).values()),
    )


def epsilon(noise_multiplier: float, sampling: Sampling, delta: float, accountant: Literal["prv", "rdp"]) -> float:
    """What so many steps spend.

    Args:
        noise_multiplier: Standard deviation of the noise, in units of the norm that a row is clipped to.
        sampling: Steps, and the probability of each row in each.
        delta: The probability for which nothing is promised.
        accountant: `prv` (Gopi, Lee and Wutschitz 2021) is tighter, `rdp` (Mironov 2017) faster; both are upper bounds.
    """
    with _opacus():
        from opacus.accountants import create_accountant

        account = create_accountant(mechanism=accountant)
        account.history = [(noise_multiplier, sampling.rate, sampling.steps)]
        return float(account.get_epsilon(delta=delta))


def _noise_for(options: DifferentialPrivacy, sampling: Sampling) -> float:
    with _opacus():
        from opacus.accountants.utils import get_noise_multiplier

        try:
            return float(
                get_noise_multiplier(
                    target_epsilon=options.target_epsilon,
                    target_delta=options.delta,
                    sample_rate=sampling.rate,
                    steps=sampling.steps,
                    accountant=options.accountant,
                )
            )
        except ValueError as error:
            raise BadInput(
                f"{PLACE}: no noise keeps {sampling.steps} steps within epsilon {options.target_epsilon:g} at delta "
                f"{options.delta:g}: {error}",
                "raise target_epsilon or delta, or lower num_train_epochs",
            ) from error


@contextmanager
def _opacus() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # Of bounds that could be tighter, and of logarithms of zero where every row is drawn.
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{PLACE} needs the package {error.name}, which is not installed",
            "pip install 'finetune-platform[privacy]'",
        ) from error
