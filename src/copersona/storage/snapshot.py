"""All interactions of a namespace in one stable order, as records or as columns.

Users are sorted by id, so that the order does not depend on who came first; within a user it is
time order. A hundred users are read at a time, so memory does not grow with the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from copersona.storage.database import Scope, chunks
from copersona.storage.schema import TIME_ORDER, interactions, users

_USERS_AT_ONCE = 100

# Texts are `large_string`: a batch of long ones exceeds the 2 GB that `string` can address.
COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "user": pa.string(),
    "input": pa.large_string(),
    "response": pa.large_string(),
    "item": pa.string(),
    "rating": pa.float64(),
    "label": pa.string(),
    "at": pa.float64(),
    "facet": pa.string(),
    "thread": pa.string(),
    "source": pa.string(),
    "input_hash": pa.binary(16),
    "response_hash": pa.binary(16),
}


def rows_in_order(
    scope: Scope, fields: Sequence[sa.ColumnElement[Any]]
) -> Iterator[tuple[str, list[Any]]]:
    """Each user with the fields of one interaction, by user and time."""
    user_id = interactions.c.user_id
    query = sa.select(users.c.id, users.c.name).where(users.c.namespace_id == scope.id)
    names: dict[int, str] = {row.id: row.name for row in scope.connection.execute(query)}
    for part in chunks(sorted(names, key=names.__getitem__), _USERS_AT_ONCE):
        rows: dict[int, list[list[Any]]] = {one: [] for one in part}
        found = sa.select(user_id, *fields).where(user_id.in_(part))
        for owner, *values in scope.connection.execute(found.order_by(user_id, *TIME_ORDER)):
            rows[owner].append(values)
        for one in part:
            for values in rows[one]:
                yield names[one], values


def batches(scope: Scope, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """`COLUMNS` in batches of `batch_rows`, the last one shorter."""
    fields = [interactions.c[name] for name in COLUMNS if name != "user"]
    rows = rows_in_order(scope, fields)
    while part := list(islice(rows, batch_rows)):
        ids, *rest = zip(*(values for _, values in part), strict=True)
        columns = [ids, [user for user, _ in part], *rest]
        yield pa.record_batch(
            [pa.array(c, kind) for c, kind in zip(columns, COLUMNS.values(), strict=True)],
            names=list(COLUMNS),
        )
