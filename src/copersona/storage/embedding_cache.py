"""Embeddings of stored texts, by namespace, encoder and content hash.

Equal texts of different users share one row. A row lives exactly as long as some interaction of
the namespace has its text: others are not taken in, and `sweep` removes those whose last text
went. This module encodes nothing, and knows users by their mark only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from copersona.errors import ShapeError
from copersona.records import Interaction
from copersona.storage.database import Database, Scope, chunks, rows_in
from copersona.storage.schema import INTERACTION_FIELDS, TIME_ORDER, embeddings, interactions, users

# Little-endian whatever the machine, so that a database may be carried elsewhere.
_FLOAT16 = np.dtype("<f2")
_HASH_COLUMNS = (interactions.c.input_hash, interactions.c.response_hash)


@dataclass(frozen=True)
class Remembered:
    """What is kept of one user.

    Attributes:
        history: in time order.
        instructions: in the order they were given.
        inputs, responses: the embeddings of each interaction's texts; None where not known.
    """

    history: tuple[Interaction, ...]
    instructions: tuple[str, ...]
    inputs: tuple[NDArray[np.float16] | None, ...]
    responses: tuple[NDArray[np.float16] | None, ...]


def read(scope: Scope, encoder: str, hashes: Sequence[bytes]) -> dict[bytes, NDArray[np.float16]]:
    """What is known of these texts; read-only vectors."""
    query = sa.select(embeddings.c.hash, embeddings.c.vector).where(
        embeddings.c.namespace_id == scope.id, embeddings.c.encoder == encoder
    )
    rows = rows_in(scope.connection, query, embeddings.c.hash, dict.fromkeys(hashes))
    return {key: np.frombuffer(vector, dtype=_FLOAT16) for key, vector in rows}


def history(
    connection: sa.Connection, mark: bytes, encoder: str, before: float | None
) -> list[sa.Row[*tuple[Any, ...]]]:
    """A user's interactions in time order, with the bytes of the vectors of input and response.

    Each row is the interaction's fields, then the two; None where a vector is not known.
    """
    asked = {"mark": mark, "encoder": encoder}
    if before is None:
        return list(connection.execute(_HISTORY, asked))
    return list(connection.execute(_HISTORY_BEFORE, {**asked, "before": before}))


def vector_of(stored: bytes | None) -> NDArray[np.float16] | None:
    """A vector as it is kept; read-only."""
    return None if stored is None else np.frombuffer(stored, dtype=_FLOAT16)


def _with_vectors() -> sa.Select[*tuple[Any, ...]]:
    of_input, of_response = embeddings.alias(), embeddings.alias()
    joined = interactions.join(users)
    for alias, column in zip((of_input, of_response), _HASH_COLUMNS, strict=True):
        joined = joined.outerjoin(
            alias,
            (alias.c.namespace_id == interactions.c.namespace_id)
            & (alias.c.hash == column)
            & (alias.c.encoder == sa.bindparam("encoder")),
        )
    query = sa.select(*INTERACTION_FIELDS, of_input.c.vector, of_response.c.vector)
    query = query.select_from(joined).where(users.c.mark == sa.bindparam("mark"))
    return query.order_by(*TIME_ORDER)


# Built once: to build a statement takes longer than to run it.
_HISTORY = _with_vectors()
_HISTORY_BEFORE = _HISTORY.where(
    interactions.c.at.is_(None) | (interactions.c.at < sa.bindparam("before"))
)


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
