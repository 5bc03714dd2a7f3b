"""Completion against Gaussian conditioning written out, and every reason to abstain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from copersona.method.alignment import FacetPeers
from copersona.method.calibration import Calibration, CompletionConfig, Curve
from copersona.method.completion import FacetCompletion, complete_facet
from copersona.method.graph import LayerStates, layer_states
from copersona.method.lending import Borrowed, Offers, joined_peers
from copersona.method.profiles import OwnEvidence, ViewModel
from copersona.method.residuals import View

Array = NDArray[Any]

TEXT, RATING = View("text", 0, 2, ("a", "b")), View("rating", 2, 3, ("stars",))
SIGNAL, NOISE = np.array([[1.0, 0.4], [0.4, 0.8]]), np.array([2.0, 3.0])
MODELS = tuple(
    ViewModel(view, np.zeros((2, view.stop - view.start), np.float32), NOISE, SIGNAL)
    for view in (TEXT, RATING)
)
SLOPE, EXPLAINED = 0.7, 0.3


def curve(edge: float, slope: float = SLOPE, lower: float = 0.1) -> Curve:
    full = np.ones((2, 1))
    return Curve(edge * full, slope * full, EXPLAINED * full, lower * full)


CALIBRATION = Calibration(curve(0.05), curve(0.2), np.array([0.1, 0.1]))


def user(own: int = 0) -> LayerStates:
    """Someone with four interactions in facet 0 and `own` in facet 1."""
    support = np.array([[[4.0, 4.0], [own, own]]], np.float32)
    means = np.array([[[1.0, -0.5, 0.4], [0.3, 0.9, -1.0]]], np.float32)
    return layer_states(OwnEvidence(support, means * (support[..., :1] > 0)), MODELS)


def borrowed(offered: Array, *, n: int = 4, weights: Array | None = None) -> Borrowed:
    share = np.ones(n) / max(n, 1) if weights is None else weights
    peers = FacetPeers(np.arange(n), np.full(n, 0.5), share)
    return Borrowed(peers, offered, 0.4, np.ones((n, 2), bool))


NOBODY = borrowed(np.zeros(3), n=0)
SPECIFIC = borrowed(np.array([0.5, -0.2, 0.1]))
SHARED = borrowed(np.array([0.9, 0.1, 0.6]))


def completed(offers: Offers | None, *, own: int = 0, **changes: Any) -> FacetCompletion:
    return complete_facet(
        1, user(own), 0, MODELS, offers, replace(CALIBRATION, **changes),
        np.array([own, own], float), CompletionConfig(),
    )  # fmt: skip


@pytest.mark.parametrize("own", [0, 1, 7])
def test_both_offers_and_own_evidence_are_gaussian_conditioning(own: int) -> None:
    found = completed(Offers(SHARED, SPECIFIC), own=own)
    elsewhere = 0.4 * np.array([1.0, -0.5, 0.4]) / (1 + 2 / 4)  # facet 0 foretells facet 1
    variance = 0.8 - 0.4**2 / (1 + 2 / 4)
    prior = elsewhere + SLOPE * (SHARED.offered - elsewhere) + SLOPE * SPECIFIC.offered
    prior_variance = variance * (1 - EXPLAINED) ** 2
    gain = prior_variance / (prior_variance + 3 / own) if own else 0.0
    seen = np.array([0.3, 0.9, -1.0])
    np.testing.assert_allclose(found.completed, prior + gain * (seen - prior), atol=1e-6)
    confidence = 1 - prior_variance * (1 - gain) / 0.8
    np.testing.assert_allclose(found.confidence, confidence, atol=1e-6)
    assert (found.confidence > found.own_confidence).all()
    assert found.abstained == ""
    assert found.borrowed_views == {"text": 4, "rating": 4}


def test_own_words_win_as_they_grow() -> None:
    few, many = (completed(Offers(SHARED, SPECIFIC), own=n) for n in (1, 10_000))
    np.testing.assert_allclose(many.completed, [0.3, 0.9, -1.0], atol=3e-3)
    np.testing.assert_allclose(many.completed, many.own, atol=3e-3)
    assert np.abs(few.completed - few.own).max() > 0.1


@pytest.mark.parametrize(("n", "borrows"), [(0, False), (1, False), (2, False), (3, True)])
def test_from_three_effective_peers_on(n: int, borrows: bool) -> None:
    found = completed(Offers(borrowed(SHARED.offered, n=n), borrowed(SPECIFIC.offered, n=n)))
    assert bool(found.borrowed_views) == borrows
    if not borrows:
        assert found.abstained == f"only {n:.1f} effective peers, 3 are needed"
        np.testing.assert_array_equal(found.completed, found.own)
        np.testing.assert_array_equal(found.confidence, found.own_confidence)


def test_a_statistic_that_rests_on_two_peers_or_mostly_on_one_is_not_borrowed() -> None:
    two = replace(SPECIFIC, has=np.array([[True, True]] * 2 + [[True, False]] * 2))
    assert completed(Offers(NOBODY, two)).borrowed_views == {"text": 4}
    loud = borrowed(SPECIFIC.offered, n=4, weights=np.array([0.46, 0.24, 0.2, 0.1]))
    heavy = replace(loud, has=np.array([[True, True]] * 3 + [[True, False]]))
    assert completed(Offers(NOBODY, heavy)).borrowed_views == {"text": 4}


def test_each_offer_is_believed_by_its_own_curve() -> None:
    only_shared = completed(Offers(SHARED, SPECIFIC), specific=Curve.none(2))
    assert only_shared.peers.rows.tolist() == SHARED.peers.rows.tolist()
    only_specific = completed(Offers(SHARED, SPECIFIC), shared=curve(0.99))
    np.testing.assert_allclose(only_specific.completed - only_specific.own,
                               SLOPE * SPECIFIC.offered, atol=1e-6)  # fmt: skip
    disagreeing = completed(
        Offers(NOBODY, SPECIFIC), agreement_floor=np.array([0.0, 0.5])
    ).abstained
    assert disagreeing == "peers agree less than random ones would (0.40, needed above 0.50)"


@pytest.mark.parametrize("useless", [{"slope": -0.1}, {"lower": 0.0}])
def test_what_did_not_help_on_masked_facets_is_not_borrowed(useless: dict[str, float]) -> None:
    found = completed(Offers(SHARED, SPECIFIC), shared=curve(0.05, **useless),
                      specific=curve(0.2, **useless))  # fmt: skip
    assert found.abstained.endswith("help on masked facets")
    assert not found.borrowed_views
    np.testing.assert_array_equal(found.completed, found.own)


def test_who_does_not_learn_keeps_what_is_their_own() -> None:
    found = completed(None, own=2)
    assert found.abstained == "learning from others is switched off"
    np.testing.assert_array_equal(found.completed, found.own)
    assert found.peers.n_effective == 0


def test_peers_of_two_offers_are_one_set() -> None:
    other = Borrowed(FacetPeers(np.array([2, 9]), np.array([0.9, 0.1]), np.array([0.5, 0.5])),
                     np.zeros(3), 0.0, np.ones((2, 2), bool))  # fmt: skip
    joined = joined_peers([SPECIFIC, other])
    assert joined.rows.tolist() == [2, 0, 1, 3, 9]
    assert joined.alignments.tolist() == [0.9, 0.5, 0.5, 0.5, 0.1]
    np.testing.assert_allclose(joined.weights, [0.375, 0.125, 0.125, 0.125, 0.25])
