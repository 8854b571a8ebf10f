"""What users said of a champion's answers, as the database counts it. Taking a vote is `feedback_api.py`'s."""

from datetime import datetime

from sqlalchemy import select

from finetune_platform.database import Database
from finetune_platform.serving.tables import FeedbackRow


def votes_since(database: Database, task: str, adapter: str, since: datetime) -> dict[str, bool]:
    """Whether a champion's answers pleased, by interaction id; canaries' and shadows' are not among them."""
    query = (
        select(FeedbackRow)
        .where(FeedbackRow.task == task, FeedbackRow.adapter_id == adapter, FeedbackRow.created_at >= since)
        .where(FeedbackRow.arm.in_(("champion", "base")), FeedbackRow.positive.is_not(None))
        .order_by(FeedbackRow.created_at, FeedbackRow.interaction_id)
    )
    with database.reading() as session:
        return {row.interaction_id: bool(row.positive) for row in session.scalars(query)}
