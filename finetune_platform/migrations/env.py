"""Alembic's way into the schema; `database_engine.migrate` hands it the connection and the transaction.

Revisions belong in `versions/`, one file a change, named NUMBER_what.py.
"""

from alembic import context

from finetune_platform.database import Base
from finetune_platform.database_engine import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    # SQLite changes a column only by copying its table.
    render_as_batch=True,
)
context.run_migrations()
