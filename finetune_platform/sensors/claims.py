"""Who asks for a run: of two daemons that look at the same moment, one.

Dagster keeps a run key from starting two runs only as far as one daemon sees what the other launched. A claim lasts
a little longer than a launch takes; a daemon that was killed in between leaves it to whoever looks after that.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from finetune_platform.database import Base, Database, UtcDateTime
from finetune_platform.database_engine import serialize

LASTS = timedelta(minutes=2)


class RunClaim(Base):
    """The last time that somebody asked for the run of a key."""

    __tablename__ = "run_claims"

    run_key: Mapped[str] = mapped_column(String(255), primary_key=True)
    claimed_at: Mapped[datetime] = mapped_column(UtcDateTime)


def claim(database: Database, run_key: str, now: float) -> bool:
    """Whether the caller may ask for a run; False while somebody else just did.

    Args:
        run_key: The attempt's.
        now: Unix time in seconds.
    """
    moment = datetime.fromtimestamp(now, UTC)
    with database.session() as session:
        serialize(session.connection())
        row = session.get(RunClaim, run_key)
        if row is not None and moment - row.claimed_at < LASTS:
            return False
        session.merge(RunClaim(run_key=run_key, claimed_at=moment))
        return True
