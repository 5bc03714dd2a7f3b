"""Nearest neighbours: blocked search is brute force, ties are settled, the index finds most."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from copersona.errors import ShapeError
from copersona.method import knn
from copersona.method.facets import unit
from copersona.method.knn import top_k

Array = NDArray[Any]


def vectors(n: int, dim: int = 8, seed: int = 0) -> Array:
    return unit(np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32))


def brute_force(queries: Array, database: Array, k: int, exclude: Array | None = None) -> Array:
    """One query, one database row at a time; −1 where there are fewer than k."""
    found = np.full((len(queries), k), -1)
    for q, query in enumerate(queries):
        if not query.any():
            continue
        usable = [
            (-float(row @ query), r)
            for r, row in enumerate(database)
            if row.any() and (exclude is None or exclude[q] != r)
        ]
        best = [r for _, r in sorted(usable)[:k]]
        found[q, : len(best)] = best
    return found


@given(st.integers(0, 9), st.integers(0, 30), st.integers(1, 12), st.integers(1, 40), st.booleans())
@settings(max_examples=40, deadline=None)
def test_blocked_search_is_brute_force(n: int, m: int, k: int, block: int, is_itself: bool) -> None:
    queries, database = vectors(n, seed=1), vectors(m, seed=2)
    database[::5] = 0
    exclude = np.arange(n) % max(m, 1) if is_itself else None
    before = knn._BLOCK_CELLS
    knn._BLOCK_CELLS = block
    try:
        rows, cosines = top_k(queries, database, k, exclude=exclude)
    finally:
        knn._BLOCK_CELLS = before
    np.testing.assert_array_equal(rows, brute_force(queries, database, k, exclude))
    told = rows >= 0
    expected = (queries[:, None] * database[rows]).sum(axis=2) if m else np.zeros((n, k))
    np.testing.assert_allclose(cosines, np.where(told, expected, 0), atol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_equal_rows_come_in_order_of_their_number(exact: bool) -> None:
    database = np.zeros((6, 4), np.float32)
    database[[1, 2, 4, 5], 0] = 1
    rows, cosines = top_k(database[[1]], database, 4, exact=exact)
    assert rows.tolist() == [[1, 2, 4, 5]]
    assert cosines.tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_ties_at_the_last_place_go_to_the_lower_row() -> None:
    database = np.repeat(np.eye(3, dtype=np.float32)[:1], 50, axis=0)
    assert top_k(database[:1], database, 3)[0].tolist() == [[0, 1, 2]]
    assert top_k(database[:1], database, 3, exclude=np.array([1]))[0].tolist() == [[0, 2, 3]]


def test_the_index_finds_at_least_95_of_100_true_neighbours() -> None:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(40, 32))
    points = centres[rng.integers(40, size=4000)] + rng.normal(0, 0.6, (4000, 32))
    database = unit(points.astype(np.float32))
    itself = np.arange(200)
    exact, _ = top_k(database[:200], database, 10, exclude=itself, exact=True)
    near, cosines = top_k(database[:200], database, 10, exclude=itself, exact=False)
    found = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), near.tolist(), strict=True)]
    assert np.mean(found) / 10 >= 0.95
    assert not (near == itself[:, None]).any()
    assert (np.diff(cosines, axis=1) <= 0).all()


@pytest.mark.parametrize("exact", [True, False])
def test_a_zero_vector_has_no_neighbours_and_is_nobodys(exact: bool) -> None:
    database = vectors(5)
    database[2] = 0
    rows, cosines = top_k(database, database, 5, exact=exact)
    assert (rows[2] == -1).all()
    assert (cosines[2] == 0).all()
    assert 2 not in rows
    assert (rows[[0, 1, 3, 4], 4] == -1).all()


def test_an_empty_database_answers_with_nobody() -> None:
    for database in (np.zeros((0, 8), np.float32), np.zeros((3, 8), np.float32)):
        rows, cosines = top_k(vectors(2), database, 3)
        assert (rows == -1).all()
        assert (cosines == 0).all()


def test_vectors_of_other_width_are_refused() -> None:
    with pytest.raises(ShapeError, match="8 columns, database 5"):
        top_k(vectors(2), vectors(2, dim=5), 1)
