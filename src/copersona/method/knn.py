"""Exact and approximate top-k by cosine, with deterministic ties; the only nearest-neighbour code.

Up to `EXACT_ROWS` database rows the search is a blocked matrix product; above, an HNSW index
(usearch, bfloat16). Rows of length 0 are nobody's neighbour and have none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from copersona.errors import ShapeError

Array = NDArray[Any]

EXACT_ROWS = 100_000
_BLOCK_CELLS = 8_000_000
_GROUP = 16
"""Columns of which only the largest is looked at while the k-th largest is bounded from below."""


def top_k(
    queries: Array,
    database: Array,
    k: int,
    *,
    exclude: Array | None = None,
    exact: bool | None = None,
) -> tuple[Array, Array]:
    """The k database rows most similar to every query, best first.

    Args:
        exclude: per query, a database row that must not be returned (itself); −1 for none.
        exact: force or forbid the exact search; by size where None.

    Shapes:
        queries (n, dim), database (m, dim), rows of length 1 or 0 -> rows (n, k) int32, −1 where
        there are fewer than k, and cosines (n, k) float32, 0 there.

    Raises:
        ShapeError: the two disagree on dim.
    """
    if queries.shape[1] != database.shape[1]:
        raise ShapeError(f"queries have {queries.shape[1]} columns, database {database.shape[1]}")
    rows = np.full((len(queries), k), -1, np.int32)
    cosines = np.zeros((len(queries), k), np.float32)
    usable = np.flatnonzero(np.any(database != 0, axis=1))
    asking = np.flatnonzero(np.any(queries != 0, axis=1))
    if not len(usable) or not len(asking):
        return rows, cosines
    barred = np.full(len(queries), -1) if exclude is None else exclude
    search = _exact if exact or (exact is None and len(usable) <= EXACT_ROWS) else _approximate
    rows[asking], cosines[asking] = search(
        np.asarray(queries[asking], np.float32),
        np.asarray(database[usable], np.float32),
        usable,
        barred[asking],
        k,
    )
    return rows, cosines


def _exact(
    queries: Array, database: Array, usable: Array, barred: Array, k: int
) -> tuple[Array, Array]:
    rows = np.full((len(queries), k), -1, np.int32)
    cosines = np.zeros((len(queries), k), np.float32)
    position = np.full(int(usable.max()) + 2, -1)
    position[usable] = np.arange(len(usable))
    k = min(k, len(usable))
    block = max(1, _BLOCK_CELLS // len(database))
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        similarity = queries[part] @ database.T
        own = position[np.clip(barred[part], -1, len(position) - 1)]
        mine = np.flatnonzero((barred[part] >= 0) & (own >= 0))
        similarity[mine, own[mine]] = -np.inf
        best = _best(similarity, k)
        found = np.take_along_axis(similarity, best, axis=1)
        alive = np.isfinite(found)
        rows[part, :k] = np.where(alive, usable[best], -1)
        cosines[part, :k] = np.where(alive, found, 0)
    return rows, cosines


def _best(similarity: Array, k: int) -> Array:
    """Columns of the k largest of every row, best first, ties by lower column.

    Only what reaches a bound below the k-th value of its row is sorted, which is several times
    faster than an argpartition.
    """
    n_columns = similarity.shape[1]
    place = np.flatnonzero(similarity >= _bound(similarity, k)[:, None])
    row, column = np.divmod(place, n_columns)
    counts = np.bincount(row, minlength=len(similarity))
    rank = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    value = np.full((len(similarity), counts.max()), -np.inf, np.float32)
    value[row, rank] = similarity.ravel()[place]
    columns = np.zeros(value.shape, np.int64)
    columns[row, rank] = column
    order = np.argsort(-value, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(columns, order, axis=1)


def _bound(similarity: Array, k: int) -> Array:
    """A value that at least k entries of each row reach, seldom many more: (n,).

    The k-th largest of the maxima of small groups of columns, for a fraction of the work.
    """
    width = similarity.shape[1] // _GROUP
    if width < 2 * k:
        return np.asarray(np.partition(similarity, -k, axis=1)[:, -k])
    grouped = similarity[:, : width * _GROUP].reshape(len(similarity), _GROUP, width)
    return np.asarray(np.partition(grouped.max(axis=1), -k, axis=1)[:, -k])


def build_index(database: Array) -> Index:
    """An HNSW index over rows of length 1; keys are row numbers."""
    index = Index(ndim=database.shape[1], metric="ip", dtype="bf16")
    index.add(np.arange(len(database)), np.asarray(database, np.float32))
    return index


def _approximate(
    queries: Array, database: Array, usable: Array, barred: Array, k: int
) -> tuple[Array, Array]:
    rows = np.full((len(queries), k), -1, np.int32)
    cosines = np.zeros((len(queries), k), np.float32)
    index = build_index(database)
    for start in range(0, len(queries), 10_000):
        part = slice(start, start + 10_000)
        found = index.search(queries[part], min(k + 1, len(usable)))
        # usearch answers a single query with flat arrays
        keys = usable[np.atleast_2d(np.asarray(found.keys, np.int64))]
        similarity = 1 - np.atleast_2d(np.asarray(found.distances, np.float32))
        similarity[keys == barred[part, None]] = -np.inf
        order = np.lexsort((keys, -similarity), axis=1)[:, :k]
        keys = np.take_along_axis(keys, order, axis=1)
        similarity = np.take_along_axis(similarity, order, axis=1)
        alive = np.isfinite(similarity)
        rows[part, : keys.shape[1]] = np.where(alive, keys, -1)
        cosines[part, : keys.shape[1]] = np.where(alive, similarity, 0)
    return rows, cosines
