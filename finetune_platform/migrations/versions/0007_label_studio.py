"""Which project of Label Studio a batch is in, and how far it has been read."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "label_studio_projects",
        sa.Column("batch_id", sa.String(64), sa.ForeignKey("review_batches.batch_id"), primary_key=True),
        sa.Column("project_id", sa.Integer, nullable=False),
        sa.Column("tasks", sa.Integer),
        sa.Column("changes_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("read_to", sa.Integer, nullable=False),
        sa.Column("reading_began", sa.DateTime(timezone=True)),
        sa.Column("ended", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
