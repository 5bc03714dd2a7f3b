"""Items of users who lend text: what may be quoted as a peer's or the population's evidence.

Holds vectors and ids, never words: the words are read from the store when needed, where consent is
checked again. The search is exact: one product with all vectors per request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.method.corpus import Corpus

Array = NDArray[Any]


@dataclass(frozen=True)
class TextItems:
    """Quotable interactions, in order of author.

    Shapes:
        lenders, facets (n,) int32: row of the author and facet · at (n,) int64: seconds, the
        smallest number where unknown · vectors (n, dim) float16, rows of length 1 or 0 · ids: n
        interaction ids.
    """

    ids: tuple[str, ...]
    lenders: Array
    facets: Array
    at: Array
    vectors: Array

    @cached_property
    def authors(self) -> Array:
        """Rows of all authors among the lenders, ascending."""
        return np.unique(self.lenders)

    @cached_property
    def _dense(self) -> Array:
        # Kept for the life of the state: to widen every row anew takes longer than the product.
        return self.vectors.astype(np.float32)

    def likeness(self, vector: Array, before: float | None = None) -> Array:
        """Inner product of a query vector with every item: (dim,) -> (n,).

        Args:
            before: what is newer gets −∞, and `best` never returns it.
        """
        found = np.asarray(self._dense @ vector.astype(np.float32))
        if before is not None:
            found[self.at > before] = -np.inf
        return found

    def of_lenders(self, lenders: Array, facet: int) -> Array:
        """Rows of some authors in one facet, ascending within an author."""
        first = np.searchsorted(self.lenders, lenders)
        lengths = np.searchsorted(self.lenders, lenders, side="right") - first
        before = np.cumsum(lengths) - lengths
        rows = np.arange(lengths.sum()) + np.repeat(first - before, lengths)
        return np.asarray(rows[self.facets[rows] == facet])

    def best_of_each(self, likeness: Array, rows: Array, k: int) -> Array:
        """At most k of these rows by any one author, the likest; ties by row."""
        authors = self.lenders[rows]
        order = np.lexsort((rows, -likeness[rows], authors))
        starts = np.flatnonzero(np.diff(authors[order], prepend=-1))
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
        return np.asarray(rows[order[rank < k]])

    def without(self, lender: int) -> TextItems:
        """The same without one author; later authors move up by one row."""
        keep = self.lenders != lender
        kept = np.flatnonzero(keep)
        rows = self.lenders[keep]
        ids = tuple(self.ids[i] for i in kept.tolist())
        return TextItems(ids, rows - (rows > lender), self.facets[keep],
                         self.at[keep], self.vectors[keep])  # fmt: skip


def best(likeness: Array, k: int, rows: Array | None = None) -> Array:
    """The k likest rows, best first, ties by row.

    Args:
        rows: only these; all where None.

    Shapes:
        likeness (n,)
    """
    pool = np.arange(len(likeness)) if rows is None else rows
    values = likeness if rows is None else likeness[rows]
    pool, values = pool[values > -np.inf], values[values > -np.inf]
    if 0 < k < len(pool):
        keep = np.flatnonzero(values >= np.partition(values, -k)[-k])
        pool, values = pool[keep], values[keep]
    return np.asarray(pool[np.lexsort((pool, -values))][:k])


def build_text_items(
    ids: Sequence[str], corpus: Corpus, facets: Array, may_quote: Array
) -> TextItems:
    """Items of authors who lend text, in order of author.

    Shapes:
        ids, facets, may_quote: a row for every interaction of the corpus
    """
    lenders = corpus.users
    rows = np.flatnonzero(may_quote)
    rows = rows[np.argsort(lenders[rows], kind="stable")]
    return TextItems(
        tuple(ids[i] for i in rows.tolist()), np.asarray(lenders[rows], np.int32),
        np.asarray(facets[rows], np.int32), _seconds(corpus.at[rows]),
        np.asarray(corpus.inputs[rows], np.float16),
    )  # fmt: skip


def _seconds(at: Array) -> Array:
    return np.where(np.isnan(at), np.iinfo(np.int64).min, np.nan_to_num(at)).astype(np.int64)


def items_to_arrays(items: TextItems) -> dict[str, Array]:
    """As named arrays; `items_from_arrays` is the inverse."""
    ids = np.frombuffer(json.dumps(items.ids, ensure_ascii=False).encode(), np.uint8)
    return {"items.ids": ids, "items.lenders": items.lenders, "items.facets": items.facets,
            "items.at": items.at, "items.vectors": items.vectors}  # fmt: skip


def items_from_arrays(arrays: Mapping[str, Array]) -> TextItems:
    """The items again; KeyError where an array is missing."""
    return TextItems(
        tuple(json.loads(bytes(arrays["items.ids"]))), arrays["items.lenders"],
        arrays["items.facets"], arrays["items.at"], arrays["items.vectors"],
    )  # fmt: skip
