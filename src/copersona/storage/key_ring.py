"""Keys of the HTTP service as rows: of which namespace, with which scopes, for which user.

Only hashes of keys are kept, and of the user of a token only the mark, so that nothing here names
anybody; a token goes with its user when the user is forgotten. What a scope allows, and how a key
looks, is the business of `service.keys`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from copersona.errors import DataError
from copersona.storage.database import Database
from copersona.storage.schema import api_keys, namespaces, tombstones, traces, users
from copersona.storage.user_registry import FORGOTTEN, UserRegistry

_FIELDS = (
    api_keys.c.id,
    namespaces.c.name,
    api_keys.c.hash,
    api_keys.c.scopes,
    api_keys.c.mark,
    api_keys.c.created_at,
)
_KEPT = sa.select(*_FIELDS).join_from(api_keys, namespaces)
_KEY = _KEPT.where(api_keys.c.id == sa.bindparam("id"))  # built once, since every request runs it


@dataclass(frozen=True, slots=True)
class KeptKey:
    """One key as it is stored.

    Attributes:
        hash: of the secret part; what is handed out is not stored.
        mark: of the only user it is for; None where it is for the whole namespace.
        created_at: seconds since 1970-01-01 UTC.
    """

    id: str
    namespace: str
    hash: bytes
    scopes: frozenset[str]
    mark: bytes | None
    created_at: float


class KeyRing:
    """The keys of one database."""

    def __init__(self, database: Database, registry: UserRegistry) -> None:
        self._database, self._registry = database, registry

    def marks(self, namespace: str, users: Sequence[str]) -> list[bytes]:
        """What stands for users in tokens, by whichever of their names; no name shows in it."""
        with self._database.asking() as connection:
            return self._registry.marks(connection, namespace, users)

    def user_of(self, mark: bytes) -> str | None:
        """Whom a mark stands for; None where nothing is kept of them."""
        with self._database.asking() as connection:
            return connection.scalar(sa.select(users.c.name).where(users.c.mark == mark))

    def mark_of_trace(self, namespace: str, trace_id: str) -> bytes | None:
        """What stands for the user of a trace; None where there is no such trace."""
        query = sa.select(users.c.mark).join_from(traces, users).join(
            namespaces, traces.c.namespace_id == namespaces.c.id
        )  # fmt: skip
        query = query.where(namespaces.c.name == namespace, traces.c.trace_id == trace_id)
        with self._database.reading() as connection:
            return connection.scalar(query)

    def add(self, key: KeptKey) -> None:
        """Keep a key.

        Raises:
            DataError: it is for a user who was forgotten.
        """
        with self._database.changing(key.namespace) as scope:
            buried = sa.select(tombstones.c.mark).where(tombstones.c.mark == key.mark)
            if scope.connection.scalar(buried) is not None:
                raise DataError(FORGOTTEN, field="user")
            row = {"id": key.id, "namespace_id": scope.id, "hash": key.hash, "mark": key.mark,
                   "scopes": _joined(key.scopes), "created_at": key.created_at}  # fmt: skip
            scope.connection.execute(sa.insert(api_keys), row)

    def find(self, key_id: str) -> KeptKey | None:
        """The key of that id, in whichever namespace."""
        with self._database.asking() as connection:
            row = connection.execute(_KEY, {"id": key_id}).one_or_none()
        return None if row is None else _kept(row)

    def all(self, namespace: str) -> list[KeptKey]:
        """The keys of a namespace, oldest first."""
        query = _KEPT.where(namespaces.c.name == namespace)
        with self._database.asking() as connection:
            rows = connection.execute(query.order_by(api_keys.c.created_at, api_keys.c.id)).all()
        return [_kept(row) for row in rows]

    def remove(self, namespace: str, key_id: str) -> bool:
        """Delete a key of this namespace; False where there is none of that id."""
        with self._database.changing(namespace) as scope:
            chosen = (api_keys.c.id == key_id) & (api_keys.c.namespace_id == scope.id)
            return bool(scope.connection.execute(sa.delete(api_keys).where(chosen)).rowcount)


def _joined(scopes: Iterable[str]) -> str:
    return ",".join(sorted(scopes))


def _kept(row: sa.Row[*tuple[Any, ...]]) -> KeptKey:
    key_id, namespace, hashed, scopes, mark, created_at = row
    return KeptKey(key_id, namespace, hashed, frozenset(scopes.split(",")), mark, created_at)
