"""Distinctive words: what is found, and what must never cross, whatever the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copersona import Interaction
from copersona.answering.words import (
    CHANCE,
    MIN_RATIO,
    MIN_Z,
    WordCounts,
    count_words,
    counts_from_arrays,
    counts_to_arrays,
    own_words,
    peer_words,
    wording,
)
from copersona.errors import ShapeError

FILLERS = [
    a + b for a in ("ra", "lo", "mi", "ke", "su", "to") for b in ("nel", "dos", "vik", "pam")
]


def chatter(rng: np.random.Generator, *extra: str) -> list[str]:
    """Eight words anybody may say, and some more."""
    return [*rng.choice(FILLERS, 8, replace=False), *extra]


def counted(histories: Sequence[Sequence[Sequence[str]]], n_facets: int = 1) -> WordCounts:
    """Counts of lenders who wrote these responses, the facets taking turns."""
    rows = [(lender, n % n_facets, text) for lender, texts in enumerate(histories)
            for n, text in enumerate(texts)]  # fmt: skip
    lenders, facets = (np.array([row[i] for row in rows], int) for i in (0, 1))
    texts = [row[2] for row in rows]
    return count_words(texts, lenders, facets, n_lenders=len(histories), n_facets=n_facets)


def population(words: dict[int, Sequence[str]], n_lenders: int = 60) -> list[list[list[str]]]:
    """Six responses of each lender; some lenders put words of theirs into every second one."""
    rng = np.random.default_rng(5)
    return [
        [chatter(rng, *(words.get(lender, ()) if n % 2 else ())) for n in range(6)]
        for lender in range(n_lenders)
    ]


def borrowed(counts: WordCounts, rows: Sequence[int], weights: Sequence[float] = ()) -> list[str]:
    share = np.array(weights or [1 / len(rows)] * len(rows))
    found = peer_words(np.array(rows, int), share, np.ones(len(rows), bool), 0, counts, 3)
    return [word for word, _ in found]


# ---- counting ---------------------------------------------------------------------------------


def test_a_word_counts_once_per_response_and_needs_three_lenders() -> None:
    counts = counted(
        [
            [["rye", "rye", "salt"], ["rye", "oven"]],
            [["rye", "salt", "plum"]],
            [["rye", "salt", "oven", "fig"]],
        ]
    )
    assert counts.words == ("rye", "salt")
    assert counts.counts.toarray().tolist() == [[2, 1], [1, 1], [1, 1]]
    assert counts.users.tolist() == [3, 3]
    assert counts.sizes.tolist() == [4, 3, 4]
    assert counts.texts.tolist() == [2, 1, 1]


def test_facets_are_counted_apart() -> None:
    counts = counted([[["rye", "one"], ["rye", "two"]]] + [[["rye", c]] for c in "xy"], n_facets=2)
    assert counts.words == ("rye",)
    assert counts.counts.toarray()[:, 0].tolist() == [1, 1, 1, 0, 1, 0]
    assert counts.totals[:, 0].tolist() == [3, 1]


def test_copies_of_a_text_are_one_text_whoever_posts_them() -> None:
    secret = ["halibut", "code", "is", "here"]
    counts = counted([[secret, secret[::-1]], [secret], [[*secret, "code"]], [["code", "other"]]])
    assert counts.words == ()
    assert counts.texts.tolist() == [1, 0, 0, 1]


def test_a_word_common_in_every_facet_is_never_said() -> None:
    rng = np.random.default_rng(3)
    histories = [
        [chatter(rng, *(["the", "plum"] if u < 5 or (u + n) % 8 == 0 else [])) for n in range(8)]
        for u in range(40)
    ]
    plums = [[w for w in text if w != "plum"] for texts in histories for text in texts[2:]]
    counts = count_words(
        [text for texts in histories for text in texts[:2]] + plums,
        np.r_[np.repeat(np.arange(40), 2), np.repeat(np.arange(40), 6)],
        np.r_[np.repeat(0, 80), np.tile([1, 2], 120)], n_lenders=40, n_facets=3,
    )  # fmt: skip
    assert [bool(counts.is_common[counts.column_of[word]]) for word in ("the", "plum")] == [
        True, False,
    ]  # fmt: skip
    assert own_words(histories[0], 0, counts, lender=0) == ["plum"]
    assert borrowed(counts, range(5)) == ["plum"]


def test_everything_must_agree_on_the_number_of_responses() -> None:
    with pytest.raises(ShapeError, match="2 responses"):
        count_words([["a"], ["b"]], np.zeros(2), np.zeros(1), n_lenders=1, n_facets=1)


@pytest.mark.parametrize(
    ("interaction", "words"),
    [
        (Interaction("ana", "How was the Rye loaf?", "The rye was damp; twice!"),
         ["damp", "twice"]),
        (Interaction("ana", "", "damp rye, see https://example.org/x1"), ["damp", "rye", "see"]),
        (Interaction("ana", "a damp loaf", "", rating=2.0), []),
        (Interaction("ana", "Read it?", "a" * 40 + " slowly"), ["slowly"]),
    ],
)  # fmt: skip
def test_wording_is_what_the_writer_chose(interaction: Interaction, words: list[str]) -> None:
    assert [word for word in wording(interaction) if word != "the"] == words


# ---- own words --------------------------------------------------------------------------------


def test_own_words_are_said_again_and_again_and_by_few_others() -> None:
    histories = population({4: ["plum"], 5: ["plum"], 6: ["plum"]})
    counts = counted(histories)
    rng = np.random.default_rng(8)
    mine = [chatter(rng, "plum", "zorgle", "just") for _ in range(3)]
    mine = [mine[0], mine[1], chatter(rng, "once")]
    assert set(own_words(mine, 0, counts)) == {"plum", "zorgle", "just"}
    assert own_words([mine[0], mine[0]], 0, counts) == []
    assert own_words([], 0, counts) == []
    assert own_words([chatter(rng, "zorgle") for _ in range(2)], 0, counts) == ["zorgle"]
    assert len(own_words([chatter(rng, *"abcdefgh") for _ in range(4)], 0, counts)) == 5


def test_a_lenders_own_row_is_no_part_of_the_population() -> None:
    rng = np.random.default_rng(6)
    mine = [chatter(rng, "plum") if n % 2 else chatter(rng) for n in range(26)]
    others = population({0: ["plum"], 1: ["plum"], 2: ["plum"]}, n_lenders=7)
    counts = counted([mine, *[[*texts[:3], texts[4]] for texts in others]])
    assert own_words(mine, 0, counts) == []
    assert own_words(mine, 0, counts, lender=0) == ["plum"]
    assert own_words(mine, 0, counts.without(0)) == ["plum"]


def test_own_words_are_those_of_the_log_odds_computed_one_by_one() -> None:
    rng = np.random.default_rng(1)
    histories = [[chatter(rng, *rng.choice(["plum", "fig", "rye", "oak"], rng.integers(0, 3)))
                  for _ in range(5)] for _ in range(40)]  # fmt: skip
    counts = counted(histories)
    mine = [chatter(rng, "plum", "zorgle") for _ in range(6)] + [chatter(rng, "fig")] * 2
    texts = list({frozenset(text): None for text in mine})
    scores = {}
    everyone = [set(text) for texts_of in histories for text in texts_of]
    n_here, n_there = (sum(map(len, some)) for some in (texts, everyone))
    for word in {word for text in texts for word in text}:
        here, there = (sum(word in text for text in some) for some in (texts, everyone))
        prior = max(10 * there / n_there, 0.5)
        odds = [np.log((y + prior) / (n + 10 - y - prior))
                for y, n in ((here, n_here), (there, n_there))]  # fmt: skip
        z = (odds[0] - odds[1]) / np.sqrt(1 / (here + prior) + 1 / (there + prior))
        is_common = there > 0.05 * len(everyone) and there > 20
        if here >= 2 and z >= MIN_Z and odds[0] - odds[1] >= np.log(MIN_RATIO) and not is_common:
            scores[word] = z
    expected = sorted(scores, key=lambda word: (-scores[word], word))[:5]
    assert own_words(mine, 0, counts) == expected


# ---- peers' words -----------------------------------------------------------------------------


def test_peers_lend_a_word_of_theirs_with_the_number_who_use_it() -> None:
    counts = counted(population({n: ["plum"] for n in range(5)}))
    rows, share = np.arange(8), np.full(8, 1 / 8)
    assert peer_words(rows, share, np.ones(8, bool), 0, counts, 3) == [("plum", 5)]
    assert peer_words(rows, share, rows >= 2, 0, counts, 3) == [("plum", 3)]
    assert peer_words(rows, share, rows >= 3, 0, counts, 3) == []
    assert peer_words(rows, share, np.ones(8, bool), 0, counts, 6) == []
    assert peer_words(rows[:0], share[:0], np.ones(0, bool), 0, counts, 3) == []


def test_more_donors_are_asked_of_peers_than_of_the_counts_but_never_fewer() -> None:
    histories = population({n: ["plum"] for n in range(5)})
    texts = [text for some in histories for text in some]
    lenders, facets = np.repeat(np.arange(60), 6), np.zeros(360, int)
    for least, needed in ((1, 3), (3, 3), (5, 5)):
        counts = count_words(texts, lenders, facets, n_lenders=60, n_facets=1, min_donors=least)
        assert borrowed(counts, [*range(needed), 20, 21]) == ["plum"]
        few = np.array([*range(needed - 1), 20, 21])
        assert peer_words(few, np.ones(len(few)), few >= 0, 0, counts, 1) == []


def test_peers_are_compared_with_the_others() -> None:
    rng = np.random.default_rng(7)
    histories = [[chatter(rng, *["plum"] * (u < 24 and not n % 3)) for n in range(9)]
                 for u in range(36)]  # fmt: skip
    assert borrowed(counted(histories, n_facets=3), range(24)) == ["plum"]


def test_random_peers_have_hardly_any_words() -> None:
    rng = np.random.default_rng(2)
    many = [a + b for a in FILLERS for b in FILLERS]
    counts = counted([[rng.choice(many, 20).tolist() for _ in range(6)] for _ in range(60)])
    found = [borrowed(counts, rng.choice(60, 12, replace=False).tolist()) for _ in range(100)]
    assert sum(map(len, found)) <= CHANCE * len(found)


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(0, 1e6), min_size=8, max_size=8),
    rows=st.lists(st.integers(0, 11), min_size=8, max_size=8),
    min_donors=st.integers(0, 3),
)
def test_a_secret_of_two_never_crosses(
    with_secret: WordCounts, weights: list[float], rows: list[int], min_donors: int
) -> None:
    counts = with_secret
    share = np.array(weights)
    found = peer_words(np.array(rows), share, np.ones(8, bool), 0, counts, min_donors)
    users = {row for row, weight in zip(rows, weights, strict=True) if weight > 0}
    for word, contributors in found:
        assert word != "halibut"
        assert 3 <= contributors <= len(users)
        # "plum" is known to five, but never crosses on the word of two of them.
        assert word != "plum" or len(users & {0, 1, 2, 3, 4}) == contributors


@pytest.fixture(scope="module")
def with_secret() -> WordCounts:
    """Five who say "plum", two who say "halibut", one of them in many copies."""
    words: dict[int, Sequence[str]] = {n: ["plum"] for n in range(5)}
    histories = population({**words, 0: ["plum", "halibut"], 1: ["plum", "halibut"]})
    return counted([*histories, *[histories[0]] * 20])


@pytest.mark.parametrize("weights", [(), [1e6] + [1.0] * 11])
def test_no_peer_counts_for_more_than_the_others_together(weights: list[float]) -> None:
    rng = np.random.default_rng(4)
    histories = population({n: ["plum"] for n in range(100, 106)}, 200)
    for row in (1, 2):
        histories[row] = [chatter(rng) for _ in range(60)]
        histories[row][0].append("plum")
    assert borrowed(counted(histories), [100, *range(1, 12)]) == []
    histories[0] = [chatter(rng, "plum") for _ in range(20)]
    assert borrowed(counted(histories), range(12), weights) == []
    assert borrowed(counted(histories), [0, *range(100, 106), *range(5, 10)]) == ["plum"]


# ---- kept and forgotten -----------------------------------------------------------------------


def test_counts_survive_as_read_only_arrays(with_secret: WordCounts) -> None:
    counts = with_secret
    arrays = counts_to_arrays(counts)
    listed = arrays["words.vocabulary"].tobytes()
    assert (b"plum" in listed, b"halibut" in listed) == (True, False)
    for array in arrays.values():
        assert array.dtype.itemsize <= 4
        array.setflags(write=False)
    again = counts_from_arrays(arrays)
    assert again.words == counts.words
    assert borrowed(again, range(8)) == borrowed(counts, range(8)) == ["plum"]
    assert again.without(3).words == counts.without(3).words
    with pytest.raises(KeyError):
        counts_from_arrays({})


def test_without_a_lender_is_as_if_never_counted() -> None:
    histories = population({3: ["plum"], 7: ["plum"], 9: ["plum", "fig"], 11: ["fig"], 12: ["fig"],
                            13: ["fig"]}, 20)  # fmt: skip
    left = counted(histories, 3).without(9)
    fresh = counted([*histories[:9], *histories[10:]], 3)
    assert left.words == fresh.words
    assert "plum" not in left.words
    assert "fig" in left.words
    assert (left.counts.toarray() == fresh.counts.toarray()).all()
    for name in ("users", "sizes", "texts", "totals", "facet_sizes", "prior", "is_common"):
        assert np.array_equal(getattr(left, name), getattr(fresh, name)), name


def test_nobody_left_has_no_words() -> None:
    empty = counted([[["rye"]]]).without(0)
    assert len(empty.sizes) == 0
    assert own_words([["rye", "a"], ["rye", "b"]], 0, empty) == []
    nobody = np.zeros(0, int)
    assert peer_words(nobody, nobody, nobody, 0, empty, 3) == []
