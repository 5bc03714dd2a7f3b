"""What chats took, counted by key, user, model and day.

A row names its user only where something may be kept of them, and goes when they are forgotten.
Knows neither prices nor what was said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from copersona.storage.database import Database, Scope
from copersona.storage.schema import namespaces, usage, users
from copersona.storage.user_registry import UserRegistry

MAX_MODEL_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Usage:
    """What one request took, or all of a row together.

    Attributes:
        day: in UTC, as `2026-05-31`.
        estimated: requests whose tokens the server did not say.
        added_tokens: those of the prompt that personalisation put there.
        mark: of the user; None where there is none to name.
    """

    key_id: str
    model: str
    day: str
    prompt_tokens: int
    completion_tokens: int
    added_tokens: int
    estimated: int
    requests: int = 1
    mark: bytes | None = None


_COUNTS = ("prompt_tokens", "completion_tokens", "added_tokens", "estimated", "requests")
_COLUMNS = [
    users.c.mark if field.name == "mark" else usage.c[field.name] for field in fields(Usage)
]
_SAME = ("namespace_id", "user_id", "key_id", "model", "day")


def _given(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values under names that an update does not take for its columns."""
    return {f"given_{name}": value for name, value in row.items()}


def _bound(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(f"given_{name}", type_=usage.c[name].type)


# Built once, since every chat runs it.
_COUNT = (
    sa.update(usage)
    .where(*(usage.c[name].is_not_distinct_from(_bound(name)) for name in _SAME))
    .values({name: usage.c[name] + _bound(name) for name in _COUNTS})
)


class UsageLog:
    """The counts of one database."""

    def __init__(self, database: Database, registry: UserRegistry) -> None:
        self._database, self._registry = database, registry

    def add(self, namespace: str, user: str | None, one: Usage) -> None:
        """Count a request; without its user, where nothing of them may be kept.

        The disk is not waited for: the last requests before a power cut may be missing.
        """
        with self._database.changing(namespace, durable=False) as scope:
            rows = self._registry.admit(scope, [user])[0] if user else {}
            row = {
                "namespace_id": scope.id, "user_id": rows.get(user or ""), "key_id": one.key_id,
                "model": one.model[:MAX_MODEL_CHARACTERS], "day": one.day,
            } | {name: getattr(one, name) for name in _COUNTS}  # fmt: skip
            if not scope.connection.execute(_COUNT, _given(row)).rowcount:
                scope.connection.execute(sa.insert(usage), row)

    def since(self, namespace: str, day: str, *, mark: bytes | None = None) -> list[Usage]:
        """The rows of a namespace from a day on, oldest first.

        Args:
            mark: of the only user to be told of; None tells of everybody.
        """
        query = sa.select(*_COLUMNS).select_from(usage.join(namespaces).outerjoin(
            users, usage.c.user_id == users.c.id
        )).where(namespaces.c.name == namespace, usage.c.day >= day)  # fmt: skip
        if mark is not None:
            query = query.where(users.c.mark == mark)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(usage.c.day, usage.c.seq)).all()
        return [Usage(*row) for row in rows]

    def of_user(self, namespace: str, user: str) -> list[Usage]:
        """The rows of one user, oldest first."""
        return self.since(namespace, "", mark=self._registry.mark(namespace, user))


def hand_over(scope: Scope, old: int, new: int) -> None:
    """Give one user's rows to another; those that then stand for the same become one."""
    theirs = usage.c.user_id.in_([old, new])
    same = (usage.c.key_id, usage.c.model, usage.c.day)
    sums = [sa.cast(sa.func.sum(usage.c[name]), sa.BigInteger).label(name) for name in _COUNTS]
    query = sa.select(*same, *sums).where(theirs).group_by(*same)
    rows = scope.connection.execute(query.order_by(sa.func.min(usage.c.seq))).mappings().all()
    scope.connection.execute(sa.delete(usage).where(theirs))
    if rows:
        owner = {"namespace_id": scope.id, "user_id": new}
        scope.connection.execute(sa.insert(usage), [{**row, **owner} for row in rows])
