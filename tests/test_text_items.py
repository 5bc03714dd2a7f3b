"""Quotable items: exact search, an author's share of it, and taking an author out."""

from dataclasses import replace

import numpy as np
import pytest

from copersona.answering.text_items import (
    best,
    build_text_items,
    items_from_arrays,
    items_to_arrays,
)
from copersona.method.corpus import build_corpus
from copersona.records import Interaction


@pytest.fixture
def items():
    """Nine items of lenders 0, 2 and 3 (1 does not lend text), given in no order of author."""
    rng = np.random.default_rng(3)
    lenders = np.array([3, 0, 2, 1, 0, 3, 2, 0, 1, 3, 0])
    facets = np.array([0, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0])
    vectors = rng.normal(size=(11, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    said = [
        Interaction(f"u{lender}", f"item {n}", at=None if n == 4 else 100.5 + n)
        for n, lender in enumerate(lenders.tolist())
    ]
    corpus = replace(build_corpus(said, vectors, vectors), users=lenders)
    return build_text_items([f"i{n}" for n in range(11)], corpus, facets, lenders != 1)


def test_items_stand_in_order_of_author_without_those_who_do_not_lend(items):
    assert items.lenders.tolist() == [0, 0, 0, 0, 2, 2, 3, 3, 3]
    assert items.ids == ("i1", "i4", "i7", "i10", "i2", "i6", "i0", "i5", "i9")
    assert items.authors.tolist() == [0, 2, 3]


def test_likeness_is_the_inner_product_with_every_item(items):
    query = np.array([1.0, 0.5, 0.0, -1.0])
    expected = [float(row @ query) for row in items.vectors.astype(float)]
    assert items.likeness(query).tolist() == pytest.approx(expected, abs=1e-5)


def test_what_is_newer_than_the_request_is_never_among_the_best(items):
    likeness = items.likeness(np.ones(4), before=103.0)
    assert [items.ids[row] for row in sorted(best(likeness, 9))] == ["i1", "i4", "i2", "i0"]
    assert best(likeness, 9, np.array([2, 3, 8])).tolist() == []
    assert len(best(items.likeness(np.ones(4), before=1e9), 9)) == 9


def test_best_are_the_likest_with_ties_by_row():
    likeness = np.array([0.1, 0.9, 0.9, 0.3, 0.9])
    assert best(likeness, 2).tolist() == [1, 2]
    assert best(likeness, 9).tolist() == [1, 2, 4, 3, 0]
    assert best(likeness, 2, np.array([0, 3, 4])).tolist() == [4, 3]
    assert best(likeness, 3, np.zeros(0, int)).tolist() == []
    assert best(likeness, 0).tolist() == []


@pytest.mark.parametrize("seed", range(3))
def test_best_equals_a_full_sort(seed):
    likeness = np.random.default_rng(seed).integers(0, 20, 300) / 20
    order = sorted(range(300), key=lambda row: (-likeness[row], row))
    assert best(likeness, 40).tolist() == order[:40]


def test_rows_of_authors_in_a_facet(items):
    assert items.of_lenders(np.array([3, 0]), 0).tolist() == [6, 7, 0, 2, 3]
    assert items.of_lenders(np.array([1, 2]), 0).tolist() == []
    assert items.of_lenders(np.zeros(0, int), 0).tolist() == []


def test_of_each_author_only_the_likest(items):
    likeness = np.array([0.1, 0.9, 0.3, 0.3, 0.5, 0.6, 0.0, 0.2, 0.1])
    rows = np.arange(9)
    assert items.best_of_each(likeness, rows, 2).tolist() == [1, 2, 5, 4, 7, 8]
    assert items.best_of_each(likeness, rows[6:], 9).tolist() == [7, 8, 6]
    assert items.best_of_each(likeness, rows[:0], 2).tolist() == []


def test_without_an_author_later_ones_move_up(items):
    rest = items.without(2)
    assert rest.lenders.tolist() == [0, 0, 0, 0, 2, 2, 2]
    assert not {"i2", "i6"} & set(rest.ids)
    np.testing.assert_array_equal(rest.likeness(np.ones(4))[4:], items.likeness(np.ones(4))[6:])


def test_arrays_and_back(items):
    again = items_from_arrays(items_to_arrays(items))
    assert again.ids == items.ids
    for name in ("lenders", "facets", "vectors"):
        np.testing.assert_array_equal(getattr(again, name), getattr(items, name))
