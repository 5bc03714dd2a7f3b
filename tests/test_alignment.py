"""Facet transfer and peers: T finds what was planted, and nobody outweighs all others together."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from copersona.method.alignment import (
    AlignmentConfig,
    FacetPeers,
    capped,
    choose_peers,
    fit_transfer,
)
from copersona.method.profiles import OwnEvidence, ViewModel
from copersona.method.residuals import View


def half(n_users: int, n_facets: int, seed: int) -> OwnEvidence:
    """Means of users with an independent tendency in each facet; another seed, another half."""
    hidden = np.random.default_rng(0).normal(size=(n_users, n_facets, 12))
    noise = np.random.default_rng(seed).normal(0, 0.5, hidden.shape)
    return OwnEvidence(np.full((n_users, n_facets, 1), 4.0), hidden + noise)


def models(n_facets: int) -> list[ViewModel]:
    center, noise = np.zeros((n_facets, 12)), np.ones(n_facets)
    return [ViewModel(View("text", 0, 12), center, noise, np.eye(n_facets))]


def test_transfer_of_independent_facets_is_diagonal() -> None:
    transfer = fit_transfer(half(120, 3, 1), half(120, 3, 2), models(3), AlignmentConfig())
    np.testing.assert_allclose(transfer.sum(axis=1), 1)
    assert (transfer >= 0).all()
    assert (transfer[:, 1:].argmax(axis=1) == np.arange(3)).all()
    assert np.diag(transfer[:, 1:]).min() > 0.8


def test_a_row_without_users_is_uniform_and_one_facet_is_itself() -> None:
    few = half(6, 3, 1)
    np.testing.assert_allclose(
        fit_transfer(few, few, models(3), AlignmentConfig()), np.full((3, 4), 0.25)
    )
    one = half(50, 1, 1)
    assert fit_transfer(one, one, models(1), AlignmentConfig()).tolist() == [[0, 1]]


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=30))
def test_weights_sum_to_one_and_none_is_above_one_half(raw: list[float]) -> None:
    weights = capped(np.array(raw))
    assert abs(weights.sum() - 1) < 1e-9
    assert weights.max() <= 0.5 + 1e-9


def test_nobody_and_one_alone_have_no_weight() -> None:
    assert capped(np.zeros(0)).tolist() == []
    assert capped(np.array([3.0])).tolist() == [0]
    assert FacetPeers(np.zeros(1), np.ones(1), np.zeros(1)).n_effective == 0


def test_peers_are_the_best_aligned_who_lend_ties_by_row() -> None:
    alignments = np.array([0.5, 0.9, 0.5, 0.0, 0.8])
    lends = np.array([True, True, True, True, False])
    rows = np.array([30, 20, 10, 40, 50])
    peers = choose_peers(alignments, rows, np.ones(5), lends, AlignmentConfig())
    assert peers.rows.tolist() == [20, 10, 30]
    assert peers.weights[0] == 0.5
    assert peers.weights[1] == peers.weights[2] == 0.25
