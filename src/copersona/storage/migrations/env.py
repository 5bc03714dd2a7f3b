"""Alembic's entry: runs the steps on the connection `copersona.storage.migrations` hands over.

It opens nothing itself and has no offline mode: a store is always migrated by the program.
"""

from __future__ import annotations

from alembic import context

from copersona.storage.migrations import VERSION_TABLE
from copersona.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
