"""Items of users who lend text: what may be quoted as a peer's or the population's evidence.

Holds vectors and ids, never words: the words are read from the store when needed, where consent is
checked again. The search is exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class TextItems:
    """Quotable interactions.

    Shapes:
        lenders, facets (n,) int32: row of the author and facet · vectors (n, dim) float16, rows
        of length 1 or 0 · ids: n interaction ids.
    """

    ids: tuple[str, ...]
    lenders: Array
    facets: Array
    vectors: Array

    def nearest(self, vector: Array, k: int, rows: Array | None = None) -> Array:
        """The k items most similar to a query vector, best first, ties by row.

        Args:
            rows: only these items; all where None.
        """
        pool = np.arange(len(self.ids)) if rows is None else rows
        if not len(pool):
            return pool
        similarity = self.vectors[pool].astype(np.float32) @ vector.astype(np.float32)
        if 4 * k < len(pool):
            kth = np.partition(similarity, -k)[-k]
            keep = np.flatnonzero(similarity >= kth)
            pool, similarity = pool[keep], similarity[keep]
        return np.asarray(pool[np.lexsort((pool, -similarity))][:k])

    def of_lender(self, lender: int, facet: int) -> Array:
        """Rows of one author in one facet."""
        first, last = np.searchsorted(self.lenders, [lender, lender + 1])
        rows = np.arange(first, last)
        return np.asarray(rows[self.facets[rows] == facet])

    def without(self, lender: int) -> TextItems:
        """The same without one author; later authors move up by one row."""
        keep = self.lenders != lender
        kept = np.flatnonzero(keep)
        rows = self.lenders[keep]
        ids = tuple(self.ids[i] for i in kept.tolist())
        return TextItems(ids, rows - (rows > lender), self.facets[keep], self.vectors[keep])


def build_text_items(
    ids: Sequence[str], lenders: Array, facets: Array, vectors: Array, may_quote: Array
) -> TextItems:
    """Items of authors who lend text, in order of author.

    Shapes:
        ids, lenders, facets, vectors, may_quote: n rows
    """
    rows = np.flatnonzero(may_quote)
    rows = rows[np.argsort(lenders[rows], kind="stable")]
    return TextItems(
        tuple(ids[i] for i in rows.tolist()), np.asarray(lenders[rows], np.int32),
        np.asarray(facets[rows], np.int32), np.asarray(vectors[rows], np.float16),
    )  # fmt: skip


def items_to_arrays(items: TextItems) -> dict[str, Array]:
    """As named arrays; `items_from_arrays` is the inverse."""
    ids = np.frombuffer(json.dumps(items.ids, ensure_ascii=False).encode(), np.uint8)
    return {"items.ids": ids, "items.lenders": items.lenders, "items.facets": items.facets,
            "items.vectors": items.vectors}  # fmt: skip


def items_from_arrays(arrays: Mapping[str, Array]) -> TextItems:
    """The items again; KeyError where an array is missing."""
    return TextItems(
        tuple(json.loads(bytes(arrays["items.ids"]))), arrays["items.lenders"],
        arrays["items.facets"], arrays["items.vectors"],
    )  # fmt: skip
