"""One database behind the store: its connections, transactions, version and physical cleanliness.

SQLite and PostgreSQL differ in a handful of places (how a transaction begins, what a snapshot is,
`on conflict`, what erased bytes leave behind); they are all here, so that nothing above writes SQL
for one of them. Errors of the driver become `StoreError` here and nowhere else. This module knows
namespaces, but neither users nor interactions.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from copersona.errors import DataError, MissingExtraError, StoreError
from copersona.storage import copies, migrations
from copersona.storage.schema import namespaces

_Value = TypeVar("_Value")

# Values in one statement: well under what either database takes.
_VALUES_AT_ONCE = 1_000

# How long a writer waits for another one, and how long erasing waits for readers to let go.
_WAIT_MS = 30_000
_SCRUB_WAIT_MS = 400

# A connection that was not used for so long is tried first: the server may have gone meanwhile.
_IDLE_S = 1.0

_DURABLE = "synchronous=FULL"
_PRAGMAS = (
    f"busy_timeout={_WAIT_MS}",
    "journal_mode=WAL",
    _DURABLE,
    "foreign_keys=ON",
    "secure_delete=ON",
    "temp_store=MEMORY",  # sorted rows hold people's words: none of them in stray files
    "cache_size=-32768",
)
_COMPACT = {"sqlite": "VACUUM", "postgresql": "VACUUM (FULL)"}
_SNAPSHOT = {"sqlite": {}, "postgresql": {"isolation_level": "REPEATABLE READ"}}
# One statement, without a transaction of more; on SQLite every bare cursor is outside one.
_OUTSIDE = {"sqlite": {}, "postgresql": {"isolation_level": "AUTOCOMMIT"}}
_USED_AT = "used at"
_MIGRATION_LOCK = 0x636F7065  # any number nobody else locks

# Statements that every request runs are built once: to build one takes longer than to run it.
_NAMESPACE = sa.select(namespaces.c.id).where(namespaces.c.name == sa.bindparam("namespace"))
_LOCKED = _NAMESPACE.with_for_update()


@dataclass(frozen=True, slots=True)
class Scope:
    """One namespace within one transaction.

    Attributes:
        id: row of the namespace; 0, which no row has, where nothing was ever written to it.
    """

    connection: sa.Connection
    namespace: str
    id: int


class Database:
    """Connections to one database, migrated to today's version."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
        self._is_open = True
        self._writing = threading.Lock()
        self.dialect = engine.dialect.name
        self.url = engine.url.render_as_string(hide_password=True)

    @classmethod
    def open(cls, url: str | Path, *, create: bool) -> Database:
        """Connect and take the missing migrations.

        Raises:
            StoreError: no database, not one of ours, or out of reach; the message says which.
            MigrationError: written by a newer version of this program.
        """
        parsed = _parse(url)
        if parsed.get_backend_name() == "sqlite":
            parsed = parsed.set(database=str(_claim_file(parsed.database or "", create)))
        database = cls(_connectable(parsed))
        try:
            database._migrate()
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Give all connections back; using the database afterwards is a `StoreError`."""
        self._is_open = False
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One snapshot: what is committed meanwhile is not seen."""
        with self._connected() as connection:
            connection.execution_options(**_SNAPSHOT[self.dialect])
            yield connection

    @contextmanager
    def asking(self) -> Iterator[sa.Connection]:
        """For one statement that reads; a server needs no transaction around it."""
        with self._connected() as connection:
            connection.execution_options(**_OUTSIDE[self.dialect])
            yield connection

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """One transaction, durable when the block ends, undone where it raises.

        Without `durable` a power cut may undo it as a whole; a crash of the process may not.
        """
        with self._turn(), self._connected() as connection:
            connection.execution_options(is_writing=True)
            with self._hurried(connection, not durable), connection.begin():
                if not durable and self.dialect == "postgresql":
                    connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
                yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite has one writer at a time: those of this process are woken one after the other.

        Left to the driver they would sleep, look again and sleep for longer.
        """
        if self.dialect != "sqlite":
            yield
            return
        if not self._writing.acquire(timeout=_WAIT_MS / 1_000):
            raise StoreError(f"{self.url}: another writer took longer than {_WAIT_MS // 1_000} s")
        try:
            yield
        finally:
            self._writing.release()

    @contextmanager
    def _hurried(self, connection: sa.Connection, is_hurried: bool) -> Iterator[None]:
        """SQLite: transactions on this connection do not wait for the disk at their end."""
        if not is_hurried or self.dialect != "sqlite":
            yield
            return
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute("PRAGMA synchronous=NORMAL")
            try:
                yield
            finally:
                cursor.execute(f"PRAGMA {_DURABLE}")

    @contextmanager
    def viewing(self, namespace: str) -> Iterator[Scope]:
        """A namespace in one snapshot."""
        with self.reading() as connection:
            found = connection.scalar(_NAMESPACE, {"namespace": namespace})
            yield Scope(connection, namespace, found or 0)

    @contextmanager
    def changing(self, namespace: str, *, durable: bool = True) -> Iterator[Scope]:
        """A namespace in one transaction, with no other writer in that namespace meanwhile."""
        if not namespace:
            raise DataError("a namespace needs a name", field="namespace")
        with self.writing(durable=durable) as connection:
            found = connection.scalar(_LOCKED, {"namespace": namespace})
            if found is None:
                row = {"name": namespace, "revision": 0}
                connection.execute(self.insert_new(namespaces), row)
                found = connection.scalar(_LOCKED, {"namespace": namespace})
            yield Scope(connection, namespace, int(found or 0))

    def insert_new(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An insert that passes over rows whose key is there already."""
        build = sqlite.insert if self.dialect == "sqlite" else postgresql.insert
        return build(table).on_conflict_do_nothing()

    def scrub(self) -> bool:
        """Empty the write-ahead log, so that erased bytes are not read from it.

        False where a reader held it up, or where the server has its own ways (PostgreSQL).
        """
        if self.dialect != "sqlite":
            return False
        with self._bare_cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout={_SCRUB_WAIT_MS}")
            try:
                is_held_up = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                cursor.execute(f"PRAGMA busy_timeout={_WAIT_MS}")
        return not is_held_up

    def compact(self) -> None:
        """Write the whole database anew, without the unused space and what may linger in it."""
        with self._bare_cursor() as cursor:
            cursor.execute(_COMPACT[self.dialect])
        self.scrub()

    def copy_to(self, path: Path) -> None:
        """The whole database, as it is at this moment, as a new file; see `copies`."""
        copies.dump(self._engine.url, path)

    def damage(self) -> list[str]:
        """What the database itself finds wrong with its file; empty when sound."""
        if self.dialect != "sqlite":
            return []
        with self._bare_cursor() as cursor:
            cursor.execute("PRAGMA integrity_check")
            found = [str(row[0]) for row in cursor.fetchall() if row[0] != "ok"]
            cursor.execute("PRAGMA foreign_key_check")
            return found + [f"{row[0]}: row {row[1]} has no {row[2]}" for row in cursor.fetchall()]

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _bare_cursor(self) -> Iterator[Any]:
        """A cursor outside any transaction, for what must not run inside one."""
        with self._connected() as connection:
            connection.execution_options(**_OUTSIDE[self.dialect])
            with closing(connection.connection.cursor()) as cursor:
                yield cursor

    @contextmanager
    def _translated(self) -> Iterator[None]:
        if not self._is_open:
            raise StoreError(f"{self.url}: the store is closed")
        try:
            yield
        except SQLAlchemyError as error:
            raise StoreError(f"{self.url}: {_reason(error)}") from error
        except self._driver_error as error:
            raise StoreError(f"{self.url}: {error}") from error
        except UnicodeEncodeError as error:
            raise DataError("not valid Unicode: a lone surrogate cannot be stored") from error

    def _migrate(self) -> None:
        with self.reading() as connection:
            if not migrations.needs_upgrade(connection):
                return
        with self.writing() as connection:
            if self.dialect == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            # Another process may have been faster while this one waited.
            if migrations.needs_upgrade(connection):
                migrations.upgrade(connection)


def chunks(values: Iterable[_Value], most: int = _VALUES_AT_ONCE) -> Iterator[list[_Value]]:
    """The values in lists short enough for one statement."""
    rest = iter(values)
    while part := list(islice(rest, most)):
        yield part


def rows_in(
    connection: sa.Connection,
    query: sa.Select[*tuple[Any, ...]],
    column: sa.ColumnElement[Any],
    values: Iterable[Any],
) -> Iterator[sa.Row[*tuple[Any, ...]]]:
    """The rows of `query` where `column` is one of `values`, however many these are."""
    return rows_among(connection, among(query, column), values)


def among(
    query: sa.Select[*tuple[Any, ...]], column: sa.ColumnElement[Any]
) -> sa.Select[*tuple[Any, ...]]:
    """The query for rows where `column` is one of some values, for `rows_among` to run."""
    # One parameter for the whole list: checking the values one by one would cost more than to look.
    return query.where(column.in_(sa.bindparam("chosen", expanding=True)))


def rows_among(
    connection: sa.Connection,
    query: sa.Select[*tuple[Any, ...]],
    values: Iterable[Any],
    **others: Any,
) -> Iterator[sa.Row[*tuple[Any, ...]]]:
    """The rows of what `among` made, however many values there are."""
    for part in chunks(values):
        yield from connection.execute(query, {"chosen": part, **others})


def insert_many(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert rows of equal columns, whose values the driver takes as they are.

    The usual way prepares every row anew, which takes microseconds each.
    """
    statement = sa.insert(table).compile(dialect=connection.dialect, column_keys=list(rows[0]))
    if statement.positiontup is None:
        connection.exec_driver_sql(str(statement), list(rows))
    else:
        connection.exec_driver_sql(str(statement), [*map(itemgetter(*statement.positiontup), rows)])


def _reason(error: SQLAlchemyError) -> str:
    """What the driver said, without the statement and its values."""
    return str(getattr(error, "orig", None) or error)


def parse_url(url: str | Path, dialect: str) -> sa.URL:
    """A URL or a path of a database of this kind.

    Raises:
        StoreError: it is none.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() != dialect:
        raise StoreError(f"{parsed.drivername!r} is no {dialect}, which the backup is of")
    return parsed


def _parse(url: str | Path) -> sa.URL:
    """A URL, or the path of an SQLite file."""
    text = str(url)
    if "://" not in text:
        return sa.URL.create("sqlite", database=text)
    try:
        parsed = sa.make_url(text)
    except ArgumentError as error:
        raise StoreError("the store's URL cannot be read; give a path or a database URL") from error
    if parsed.get_backend_name() not in _COMPACT:
        raise StoreError(f"{parsed.drivername!r} is no store; use a path, sqlite or postgresql")
    is_bare = parsed.drivername == "postgresql"
    return parsed.set(drivername="postgresql+psycopg") if is_bare else parsed


def _claim_file(name: str, create: bool) -> Path:
    """The absolute path of a database file; a new one is readable by its owner only."""
    if name in {"", ":memory:"}:
        raise StoreError("a store in memory keeps nothing; give a path")
    path = Path(name).absolute()
    if not path.exists():
        if not create:
            raise StoreError(f"no database at {path}")
        try:
            path.touch(mode=0o600)
        except OSError as error:
            raise StoreError(f"cannot create {path}: {error.strerror}") from error
    return path


def _connectable(url: sa.URL) -> sa.Engine:
    is_sqlite = url.get_backend_name() == "sqlite"
    try:
        # Without hide_parameters a logged error would carry the user's words.
        engine = sa.create_engine(url, hide_parameters=True, pool_size=8, max_overflow=32)
    except ModuleNotFoundError as error:
        raise MissingExtraError("pip install 'copersona[postgres]'") from error
    if is_sqlite:
        event.listen(engine, "connect", _prepare_connection)
        event.listen(engine, "begin", _begin)
    else:
        event.listen(engine, "checkin", _note_use)
        event.listen(engine, "checkout", partial(_try_idle, engine.dialect))
    return engine


def _note_use(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info[_USED_AT] = time.monotonic()


def _try_idle(
    dialect: sa.Dialect, connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object
) -> None:
    """Let the pool make a new connection in the place of one that is broken."""
    used_at = record.info.get(_USED_AT, math.inf)  # a new one was not used
    if time.monotonic() - used_at < _IDLE_S:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise DisconnectionError from error


def _prepare_connection(connection: Any, _record: object) -> None:
    # The driver would begin transactions too late, after the first read, and never for tables.
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: sa.Connection) -> None:
    is_writing = connection.get_execution_options().get("is_writing", False)
    # A writer that began as a reader could not wait for another one: it would fail.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")
