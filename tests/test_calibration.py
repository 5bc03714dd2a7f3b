"""Calibration on planted masked facets: what helps is believed, what does not is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from copersona.method.alignment import FacetPeers
from copersona.method.calibration import (
    Calibration,
    CompletionConfig,
    Curve,
    MaskedFacets,
    agreement_floor,
    calibrate,
)
from copersona.method.graph import layer_states
from copersona.method.lending import borrow
from copersona.method.profiles import OwnEvidence, ViewModel
from copersona.method.residuals import View

Array = NDArray[Any]
DIM = 4
MODEL = ViewModel(View("text", 0, DIM, ()), np.zeros((2, DIM), np.float32), np.full(2, 0.2),
                  np.eye(2))  # fmt: skip


def planted(
    n: int = 600, *, slope: float = 0.5, share: float = 0.8, believable: bool = True, seed: int = 0
) -> MaskedFacets:
    """Truth = own + slope · specific + share · unknown · shared + noise."""
    rng = np.random.default_rng(seed)
    own, shared, specific = rng.normal(size=(3, n, DIM))
    unknown = rng.uniform(0.1, 1, (n, 1))
    truth = own + slope * specific + share * (unknown > 0.5) * shared
    truth += rng.normal(0, np.sqrt(0.05), truth.shape)  # 0.2 over 4 interactions
    key = unknown * believable
    evidence = OwnEvidence(np.ones((n, 2, 1)), np.zeros((n, 2, DIM)))
    return MaskedFacets(
        np.arange(n), rng.integers(0, 2, n), truth, np.full((n, 1), 4.0), own, shared, specific,
        key, rng.uniform(0.2, 1, (n, 1)) * believable,
        evidence, layer_states(evidence, [MODEL]), [np.zeros(0, int)] * n,
    )  # fmt: skip


def fitted(masked: MaskedFacets) -> Calibration:
    return calibrate(masked, [MODEL], np.zeros(2), CompletionConfig())


def test_planted_slopes_are_found_where_they_are() -> None:
    found = fitted(planted())
    for alignment in (0.25, 0.5, 1.0):
        assert found.specific.at(0, alignment)[0] == pytest.approx(0.5, abs=0.08)
    assert found.shared.at(0, 0.95)[0] == pytest.approx(0.8, abs=0.08)
    assert found.shared.at(0, 0.2)[0] < 0.1
    assert found.shared.at(0, 0.95)[1] > 0.7
    assert found.believes


def test_completed_is_what_both_curves_say() -> None:
    masked = planted()
    better = masked.completed(fitted(masked), [MODEL])
    assert ((masked.truth - better) ** 2).mean() < 0.3 * ((masked.truth - masked.own) ** 2).mean()


@pytest.mark.parametrize("masked", [
    planted(slope=0, share=0), planted(slope=-0.5, share=-0.5), planted(believable=False),
    planted(20),
])  # fmt: skip
def test_what_does_not_help_is_not_believed(masked: MaskedFacets) -> None:
    found = fitted(masked)
    assert not found.believes
    np.testing.assert_array_equal(masked.completed(found, [MODEL]), masked.own)


def test_nothing_masked_is_nothing_believed() -> None:
    assert not fitted(planted(0)).believes


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_curves_never_fall_and_stay_in_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = fitted(planted(200, slope=rng.normal(), share=rng.normal(), seed=seed))
    for curve in (found.shared, found.specific):
        assert (np.diff(curve.edges) >= 0).all()
        assert (np.diff(curve.slope) >= -1e-12).all()
        assert (np.diff(curve.explained) >= -1e-12).all()
        assert (curve.slope >= 0).all()
        assert ((curve.explained >= 0) & (curve.explained < 1)).all()


def test_nothing_is_believed_below_the_first_step() -> None:
    curve = Curve(*(np.array([row]) for row in ([0.3, 0.6], [0.4, 0.9], [0.1, 0.2], [0.1, 0.2])))
    assert [float(curve.at(0, key)[0]) for key in (0.0, 0.29, 0.3, 0.7)] == [0, 0, 0.4, 0.9]
    slopes, shares = curve.at(0, np.array([0.0, 0.5]))
    assert (slopes.tolist(), shares.tolist()) == ([0, 0.4], [0, 0.1])


def test_contradicting_peers_lie_below_the_floor_and_alike_ones_above() -> None:
    rng = np.random.default_rng(2)
    specifics, lends = rng.normal(size=(100, 1, DIM)), np.ones((2, 100), bool)
    floor = agreement_floor(specifics, lends, n_peers=10, seed=0)[0]
    half = np.repeat(rng.normal(size=(1, DIM)), 6, axis=0)
    peers = FacetPeers(np.arange(6), np.ones(6), np.full(6, 1 / 6))
    signs = np.array([1, -1, 1, -1, 1, -1])[:, None]
    assert borrow(peers, half, np.ones((6, 1))).agreement == pytest.approx(1)
    assert borrow(peers, half * signs, np.ones((6, 1))).agreement < floor < 0.1
    assert agreement_floor(specifics[:3], lends[:, :3], n_peers=10, seed=0)[0] == np.inf
