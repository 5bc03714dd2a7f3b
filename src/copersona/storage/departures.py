"""Who was forgotten, and whether they are out of every fitted state yet.

A departure is noted with the tombstone, in one transaction, and crossed out when the fitted states
are clean; so whoever looks after a crash knows what is left to do. Only marks are kept. Knows no
fitted state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import sqlalchemy as sa

from copersona.storage.database import Database, chunks, rows_in
from copersona.storage.erasure import erase_user
from copersona.storage.schema import departures, namespaces, tombstones, users
from copersona.storage.user_registry import UserRegistry, touch


class Departures:
    """The departures of one database."""

    def __init__(self, database: Database, registry: UserRegistry) -> None:
        self._database, self._registry = database, registry

    def under_way(self, namespace: str) -> frozenset[bytes]:
        """Marks of those who may still stand in a fitted state; cheap."""
        query = sa.select(departures.c.mark).join(namespaces).where(namespaces.c.name == namespace)
        with self._database.reading() as connection:
            return frozenset(connection.scalars(query))

    def namespaces(self) -> list[str]:
        """Where somebody is on the way out."""
        query = sa.select(namespaces.c.name).join(departures).distinct()
        with self._database.reading() as connection:
            return sorted(connection.scalars(query))

    def mark(self, namespace: str, user: str) -> bytes:
        """What stands for a user here."""
        return self._registry.mark(namespace, user)

    def among(self, namespace: str, names: Iterable[str]) -> set[str]:
        """Those of these users who were forgotten."""
        marks = {self._registry.mark(namespace, name): name for name in names}
        with self._database.reading() as connection:
            query = sa.select(tombstones.c.mark)
            return {marks[row.mark] for row in rows_in(connection, query, tombstones.c.mark, marks)}

    def finish(self, namespace: str, marks: Collection[bytes]) -> None:
        """No fitted state holds these any more."""
        with self._database.changing(namespace) as scope:
            for part in chunks(marks):
                scope.connection.execute(sa.delete(departures).where(departures.c.mark.in_(part)))

    def all_marks(self) -> list[bytes]:
        """The marks of everybody who was forgotten, in all namespaces."""
        with self._database.reading() as connection:
            return sorted(connection.scalars(sa.select(tombstones.c.mark)))

    def apply(self, marks: Iterable[bytes]) -> int:
        """Forget whoever has one of these marks; how many were there.

        Marks of nobody who is there get their tombstone too.
        """
        n_gone, wanted = 0, set(marks)
        query = sa.select(users.c.mark, users.c.id, namespaces.c.name.label("namespace"))
        with self._database.reading() as connection:
            found = list(rows_in(connection, query.join(namespaces), users.c.mark, wanted))
        for row in found:
            with self._database.changing(row.namespace) as scope:
                self._registry.bury_mark(scope, row.mark)
                erase_user(scope, row.id)
                touch(scope)
            n_gone += 1
        with self._database.writing() as connection:
            for mark in wanted - {row.mark for row in found}:
                connection.execute(self._database.insert_new(tombstones), {"mark": mark})
        self._database.scrub()
        return n_gone
