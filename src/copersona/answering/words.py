"""Distinctive words: what a user, or a user's peers, say more often in a facet than others do.

Counts in how many responses of each lender and facet a word stands, and compares shares of words by
log odds with an informative Dirichlet prior, so that neither rare nor everyday words win by
themselves. Which words may cross is decided by `consent`; here every word that is borrowed is held
once more, last of all, to the number of peers behind it.

Knows words as strings and lenders as rows. It knows no store, no files, no vectors and no consent
beyond a flag per peer; a user's own words are computed from that user's history when read.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import ndtri

from copersona.consent import MIN_DONORS, crossable_words, shared_words
from copersona.errors import ShapeError
from copersona.method.corpus import has_own_words
from copersona.method.logodds import PRIOR_FLOOR, log_odds, prior_of
from copersona.records import Interaction
from copersona.style import tokenize

Array = NDArray[Any]

MOST = 5
"""Words of a user said of one facet …"""
MOST_OF_PEERS = 3
"""… and of the user's peers, which say less."""
MIN_Z = 2.0
"""Standard errors above the population."""
CHANCE = 0.05
"""Words of a group of peers expected by mere chance: among many words some are always above 2."""
MIN_RATIO = 2.0
"""How many times as often as the population; a small excess over much text says nothing."""
MIN_PEER_RATIO = 3.0
"""The same for the words of peers, whose excess is an average over many."""
MIN_RESPONSES = 2
"""Different responses of the user in which an own word stands."""
LONGEST = 32
"""Characters; a longer run of letters is no word (or no text with spaces)."""

COMMON = 0.05
"""Share of responses, in the middle one of all facets, above which a word is everybody's …"""
COMMON_IN = 20
"""… if it stands in more responses than this; such words are never said of anyone."""

_LARGEST = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class WordCounts:
    """In how many different responses of each lender, facet by facet, a word stands.

    Attributes:
        words: the vocabulary, ascending; each used by at least `min_donors` lenders.
        column_of: place of each word in the vocabulary.

    Shapes:
        counts (n_rows, n_words) sparse, row = lender * n_facets + facet · users (n_words,):
        lenders who use each word · sizes (n_rows,): words counted there, those not in the
        vocabulary too · texts (n_rows,): different responses · totals (n_facets, n_words) ·
        facet_sizes (n_facets,) · prior, is_common (n_words,)
    """

    words: tuple[str, ...]
    counts: sparse.csr_array
    users: Array
    sizes: Array
    texts: Array
    n_facets: int
    min_donors: int
    column_of: Mapping[str, int] = field(init=False, repr=False)
    totals: Array = field(init=False, repr=False)
    facet_sizes: Array = field(init=False, repr=False)
    prior: Array = field(init=False, repr=False)
    is_common: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n_rows, n_words = self.counts.shape
        if n_rows != len(self.sizes) or n_words != len(self.words) or n_rows % self.n_facets:
            raise ShapeError(
                f"counts {self.counts.shape} for {len(self.sizes)} rows of {self.n_facets} facets "
                f"and {len(self.words)} words"
            )
        facet_of = np.repeat(np.arange(n_rows) % self.n_facets, np.diff(self.counts.indptr))
        place = facet_of * n_words + self.counts.indices
        flat = np.bincount(place, self.counts.data, minlength=self.n_facets * n_words)
        totals = flat.reshape(self.n_facets, n_words).astype(np.float64)  # also when empty
        sizes, used = self._of_facets(self.sizes), totals.sum(axis=0)
        derived = {
            "column_of": {word: column for column, word in enumerate(self.words)},
            "totals": totals,
            "facet_sizes": sizes,
            "prior": prior_of(used, sizes.sum()),
            "is_common": _common(totals, self._of_facets(self.texts)),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def _of_facets(self, per_row: Array) -> Array:
        summed: Array = per_row.reshape(-1, self.n_facets).sum(axis=0, dtype=np.float64)
        return summed

    def without(self, lender: int) -> WordCounts:
        """The same without one lender, and without words that too few are left to use.

        Later lenders move up by one row.
        """
        is_theirs = np.arange(len(self.sizes)) // self.n_facets == lender
        keep = np.flatnonzero(~is_theirs)
        users = self.users.copy()
        users[np.unique(_gathered(self.counts, np.flatnonzero(is_theirs))[0])] -= 1
        kept = np.flatnonzero(users >= _enough(self.min_donors))
        counts, words = self.counts[keep], self.words
        if len(kept) < len(words):
            counts, words = counts[:, kept], tuple(words[column] for column in kept.tolist())
        return replace(
            self, words=words, counts=counts, users=users[kept], sizes=self.sizes[keep],
            texts=self.texts[keep],
        )  # fmt: skip


def _common(totals: Array, n_texts: Array) -> Array:
    """Words of every subject; one that belongs to a few facets only may be very frequent there."""
    has_texts = n_texts > 0
    if not has_texts.any():
        return np.zeros(totals.shape[1], bool)
    share = np.median(totals[has_texts] / n_texts[has_texts, None], axis=0)
    return np.asarray((share > COMMON) & (totals.sum(axis=0) > COMMON_IN))


def _enough(min_donors: int) -> int:
    return max(min_donors, MIN_DONORS)


def counts_to_arrays(counts: WordCounts) -> dict[str, Array]:
    """As named arrays; `counts_from_arrays` is the inverse.

    The vocabulary stands in plain text, so that whoever looks for what a forgotten user left can
    read it; as an object, since a list in a fitted state is one of ids.
    """
    listed = json.dumps({"vocabulary": counts.words}, ensure_ascii=False).encode()
    return {
        "words.vocabulary": np.frombuffer(listed, np.uint8),
        "words.starts": counts.counts.indptr,
        "words.columns": counts.counts.indices,
        "words.counts": counts.counts.data.astype(np.int32),
        "words.users": counts.users,
        "words.sizes": counts.sizes,
        "words.texts": counts.texts,
        "words.settings": np.array([counts.n_facets, counts.min_donors], np.int32),
    }


def counts_from_arrays(arrays: Mapping[str, Array]) -> WordCounts:
    """The counts again; KeyError where an array is missing."""
    words = tuple(json.loads(bytes(arrays["words.vocabulary"]))["vocabulary"])
    sizes = arrays["words.sizes"]
    parts = (
        arrays["words.counts"].astype(np.uint16),
        arrays["words.columns"],
        arrays["words.starts"],
    )
    counts = sparse.csr_array(parts, shape=(len(sizes), len(words)))
    users, texts = arrays["words.users"], arrays["words.texts"]
    return WordCounts(words, counts, users, sizes, texts, *arrays["words.settings"].tolist())


def wording(interaction: Interaction) -> list[str]:
    """Words of a response that its writer chose, in order: not those of what it answers.

    Empty where only a rating or label was given.
    """
    if not has_own_words(interaction):
        return []
    said = crossable_words(interaction.response_text)
    given = set() if interaction.is_single_text else set(tokenize(interaction.input_text))
    return [word for word in said if len(word) <= LONGEST and word not in given]


def count_words(
    responses_words: Sequence[Sequence[str]],
    lenders: Array,
    facets: Array,
    *,
    n_lenders: int,
    n_facets: int,
    min_donors: int = MIN_DONORS,
) -> WordCounts:
    """Count the words of lenders' responses.

    Responses made of the same words are one text: it counts once, for the first who wrote it.

    Args:
        responses_words: `wording` of every response.

    Shapes:
        responses_words: n · lenders, facets (n,)

    Raises:
        ShapeError: the three disagree on n.
    """
    if not len(responses_words) == len(lenders) == len(facets):
        raise ShapeError(f"{len(responses_words)} responses, {len(lenders)} lenders, "
                         f"{len(facets)} facets; give one each")  # fmt: skip
    rows, texts = _different(responses_words)
    lender_of, facet_of = np.asarray(lenders, np.int64)[rows], np.asarray(facets, np.int64)[rows]
    words_of: dict[str, set[str]] = defaultdict(set)
    for lender, text in zip(lender_of.tolist(), texts, strict=True):
        words_of[str(lender)].update(text)
    users = dict(sorted(shared_words(words_of, min_donors).items()))
    column_of = defaultdict(lambda: -1, zip(users, range(len(users)), strict=True))
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    said = map(column_of.__getitem__, chain.from_iterable(texts))
    columns = np.fromiter(said, np.int32, lengths.sum())
    cells, n_cells = lender_of * n_facets + facet_of, n_lenders * n_facets
    is_known = columns >= 0
    places = (np.repeat(cells.astype(np.int32), lengths)[is_known], columns[is_known])
    ones = np.ones(len(places[0]), np.int32)
    counts = sparse.coo_array((ones, places), shape=(n_cells, len(users))).tocsr()
    counts.sort_indices()
    counts.data = np.minimum(counts.data, _LARGEST).astype(np.uint16)
    sizes = np.bincount(cells, lengths, minlength=n_cells).astype(np.int32)
    n_texts = np.bincount(cells, minlength=n_cells).astype(np.int32)
    n_users = np.array(list(users.values()), np.int32)
    return WordCounts(tuple(users), counts, n_users, sizes, n_texts, n_facets, min_donors)


def _different(
    responses_words: Iterable[Collection[str]],
) -> tuple[Array, list[tuple[str, ...]]]:
    """Each text once: place of its first response, and its different words."""
    seen: set[int] = set()
    rows, texts = [], []
    for row, words in enumerate(responses_words):
        text = frozenset(words)
        key = hash(text)  # not the text: half a million of them must fit
        if text and key not in seen:
            seen.add(key)
            rows.append(row)
            texts.append(tuple(text))
    return np.array(rows, np.int64), texts


def own_words(
    responses_words: Sequence[Sequence[str]],
    facet: int,
    counts: WordCounts,
    *,
    lender: int | None = None,
    most: int = MOST,
) -> list[str]:
    """Words of one user in one facet that others there use much less, most distinctive first.

    Words that are not in the vocabulary count as well: only the user's own prompt sees them.

    Args:
        responses_words: `wording` of the user's responses in this facet.
        lender: the user's own row among the lenders, taken out of the population.

    Source: Monroe, Colaresi & Quinn 2008, log odds with an informative Dirichlet prior; counts
    responses instead of occurrences.
    """
    _, texts = _different(responses_words)
    used = Counter(chain.from_iterable(texts))
    said = sorted(word for word, n in used.items() if n >= MIN_RESPONSES)
    columns = np.array([counts.column_of.get(word, -1) for word in said], np.int64)
    there, n_there = counts.totals[facet], counts.facet_sizes[facet]
    if lender is not None:
        row = lender * counts.n_facets + facet
        own, values, _ = _gathered(counts.counts, np.array([row]))
        there = there.copy()
        there[own] -= values
        n_there = n_there - counts.sizes[row]
    # The last place is that of every word the vocabulary does not know.
    here = np.array([used[word] for word in said], np.float64)
    best = _best(
        here, float(used.total()), np.append(there, 0.0)[columns], n_there,
        np.append(counts.prior, PRIOR_FLOOR)[columns], (MIN_Z, MIN_RATIO),
    )  # fmt: skip
    is_common = np.append(counts.is_common, False)[columns]
    return [said[i] for i in best if not is_common[i]][:most]


def peer_words(
    peer_rows: Array,
    weights: Array,
    may_lend: Array,
    facet: int,
    counts: WordCounts,
    min_donors: int,
    *,
    most: int = MOST_OF_PEERS,
) -> list[tuple[str, int]]:
    """Words distinctive of chosen peers in one facet, with the number of peers who use each.

    A word's statistic is the weighted mean of the peers' shares; no peer counts for more than the
    others together, so that none has more than half of it.

    Args:
        min_donors: peers who must use a word; never fewer than the counts were made with.

    Shapes:
        peer_rows, weights, may_lend (n_peers,)
    """
    needed = _enough(max(min_donors, counts.min_donors))
    rows, weight = _donors(peer_rows, weights, may_lend, facet, counts)
    if len(rows) < needed:
        return []
    columns, used, peer = _gathered(counts.counts, rows)
    n_donors = np.bincount(columns, minlength=len(counts.words))
    is_shared = (n_donors >= needed)[columns] & ~counts.is_common[columns]
    if not is_shared.any():
        return []
    sizes = counts.sizes[rows].astype(np.float64)
    parts = ((weight / sizes)[peer] * used)[is_shared]
    order = np.argsort(columns[is_shared], kind="stable")
    found, starts = np.unique(columns[is_shared][order], return_index=True)
    largest = np.maximum.reduceat(parts[order], starts)
    others = np.add.reduceat(parts[order], starts) - largest
    min_z = max(MIN_Z, float(ndtri(1 - CHANCE / np.count_nonzero(n_donors))))
    n_here = 1 / (weight**2 / sizes).sum()  # the sample in which one share varies as this mean
    there = counts.totals[facet, found] - np.add.reduceat(used[is_shared][order], starts)
    best = _best(
        n_here * (others + np.minimum(largest, others)), n_here,
        there, counts.facet_sizes[facet] - sizes.sum(), counts.prior[found],
        (min_z, MIN_PEER_RATIO),
    )  # fmt: skip
    return [(counts.words[found[i]], int(n_donors[found[i]])) for i in best][:most]


def _donors(
    peer_rows: Array, weights: Array, may_lend: Array, facet: int, counts: WordCounts
) -> tuple[Array, Array]:
    """Rows of the peers who lend and have words there, each once, and their shares."""
    is_donor = np.asarray(may_lend, bool) & (np.asarray(weights) > 0)
    cells = np.asarray(peer_rows, np.int64)[is_donor] * counts.n_facets + facet
    rows, place = np.unique(cells, return_inverse=True)
    weight = np.bincount(place, np.asarray(weights, np.float64)[is_donor], minlength=len(rows))
    weight = weight * (counts.sizes[rows] > 0)
    rows, weight = rows[weight > 0], weight[weight > 0]
    return rows, weight / weight.sum() if len(rows) else weight


def _gathered(counts: sparse.csr_array, rows: Array) -> tuple[Array, Array, Array]:
    """Columns and values of some rows, and which of the rows they stand in."""
    starts, ends = counts.indptr[rows], counts.indptr[rows + 1]
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    at = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    return (
        counts.indices[at],
        counts.data[at].astype(np.float64),
        np.repeat(np.arange(len(rows)), lengths),
    )


def _best(
    here: Array,
    n_here: float,
    there: Array,
    n_there: float,
    prior: Array,
    bar: tuple[float, float],
) -> list[int]:
    """Places of the words said clearly and much more here than there, most distinctive first.

    Args:
        bar: least standard errors, and least ratio.
    """
    excess, z = log_odds(here, n_here, there, n_there, prior)
    ranked = np.lexsort((np.arange(len(z)), -z))
    is_said = (z >= bar[0]) & (excess >= np.log(bar[1]))
    return [i for i in ranked.tolist() if is_said[i]]
