"""Whether labels may start a retraining now, and which batches have had theirs.

Starting it is `sensors/labels_ready.py`'s and a person's; whether a batch is ready, `readiness.py`'s.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from sqlalchemy import func, select

from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.labeling.tables import AnnotationRow, RetrainingRow, RetrainingState, ReviewBatchRow
from finetune_platform.task_labeling import Retraining

MONTH = timedelta(days=30)


class Started(NamedTuple):
    """A retraining that a batch started."""

    batch_id: str
    state: RetrainingState
    note: str
    started_at: datetime
    ended_at: datetime | None


class Permit(NamedTuple):
    """Whether one may start: `wait` passes by itself, `over_budget` with the month or a higher budget."""

    state: Literal["start", "wait", "over_budget"]
    reason: str = ""


def permit(rules: Retraining, started: Sequence[datetime], spent: float, now: datetime) -> Permit:
    """Whether a retraining may start.

    Args:
        rules: Of the task file.
        started: When earlier ones did.
        spent: In the last thirty days, in the task's currency.
        now: The moment.
    """
    recent = sorted(moment for moment in started if now - MONTH < moment <= now)
    cooldown = timedelta(hours=rules.cooldown_hours)
    if recent and now < recent[-1] + cooldown:
        return Permit("wait", f"the last retraining was less than {rules.cooldown_hours:g} hours ago")
    if len(recent) >= rules.most_per_month:
        return Permit("over_budget", f"{len(recent)} retrainings in thirty days; most_per_month is the limit")
    if rules.monthly_budget is not None and spent >= rules.monthly_budget:
        return Permit(
            "over_budget", f"{spent:,.2f} spent in thirty days of a monthly_budget of {rules.monthly_budget:,.2f}"
        )
    return Permit("start")


def begin_retraining(database: Database, task: str, batch_id: str) -> bool:
    """Writes down that a batch starts a retraining; False where it has started one."""
    with database.session() as session:
        serialize(session.connection())
        if session.get(RetrainingRow, batch_id) is not None:
            return False
        session.add(RetrainingRow(batch_id=batch_id, task=task, state="started", note=""))
        return True


def end_retraining(database: Database, batch_id: str, state: RetrainingState, note: str) -> None:
    """Writes down how a batch's retraining ended; the first end counts."""
    with database.session() as session:
        serialize(session.connection())
        row = session.get(RetrainingRow, batch_id)
        if row is not None and row.state == "started":
            row.state, row.note, row.ended_at = state, note, datetime.now(UTC)


def retrainings_of(database: Database, task: str) -> list[Started]:
    """Every retraining of a task, oldest first."""
    query = select(RetrainingRow).where(RetrainingRow.task == task).order_by(RetrainingRow.started_at)
    with database.reading() as session:
        return [
            Started(row.batch_id, row.state, row.note, row.started_at, row.ended_at) for row in session.scalars(query)
        ]


def answers_since(database: Database, task: str, since: datetime) -> int:
    """Answers that people gave for a task since a moment: what labels cost is a price each."""
    query = (
        select(func.count())
        .select_from(AnnotationRow)
        .join(ReviewBatchRow, ReviewBatchRow.batch_id == AnnotationRow.batch_id)
        .where(
            ReviewBatchRow.task == task,
            AnnotationRow.decision == "answer",
            AnnotationRow.source != "simulated",
            AnnotationRow.created_at > since,
        )
    )
    with database.reading() as session:
        return session.scalar(query) or 0
