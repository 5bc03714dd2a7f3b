"""The steps from an empty database to today's tables, and the one function that takes them.

Each step is a file in `versions`, run by Alembic inside the caller's transaction, so that a
database is never between two versions. To add one: change `schema.py`, then write the step by hand
or with `command.revision(config(connection), autogenerate=True)`; a test compares the two. This
package opens no connection and knows nothing of what the tables mean.
"""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from copersona.errors import MigrationError, StoreError

# Not Alembic's usual name, so that another program's database is never taken for ours.
VERSION_TABLE = "copersona_version"

# Alembic keeps its running environment in a global of the process.
_alembic = threading.Lock()


def config(connection: sa.Connection) -> Config:
    """Alembic's configuration for these steps, on an open connection."""
    settings = Config(attributes={"connection": connection})
    settings.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings


def needs_upgrade(connection: sa.Connection) -> bool:
    """Whether steps are missing.

    Raises:
        MigrationError: the database was written by a newer version of this program.
        StoreError: the database belongs to another program.
    """
    steps = ScriptDirectory.from_config(config(connection))
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    version = context.get_current_revision()
    if version is None:
        _check_empty(connection)
    elif version not in {step.revision for step in steps.walk_revisions()}:
        raise MigrationError(
            f"the database has version {version!r}, newer than this program knows "
            f"({steps.get_current_head()!r}); upgrade copersona"
        )
    return version != steps.get_current_head()


def upgrade(connection: sa.Connection) -> None:
    """Take the missing steps, in the transaction of `connection`."""
    with _alembic:
        command.upgrade(config(connection), "head")


def _check_empty(connection: sa.Connection) -> None:
    tables = sa.inspect(connection).get_table_names()
    if tables:
        found = ", ".join(sorted(tables)[:3])
        raise StoreError(f"the database belongs to another program (tables: {found} …)")
