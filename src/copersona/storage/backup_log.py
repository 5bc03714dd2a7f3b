"""Which backups were taken of a database, when, and where they were put.

A backup holds the whole database, so this belongs to no namespace; it names nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from copersona.errors import ConfigError
from copersona.storage.database import Database
from copersona.storage.schema import backups


@dataclass(frozen=True, slots=True)
class TakenBackup:
    """One backup.

    Attributes:
        place: the folder it was written to.
        at: seconds since 1970-01-01 UTC.
    """

    id: str
    place: str
    at: float


class BackupLog:
    """The backups of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, backup: TakenBackup) -> None:
        """Note a backup; twice is once."""
        row = {"id": backup.id, "place": backup.place, "at": backup.at}
        with self._database.writing() as connection:
            connection.execute(self._database.insert_new(backups), row)

    def write(self, path: Path) -> None:
        """The whole database as a new file.

        Raises:
            StoreError: it cannot be copied.
            ConfigError: the programs of PostgreSQL are not installed.
        """
        self._database.copy_to(path)

    def all(self) -> list[TakenBackup]:
        """Every backup, oldest first."""
        query = sa.select(backups.c.id, backups.c.place, backups.c.at)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(backups.c.at, backups.c.id)).all()
        return [TakenBackup(*row) for row in rows]

    def remove(self, backup_id: str) -> None:
        """No copy of this backup is left anywhere.

        Raises:
            ConfigError: there is none of that id.
        """
        with self._database.writing() as connection:
            gone = connection.execute(sa.delete(backups).where(backups.c.id == backup_id))
        if not gone.rowcount:
            raise ConfigError(f"no backup {backup_id!r}; `copersona backups` lists them")
