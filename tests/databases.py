"""Fresh databases for tests: SQLite files, and databases of the server `scripts/postgres` starts.

A database of PostgreSQL is copied from a migrated one, which takes a few hundredths of a second.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import sqlalchemy as sa

from copersona.storage.store import Store

KINDS = ("sqlite", "postgresql")
VARIABLE = "COPERSONA_TEST_POSTGRES"


@contextmanager
def database(
    kind: str, folder: Path, *, is_migrated: bool = True, template: str = ""
) -> Iterator[str]:
    """What names an empty database of this kind: a path, or a URL.

    Args:
        template: another one of this kind, closed by all; then it is not empty, but a copy.
    """
    if kind == "sqlite":
        path = folder / "store.db"
        if template:
            shutil.copyfile(template, path)
        yield str(path)
        return
    name = f"copersona_{uuid.uuid4().hex}"
    source = sa.make_url(template).database if template else ""
    _run(
        f"CREATE DATABASE {name} TEMPLATE {source or (_template() if is_migrated else 'template0')}"
    )
    try:
        yield _url_of(name)
    finally:
        _run(f"DROP DATABASE {name} WITH (FORCE)")


def copy_of(url: str) -> str:
    """Another database of the server with the same in it; it goes with the server."""
    name = f"copersona_{uuid.uuid4().hex}"
    _run(f"CREATE DATABASE {name} TEMPLATE {sa.make_url(url).database}")
    return _url_of(name)


def drop_connections(url: str) -> None:
    """End all that are connected to a database of the server."""
    _run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = '{sa.make_url(url).database}'"
    )


def server() -> sa.URL:
    """The server of this run; a test that needs one fails where there is none."""
    named = os.environ.get(VARIABLE)
    if not named:
        pytest.fail(f"{VARIABLE} names no server: run `scripts/postgres .venv/bin/pytest …`")
    return sa.make_url(named).set(drivername="postgresql+psycopg")


def _url_of(name: str) -> str:
    return server().set(database=name).render_as_string(hide_password=False)


@cache
def _template() -> str:
    name = f"copersona_template_{uuid.uuid4().hex}"
    _run(f"CREATE DATABASE {name} TEMPLATE template0")
    Store.open(_url_of(name)).close()
    return name


def _run(statement: str) -> None:
    engine = sa.create_engine(server(), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
