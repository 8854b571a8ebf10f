"""Votes on a champion's answers as the database holds them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_platform.database import Database
from finetune_platform.serving.tables import FeedbackRow
from finetune_platform.serving.votes import votes_since

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def vote(interaction_id: str, **said: Any) -> FeedbackRow:
    given = {"task": "t", "adapter_id": "ad-1", "arm": "champion", "positive": True, "created_at": NOW}
    return FeedbackRow(interaction_id=interaction_id, **{**given, **said})


def test_the_champions_votes_since_a_moment(database: Database) -> None:
    with database.session() as session:
        session.add_all(
            [
                vote("in-1"),
                vote("in-2", positive=False),
                vote("in-3", positive=None),
                vote("in-4", arm="canary"),
                vote("in-5", adapter_id="ad-2"),
                vote("in-6", task="other"),
                vote("in-7", created_at=NOW - timedelta(days=2)),
            ]
        )
    assert votes_since(database, "t", "ad-1", NOW - timedelta(days=1)) == {"in-1": True, "in-2": False}
