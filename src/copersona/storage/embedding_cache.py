"""Embeddings of stored texts, by namespace, encoder and content hash.

Equal texts of different users share one row. A row lives exactly as long as some interaction of
the namespace has its text: others are not taken in, and `sweep` removes those whose last text
went. This module encodes nothing, and knows no users.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from copersona.errors import ShapeError
from copersona.storage.database import Database, Scope, chunks, rows_in
from copersona.storage.schema import embeddings, interactions

# Little-endian whatever the machine, so that a database may be carried elsewhere.
_FLOAT16 = np.dtype("<f2")
_HASH_COLUMNS = (interactions.c.input_hash, interactions.c.response_hash)


def read(scope: Scope, encoder: str, hashes: Sequence[bytes]) -> dict[bytes, NDArray[np.float16]]:
    """What is known of these texts; read-only vectors."""
    query = sa.select(embeddings.c.hash, embeddings.c.vector).where(
        embeddings.c.namespace_id == scope.id, embeddings.c.encoder == encoder
    )
    rows = rows_in(scope.connection, query, embeddings.c.hash, dict.fromkeys(hashes))
    return {key: vector_of(stored) for key, stored in rows}


def vector_of(stored: bytes) -> NDArray[np.float16]:
    """A vector from what is stored of it; read-only."""
    return np.frombuffer(stored, dtype=_FLOAT16)


def check_shapes(hashes: Sequence[bytes], matrix: NDArray[np.float16]) -> None:
    """Raise `ShapeError` unless `matrix` has one row for each hash."""
    if matrix.ndim != 2 or len(matrix) != len(hashes):
        raise ShapeError(f"{len(hashes)} hashes, but a matrix of shape {matrix.shape}")


def write(
    database: Database,
    scope: Scope,
    encoder: str,
    hashes: Sequence[bytes],
    matrix: NDArray[np.float16],
) -> int:
    """Keep the vectors of texts that are in the namespace; returns how many are new."""
    vectors = dict(zip(hashes, np.asarray(matrix, dtype=_FLOAT16), strict=True))
    written = 0
    for part in chunks(vectors):
        rows = [
            {
                "namespace_id": scope.id,
                "hash": h,
                "encoder": encoder,
                "vector": vectors[h].tobytes(),
            }
            for h in _in_use(scope, part) - read(scope, encoder, part).keys()
        ]
        if rows:
            scope.connection.execute(database.insert_new(embeddings), rows)
        written += len(rows)
    return written


def sweep(scope: Scope, hashes: Iterable[bytes]) -> int:
    """Remove the embeddings of those of these texts that nobody has any more."""
    removed = 0
    for part in chunks(hashes):
        query = sa.delete(embeddings).where(
            embeddings.c.namespace_id == scope.id, embeddings.c.hash.in_(part), unused()
        )
        removed += scope.connection.execute(query).rowcount
    return removed


def unused() -> sa.ColumnElement[bool]:
    """True of an embedding whose text is in no interaction of its namespace."""
    return sa.and_(*(~_uses(column) for column in _HASH_COLUMNS))


def n_unused(connection: sa.Connection) -> int:
    """How many embeddings are of texts nobody has; 0 when sound."""
    query = sa.select(sa.func.count()).select_from(embeddings)
    return connection.scalar(query.where(unused())) or 0


def _uses(column: sa.Column[Any]) -> sa.ColumnElement[bool]:
    same_namespace = interactions.c.namespace_id == embeddings.c.namespace_id
    query = sa.exists().where(same_namespace, column == embeddings.c.hash)
    return query.correlate(embeddings)


def _in_use(scope: Scope, hashes: list[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    for column in _HASH_COLUMNS:
        query = sa.select(column).where(interactions.c.namespace_id == scope.id)
        found.update(row[0] for row in rows_in(scope.connection, query, column, hashes))
    return found
