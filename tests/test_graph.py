"""Layers, neighbours and edges of the persona graph on hand-made users."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from copersona.method.graph import (
    GraphConfig,
    LayerStates,
    build_graph,
    corrected,
    layer_states,
    lending_rows,
    mutual,
    search_layer,
)
from copersona.method.profiles import OwnEvidence, ViewModel
from copersona.method.residuals import View

Array = NDArray[Any]


def model(n_facets: int, dim: int = 3) -> ViewModel:
    signal = 0.3 * np.eye(n_facets) + 0.7
    return ViewModel(View("text", 0, dim, ()), np.zeros((n_facets, dim), np.float32),
                     np.full(n_facets, 2.0), signal)  # fmt: skip


def states(n_users: int, n_facets: int = 2, seed: int = 0, missing: float = 0.3) -> LayerStates:
    rng = np.random.default_rng(seed)
    support = rng.integers(1, 9, (n_users, n_facets, 1)) * (rng.random((n_users, n_facets, 1)) >
                                                            missing)  # fmt: skip
    means = rng.normal(size=(n_users, n_facets, 3)) * (support > 0)
    evidence = OwnEvidence(support.astype(np.float32), means.astype(np.float32))
    return layer_states(evidence, [model(n_facets)])


def test_the_first_layer_is_the_whole_user_and_a_facets_layer_what_is_specific() -> None:
    support = np.array([[[6.0], [2.0]]], np.float32)
    means = np.array([[[1.0, 0, 0], [0, 2.0, 0]]], np.float32)
    found = layer_states(OwnEvidence(support, means), [model(2)])
    whole = (6 * means[0, 0] + 2 * means[0, 1]) / 8
    np.testing.assert_allclose(found.vectors[0, 0], whole / np.linalg.norm(whole), atol=1e-6)
    foretold = 0.7 / (1 + 2 / 6) * means[0, 0]
    np.testing.assert_allclose(found.specifics[0, 1], means[0, 1] - foretold, atol=1e-6)
    np.testing.assert_allclose(found.credibility[0], [8 / 10, 6 / 8, 2 / 4], atol=1e-6)


def test_without_evidence_there_is_no_direction_and_no_credibility() -> None:
    empty = OwnEvidence(np.zeros((1, 2, 1), np.float32), np.zeros((1, 2, 3), np.float32))
    found = layer_states(empty, [model(2)])
    assert not found.vectors.any()
    assert not found.credibility.any()
    assert not found.specifics.any()


def test_with_one_facet_its_layer_is_the_whole_user() -> None:
    found = states(5, 1, missing=0.0)
    assert not found.vectors[:, 0].any()
    np.testing.assert_allclose(np.linalg.norm(found.vectors[:, 1], axis=1), 1, atol=1e-6)


def test_neighbours_are_lenders_near_by_and_never_oneself() -> None:
    found = states(60)
    may_lend = np.arange(60) % 3 > 0
    graph = build_graph(found, may_lend, GraphConfig(k=5))
    lends = lending_rows(found, may_lend, 2.0)
    for layer in range(3):
        for user, listed in enumerate(graph.neighbours[layer]):
            listed = listed[listed >= 0]
            assert user not in listed
            assert lends[layer, listed].all()
            assert len(set(listed.tolist())) == len(listed)
    everyone = graph.candidates(7)
    assert everyone.tolist() == sorted(set(everyone.tolist()))
    assert 7 not in everyone


def test_the_same_graph_whatever_the_order_of_users() -> None:
    found, order = states(40, seed=3), np.random.default_rng(1).permutation(40)
    may_lend, place = np.ones(40, bool), np.argsort(order)
    moved = LayerStates(*(getattr(found, n)[order] for n in
                          ("vectors", "credibility", "specifics", "support")), ())  # fmt: skip
    before, after = (build_graph(s, may_lend, GraphConfig(k=4)) for s in (found, moved))
    for user in range(40):
        for layer in range(3):
            was, now = before.neighbours[layer, user], after.neighbours[layer, place[user]]
            assert set(place[was[was >= 0]].tolist()) == set(now[now >= 0].tolist())


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_edges_are_mutual_but_for_the_lonely(n_users: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    listed = np.full((n_users, k), -1)
    for user in range(n_users):
        others = np.setdiff1d(np.arange(n_users), [user])
        picked = rng.permutation(others)[:k]
        listed[user, : len(picked)] = picked
    edges = mutual(listed, 2)
    for user in range(n_users):
        is_mutual = [v >= 0 and user in listed[v] for v in listed[user].tolist()]
        wanted = is_mutual if any(is_mutual) else [n < 2 and v >= 0 for n, v in
                                                    enumerate(listed[user].tolist())]  # fmt: skip
        assert edges[user].tolist() == wanted


def test_hubs_lose_and_no_similarity_becomes_negative() -> None:
    cosines = np.array([[0.8, 0.8, 0.1]])
    found = corrected(cosines, np.array([[0.4]]), np.array([[0.9, 0.1, 0.9]]), 0.5)
    assert found[0, 1] > found[0, 0] > 0
    assert found.min() >= 0


@pytest.mark.parametrize("n_lenders", [0, 1, 2])
def test_fewer_lenders_than_asked_for_leave_gaps(n_lenders: int) -> None:
    vectors = np.ones((4, 2), np.float32) / np.sqrt(2)
    lends = np.arange(4) < n_lenders
    rows, cosines = search_layer(vectors[:1], vectors, lends, 3, exclude=np.array([0]))
    assert rows.tolist() == [([1] if n_lenders == 2 else []) + [-1] * (3 - max(n_lenders - 1, 0))]
    assert (cosines > 0).tolist() == (rows >= 0).tolist()


def test_who_is_not_alike_at_all_is_nobodys_neighbour() -> None:
    vectors = np.array([[1, 0], [-1, 0], [0, 1], [1, 1], [0, 0]], np.float32)
    rows, _ = search_layer(vectors, vectors, np.ones(5, bool), 4, exclude=np.arange(5))
    assert [sorted(r[r >= 0].tolist()) for r in rows] == [[3], [], [3], [0, 2], []]
