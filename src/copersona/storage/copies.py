"""A whole database as one file, and back: SQLite's online backup, PostgreSQL's own programs.

Both take a snapshot while others go on writing. Knows no table.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from copersona.errors import ConfigError, StoreError

FILE_NAMES = {"sqlite": "store.db", "postgresql": "store.pgdump"}


def dump(url: sa.URL, path: Path) -> None:
    """Write a database to a new file, readable by its owner only.

    Raises:
        StoreError: it cannot be copied.
        ConfigError: the programs of PostgreSQL are not installed.
    """
    path.touch(mode=0o600)
    if url.get_backend_name() == "sqlite":
        try:
            with (
                closing(sqlite3.connect(str(url.database))) as source,
                closing(sqlite3.connect(path)) as target,
            ):
                source.backup(target)
        except sqlite3.Error as error:
            raise StoreError(f"{path}: not copied: {error}") from error
    else:
        _run(url, "pg_dump", ["--format=custom", "--no-owner", "--no-acl", f"--file={path}"])


def load(path: Path, url: sa.URL) -> None:
    """Make a database of a file that `dump` wrote.

    Raises:
        ConfigError: there is something already, or the programs of PostgreSQL are not installed.
        StoreError: it cannot be written.
    """
    if url.get_backend_name() == "sqlite":
        target = Path(str(url.database))
        if target.exists():
            raise ConfigError(f"{target} is there already; restoring overwrites nothing")
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            target.touch(mode=0o600)
            shutil.copyfile(path, target)
        except OSError as error:
            raise StoreError(f"{target}: not restored: {error}") from error
    else:
        _check_empty(url)
        _run(url, "pg_restore", ["--exit-on-error", "--single-transaction", "--no-owner",
                                 "--no-acl", str(path)])  # fmt: skip


def _check_empty(url: sa.URL) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    try:
        tables = sa.inspect(engine).get_table_names()
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"{url}: {getattr(error, 'orig', error)}") from error
    if tables:
        raise ConfigError(f"{url} has tables already; restoring overwrites nothing")


def _run(url: sa.URL, program: str, options: Sequence[str]) -> None:
    found = shutil.which(program)
    if found is None:
        raise ConfigError(f"{program} is not on the PATH; install the client of PostgreSQL")
    bare = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database,
                         url.query)  # fmt: skip
    environment = {**os.environ, "PGPASSWORD": url.password} if url.password else None
    # The password goes by the environment: others on the machine can see a command line.
    command = [found, *options, f"--dbname={bare.render_as_string(hide_password=False)}"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"it ended with {done.returncode}"
        raise StoreError(f"{program} failed: {said}")
