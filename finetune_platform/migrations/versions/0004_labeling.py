"""What experts are asked and what they say."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "review_batches",
        sa.Column("batch_id", sa.String(64), primary_key=True),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("cause", sa.String(256), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_review_batches_task_cause", "review_batches", ["task", "cause"], unique=True)
    op.create_table(
        "review_items",
        sa.Column("batch_id", sa.String(64), sa.ForeignKey("review_batches.batch_id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("interaction_id", sa.String(64)),
        sa.Column("content", sa.JSON, nullable=False),
    )
    op.create_index("ix_review_items_interaction", "review_items", ["interaction_id"])
    op.create_table(
        "annotations",
        sa.Column("batch_id", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("reviewer", sa.String(128), primary_key=True),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("rating", sa.Integer),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("adjudication", sa.Boolean, nullable=False),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("external_id", sa.String(128)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["batch_id", "number"], ["review_items.batch_id", "review_items.number"]),
    )
    op.create_index("ix_annotations_external_id", "annotations", ["external_id"], unique=True)
    op.create_table(
        "review_leases",
        sa.Column("batch_id", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("reviewer", sa.String(128), primary_key=True),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("draft", sa.Text),
    )
