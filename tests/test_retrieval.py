"""Retrieval against a brute-force ranking, planted winners and every permutation."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copersona.answering.retrieval import (
    TERMS,
    Candidate,
    RetrievalConfig,
    bm25,
    own_history_only,
    population_only,
    rank,
    relevance,
    score_terms,
)
from copersona.errors import ShapeError
from copersona.records import Interaction, Query
from copersona.style import tokenize

DAY = 86_400.0
QUERY = Query("ann", "green tea with milk", at=1000 * DAY)
QUERY_VECTOR = np.array([1.0, 0.0, 0.0])
ROUTED = np.array([0.75, 0.25])
WORDS = ("green", "tea", "milk", "coffee", "bread", "jam", "with", "toast")


def candidate(
    key, origin="own", vector=(1.0, 0.0, 0.0), facet=0, alignment=0.0, author=None, **fields
):
    author = author or ("you" if origin == "own" else f"peer-{key}")
    user = "ann" if origin == "own" else author
    row = {"input": f"green {key}", "response": f"liked {key}", "at": 900 * DAY, **fields}
    interaction = Interaction(user, id=key, **row)
    return Candidate(origin, author, interaction, np.array(vector), facet, alignment)


def many_candidates(seed, n=40):
    rng = np.random.default_rng(seed)
    for i in range(n):
        yield candidate(
            f"{i:03d}",
            origin=("own", "peer", "population")[rng.integers(3)],
            vector=rng.normal(size=3),
            facet=int(rng.integers(2)),
            alignment=float(rng.random()),
            input=" ".join(rng.choice(WORDS, size=rng.integers(1, 9))) + f" n{i}",
            at=float(rng.integers(800, 1100)) * DAY,
        )


def ids(evidence):
    return [e.interaction_id for e in evidence]


def brute_force(query, query_vector, rows):
    """Relevance alone in plain Python: independent of the module under test."""
    tokens = [tokenize(row.interaction.input) for row in rows]
    mean = sum(map(len, tokens)) / len(tokens)
    dense, lexical = [], []
    for row, words in zip(rows, tokens, strict=True):
        length = math.hypot(*row.input_vector) * math.hypot(*query_vector)
        dense.append(
            sum(a * b for a, b in zip(row.input_vector, query_vector, strict=True)) / length
        )
        lexical.append(0.0)
        for word in set(tokenize(query.text)):
            df, tf = sum(word in other for other in tokens), words.count(word)
            idf = math.log(1 + (len(tokens) - df + 0.5) / (df + 0.5))
            lexical[-1] += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(words) / mean))
    z = [[(v - np.mean(vs)) / np.std(vs) for v in vs] for vs in (dense, lexical)]
    scored = [(-(a + b) / 2, row.interaction.id) for a, b, row in zip(*z, rows, strict=True)]
    return [key for _, key in sorted(scored)]


@pytest.mark.parametrize("seed", range(4))
def test_own_history_only_equals_a_brute_force_ranking(seed):
    rows = list(many_candidates(seed))
    own = [c for c in rows if c.origin == "own" and c.interaction.at <= QUERY.at]
    found = rank(QUERY, QUERY_VECTOR, ROUTED, rows, own_history_only())
    assert ids(found) == brute_force(QUERY, QUERY_VECTOR, own)
    assert ids(rank(QUERY, QUERY_VECTOR, ROUTED, rows, own_history_only(3))) == ids(found)[:3]


@pytest.mark.parametrize("seed", range(4))
def test_population_only_equals_a_brute_force_ranking(seed):
    rows = list(many_candidates(seed))
    others = [c for c in rows if c.origin != "own" and c.interaction.at <= QUERY.at]
    found = rank(QUERY, QUERY_VECTOR, ROUTED, rows, population_only())
    assert ids(found) == brute_force(QUERY, QUERY_VECTOR, others)
    assert all(e.score == e.score_parts["relevance"] for e in found)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 50), st.randoms(use_true_random=False))
def test_the_order_of_candidates_never_matters(seed, random):
    config = RetrievalConfig(beta_recency=0.2, beta_length=0.1, beta_facet=0.3)
    rows = [*many_candidates(seed, 25), *many_candidates(seed + 1, 5)]
    shuffled = random.sample(rows, len(rows))
    found = [
        rank(QUERY, QUERY_VECTOR, ROUTED, order, config, expected_length=1.0)
        for order in (rows, shuffled)
    ]
    assert found[0] == found[1]


def test_score_parts_sum_to_the_score_exactly():
    config = RetrievalConfig(
        beta_facet=0.3, beta_peer=0.2, beta_population=-0.1, beta_recency=0.7, beta_length=0.11
    )
    found = rank(QUERY, QUERY_VECTOR, ROUTED, many_candidates(3), config, expected_length=1.7)
    assert len(found) == config.max_evidence
    assert all(sum(e.score_parts.values()) == e.score for e in found)
    assert all(tuple(e.score_parts) == TERMS for e in found)


def test_every_term_has_its_planted_value():
    rows = [
        candidate("a", facet=1, at=820 * DAY, response="one two three"),
        candidate("b", "peer", alignment=0.6, at=None, response="one"),
    ]
    terms = score_terms(QUERY, QUERY_VECTOR, ROUTED, rows, expected_length=math.log(2))
    by_name = {name: terms[:, i].tolist() for i, name in enumerate(TERMS)}
    assert by_name["facet"] == [0.25, 0.75]
    assert by_name["affinity"] == [0.0, 0.6]
    assert (by_name["own"], by_name["peer"]) == ([1.0, 0.0], [0.0, 1.0])
    assert by_name["population"] == by_name["relevance"] == [0.0, 0.0]
    assert by_name["recency"] == pytest.approx([math.exp(-1), 0.0])
    assert by_name["length"] == pytest.approx([-math.log(2), 0.0])


def test_what_is_newer_or_is_the_request_itself_is_masked():
    rows = [
        candidate("new", at=1000.5 * DAY),
        candidate("same-time", at=1000 * DAY),
        candidate("undated", at=None),
        candidate("asked-before", input="Green  tea with milk"),
        candidate("echo", "population", response="green tea with MILK", input="what?"),
        candidate("answered-too", "peer", input="green tea with milk"),
    ]
    found = rank(QUERY, QUERY_VECTOR, ROUTED, rows, RetrievalConfig())
    assert sorted(ids(found)) == ["answered-too", "same-time", "undated"]
    without_time = rank(replace(QUERY, at=None), QUERY_VECTOR, ROUTED, rows, RetrievalConfig())
    assert "new" in ids(without_time)


def test_same_item_is_tagged_and_can_be_barred():
    query = replace(QUERY, item="cup-1")
    rows = [candidate("a", item="cup-1"), candidate("b", item="cup-2"), candidate("c")]
    found = rank(query, QUERY_VECTOR, ROUTED, rows, RetrievalConfig())
    assert {e.interaction_id: e.same_item for e in found} == {"a": True, "b": False, "c": False}
    barred = rank(query, QUERY_VECTOR, ROUTED, rows, RetrievalConfig(allow_same_item=False))
    assert sorted(ids(barred)) == ["b", "c"]


def test_duplicates_keep_the_users_own_copy():
    texts = {"input": "a cup", "response": "Thanks!"}
    rows = [
        candidate("1", "population", **texts),
        candidate("2", "peer", **texts),
        candidate("3", "own", input="A cup", response=" thanks! "),
    ]
    found = rank(QUERY, QUERY_VECTOR, ROUTED, rows, RetrievalConfig())
    assert [(e.interaction_id, e.author) for e in found] == [("3", "you")]
    assert ids(rank(QUERY, QUERY_VECTOR, ROUTED, rows[:2], RetrievalConfig())) == ["2"]


def test_the_users_own_item_never_comes_back_as_somebody_elses():
    own = candidate("1", "population")
    own = replace(own, interaction=replace(own.interaction, user="ann"))
    assert rank(QUERY, QUERY_VECTOR, ROUTED, [own], RetrievalConfig()) == []


def test_one_other_user_gives_at_most_per_peer_items():
    rows = [candidate(f"p{i}", "peer", author="fox") for i in range(4)]
    rows += [candidate("q", "population", author="fox"), candidate("z", "population")]
    rows += [candidate(f"own{i}", author="you") for i in range(4)]
    found = rank(QUERY, QUERY_VECTOR, ROUTED, rows, RetrievalConfig(max_evidence=None))
    assert Counter(e.author for e in found) == {"fox": 2, "peer-z": 1, "you": 4}
    uncapped = RetrievalConfig(max_evidence=None, per_peer=None)
    assert len(rank(QUERY, QUERY_VECTOR, ROUTED, rows, uncapped)) == len(rows)


def test_caps_on_own_and_population_keep_the_most_relevant():
    near, far = (1.0, 0.1, 0.0), (0.0, 1.0, 0.0)
    rows = [candidate(f"o{i}", vector=near if i == 3 else far) for i in range(5)]
    rows += [candidate(f"p{i}", "population", vector=near if i == 1 else far) for i in range(5)]
    config = RetrievalConfig(n_own=1, n_population=1)
    assert sorted(ids(rank(QUERY, QUERY_VECTOR, ROUTED, rows, config))) == ["o3", "p1"]


def test_own_items_keep_their_places_however_relevant_others_are():
    near, far = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
    rows = [candidate(f"p{i}", "population", vector=near) for i in range(9)]
    rows += [candidate(f"o{i}", vector=far) for i in range(3)]
    config = RetrievalConfig(max_evidence=4, reserve_own=2, beta_own=0.0, mmr=None)
    found = rank(QUERY, QUERY_VECTOR, ROUTED, rows, config)
    assert ids(found) == ["p0", "p1", "o0", "o1"]
    unreserved = config.model_copy(update={"reserve_own": 0})
    assert all(
        e.origin == "population" for e in rank(QUERY, QUERY_VECTOR, ROUTED, rows, unreserved)
    )
    sparse = [*rows[:9], rows[-1]]
    assert ids(rank(QUERY, QUERY_VECTOR, ROUTED, sparse, config)) == ["p0", "p1", "p2", "o2"]


def test_kept_places_do_not_move_own_items_that_win_by_themselves():
    rows = [candidate(f"{origin}{i}", origin, vector=(1.0, i / 9, 0.0)) for i in range(5)
            for origin in ("own", "peer")]  # fmt: skip
    config = RetrievalConfig(max_evidence=6, beta_own=1.0, mmr=None)
    assert rank(QUERY, QUERY_VECTOR, ROUTED, rows, config) == rank(
        QUERY, QUERY_VECTOR, ROUTED, rows, config.model_copy(update={"reserve_own": 0})
    )


def test_marginal_relevance_prefers_something_different():
    rows = [
        candidate("a", vector=(1.0, 0.2, 0.0)),
        candidate("b", vector=(1.0, 0.21, 0.0)),
        candidate("c", vector=(1.0, -0.9, 0.0)),
        candidate("d", vector=(-1.0, 0.0, 1.0)),
    ]
    plain = RetrievalConfig(mmr=None, max_evidence=2)
    assert ids(rank(QUERY, QUERY_VECTOR, ROUTED, rows, plain)) == ["a", "b"]
    assert ids(rank(QUERY, QUERY_VECTOR, ROUTED, rows, plain.model_copy(update={"mmr": 1.0}))) == [
        "a",
        "b",
    ]
    diverse = plain.model_copy(update={"mmr": 0.3})
    assert ids(rank(QUERY, QUERY_VECTOR, ROUTED, rows, diverse)) == ["a", "d"]


def test_ties_go_to_the_lowest_id():
    rows = [candidate(key, input="tea") for key in ("c", "a", "b")]
    found = rank(QUERY, QUERY_VECTOR, ROUTED, rows, RetrievalConfig())
    assert ids(found) == ["a", "b", "c"]
    assert {e.score for e in found} == {0.1}


def test_bm25_with_a_corpus_and_at_its_edges():
    documents = [["tea"], ["tea", "milk"], []]
    own = bm25(["tea", "tea", "milk"], documents)
    assert own[1] > own[0] > own[2] == 0.0
    counted = bm25(["tea"], documents, document_frequency={"tea": 5}, n_documents=10)
    idf = math.log(1 + 5.5 / 5.5)
    assert counted[0] == pytest.approx(idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 1 / 1)))
    assert bm25(["tea"], []).shape == (0,)
    assert bm25([], documents).tolist() == [0.0, 0.0, 0.0]
    assert bm25(["tea"], [[], []]).tolist() == [0.0, 0.0]


def test_relevance_does_not_move_where_nothing_varies():
    rows = [candidate("a", input="tea"), candidate("b", input="tea")]
    assert relevance(QUERY_VECTOR, "tea", rows).tolist() == [0.0, 0.0]
    assert relevance(np.zeros(3), "", rows).tolist() == [0.0, 0.0]
    assert relevance(QUERY_VECTOR, "tea", []).shape == (0,)


def test_nothing_and_wrong_shapes():
    assert rank(QUERY, QUERY_VECTOR, ROUTED, [], RetrievalConfig()) == []
    with pytest.raises(ShapeError, match="shape"):
        rank(QUERY, np.ones(2), ROUTED, [candidate("a")], RetrievalConfig())
    with pytest.raises(ShapeError, match="facets"):
        rank(QUERY, QUERY_VECTOR, ROUTED, [candidate("a", facet=2)], RetrievalConfig())
