"""Taking rows in: one outcome per row, in order, whatever the others are.

A batch is taken in parts within one transaction, so that a large one needs no copy of itself in
memory. This module asks the registry whose words may be kept; it decides nothing about that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from copersona.errors import DataError
from copersona.records import Interaction, RowOutcome
from copersona.storage.database import Scope, insert_many, rows_in
from copersona.storage.schema import interactions, row_of
from copersona.storage.user_registry import UserRegistry

_ROWS_AT_ONCE = 2_000


class Intake:
    """One batch on its way in.

    Attributes:
        user_ids: rows of the users who got something new.
    """

    def __init__(self, registry: UserRegistry, scope: Scope) -> None:
        self._registry = registry
        self._scope = scope
        self._rows: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self.user_ids: set[int] = set()

    def take(self, batch: Sequence[Interaction]) -> list[RowOutcome]:
        """Store what may be stored."""
        outcomes: list[RowOutcome] = []
        for start in range(0, len(batch), _ROWS_AT_ONCE):
            part = batch[start : start + _ROWS_AT_ONCE]
            outcomes += self._take_part(part, [_prepared(row) for row in part], start)
        return outcomes

    def _take_part(
        self, part: Sequence[Interaction], prepared: list[dict[str, Any] | DataError], start: int
    ) -> list[RowOutcome]:
        sound = [values for values in prepared if isinstance(values, dict)]
        self._admit({r.user for r, v in zip(part, prepared, strict=True) if isinstance(v, dict)})
        known = self._known([values["id_hash"] for values in sound])
        new: list[dict[str, Any]] = []
        outcomes: list[RowOutcome] = []
        for index, (row, values) in enumerate(zip(part, prepared, strict=True), start):
            if isinstance(values, DataError):
                outcomes.append(_rejected(index, row, values.reason, values.field))
            elif row.user in self._refused:
                outcomes.append(_rejected(index, row, self._refused[row.user], "user"))
            elif values["id_hash"] in known:
                outcomes.append(RowOutcome(index, "duplicate", row.id, source=row.source))
            else:
                known.add(values["id_hash"])
                values["namespace_id"] = self._scope.id
                values["user_id"] = self._rows[row.user]
                new.append(values)
                outcomes.append(RowOutcome(index, "stored", row.id, source=row.source))
        self._insert(new)
        return outcomes

    def _admit(self, names: set[str]) -> None:
        rows, refused = self._registry.admit(
            self._scope, names - self._rows.keys() - self._refused.keys()
        )
        self._rows.update(rows)
        self._refused.update(refused)

    def _known(self, hashes: list[bytes]) -> set[bytes]:
        column = interactions.c.id_hash
        query = sa.select(column).where(interactions.c.namespace_id == self._scope.id)
        return {row[0] for row in rows_in(self._scope.connection, query, column, hashes)}

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            insert_many(self._scope.connection, interactions, rows)
            self.user_ids.update(values["user_id"] for values in rows)


def _prepared(row: Interaction) -> dict[str, Any] | DataError:
    try:
        return row_of(row)
    except DataError as error:
        return error


def _rejected(index: int, row: Interaction, reason: str, field: str | None) -> RowOutcome:
    return RowOutcome(index, "rejected", row.id, reason, field, row.source)
