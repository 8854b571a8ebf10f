"""What people hear of rollouts: promoted, held, taken back. Announced in the transaction of the decision itself."""

from datetime import datetime

from sqlalchemy.orm import Session

from finetune_platform.announcements import Event, announce_in, operators_page
from finetune_platform.serving.rollout_rules import Decision
from finetune_platform.serving.tables import RolloutRow


def announce_decision(session: Session, row: RolloutRow, decision: Decision, now: datetime) -> None:
    """Announces what a decision did, where it is one that people hear of; steps on the way are not."""
    task, adapter, why = row.task, row.adapter_id, decision.message
    if decision.action == "roll_back":
        event = Event(
            kind="rollback",
            task=task,
            subject=row.rollout_id,
            what=f"{adapter} was {why}",
            link=operators_page(task),
            next_step=f"`finetune rollout status {task}` shows the evidence; nothing has to be done for the traffic",
        )
    elif decision.action == "finish":
        event = Event(
            kind="promotion",
            task=task,
            subject=row.rollout_id,
            what=f"{adapter} was {why}",
            link=operators_page(task),
            next_step=f"none; `finetune rollout rollback {task} --reason …` takes it back",
        )
    elif decision.action == "hold":
        event = Event(
            kind="hold",
            task=task,
            # A rollout may be resumed and held again.
            subject=f"{row.rollout_id}:{now.isoformat(timespec='seconds')}",
            what=f"the rollout of {adapter} is {why}",
            link=operators_page(task),
            next_step=f"`finetune rollout status {task}`, then step, resume, abort or rollback with a --reason",
        )
    else:
        return
    announce_in(session, event, now)


def announce_demotion(
    session: Session, task: str, adapter: str, now_champion: str | None, version: int, reason: str
) -> None:
    """Announces that a person took the champion back; `version` is that of the route which did it."""
    event = Event(
        kind="rollback",
        task=task,
        subject=f"route-{version}",
        what=f"the champion {adapter} was taken back by hand: {reason}; {now_champion or 'the base model'} answers now",
        link=operators_page(task),
        next_step=f"`finetune history {task}` shows what served when; nothing has to be done for the traffic",
    )
    announce_in(session, event)
