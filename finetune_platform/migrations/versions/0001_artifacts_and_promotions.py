"""Which artifacts were made, with what, and which adapter holds which alias."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("artifact_id", sa.String(64), nullable=False),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("asset", sa.String(64), nullable=False),
        sa.Column("uri", sa.Text, nullable=False),
        sa.Column("parents", sa.JSON, nullable=False),
        sa.Column("dagster_run_id", sa.String(64)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_artifacts_task_asset_id", "artifacts", ["task", "asset", "id"])
    op.create_index("ix_artifacts_artifact_id", "artifacts", ["artifact_id"])
    op.create_table(
        "promotions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("adapter_id", sa.String(64), nullable=False),
        sa.Column("alias", sa.String(32), nullable=False),
        sa.Column("previous_adapter_id", sa.String(64)),
        sa.Column("evaluation_id", sa.String(64)),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("mlflow_version", sa.String(64)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_promotions_task_alias_id", "promotions", ["task", "alias", "id"])
    op.create_table(
        "makings",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("asset", sa.String(64), primary_key=True),
        sa.Column("note", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("makings")
    op.drop_table("promotions")
    op.drop_table("artifacts")
