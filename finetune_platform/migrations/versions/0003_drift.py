"""What drift has found so far, and each look."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "drift_states",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("champion", sa.String(64), nullable=False),
        sa.Column("reference_id", sa.String(64)),
        sa.Column("evidence", sa.JSON, nullable=False),
        sa.Column("ticks", sa.Integer, nullable=False),
        sa.Column("seen_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("alarm_since", sa.DateTime(timezone=True)),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "drift_ticks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("reference_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("counted", sa.Integer, nullable=False),
        sa.Column("e_value", sa.Float, nullable=False),
        sa.Column("channels", sa.JSON, nullable=False),
        sa.Column("alarm", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_drift_ticks_of_a_reference", "drift_ticks", ["task", "reference_id", "number"], unique=True)
