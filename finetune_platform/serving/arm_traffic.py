"""What arms did, out of the traffic counts: the champion's arm, what is slow for it, outcomes to compare.

How counts come about is `traffic.py`'s; what they are evidence of stands in `rollouts.py` and `arm_comparison.py`.
"""

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from finetune_platform.serving.latency_bins import slow_count, slow_limit_ms
from finetune_platform.serving.plan import BASE, Arm
from finetune_platform.serving.rollout_evidence import ArmCounts
from finetune_platform.serving.traffic import Counts, told, total

LATENCY_LOOKBACK = timedelta(days=1)
LATENCY_N = 50
"""Champion's answers before what is slow is picked from them: of a few, one outlier would hide any slowness."""


def champion_arms(champion: str | None) -> tuple[Arm, ...]:
    """As what the champion's answers are counted; None: the base model is champion."""
    return ("base",) if champion is None else ("champion",)


def slow_limit_before(session: Session, task: str, champion: str | None, until: datetime) -> float | None:
    """What is slow, from the champion's answers before those that are compared; None where they are too few."""
    before = told(session, task, until - LATENCY_LOOKBACK, until)
    latency = total(before, champion or BASE, champion_arms(champion)).latency
    return slow_limit_ms(latency) if sum(latency) >= LATENCY_N else None


def arm_counts(counts: Counts, limit_ms: float | None) -> ArmCounts:
    """Counts as outcomes; answers above `limit_ms` are slow, none is measured where it is None."""
    return ArmCounts(
        n=counts.n,
        good=counts.good,
        errors=counts.errors,
        timed_n=sum(counts.latency) if limit_ms is not None else 0,
        slow=slow_count(counts.latency, limit_ms) if limit_ms is not None else 0,
        format_n=counts.format_n,
        invalid_format=counts.invalid_format,
        refusals=counts.refusals,
        feedback_n=counts.feedback_n,
        feedback_negative=counts.feedback_negative,
    )
