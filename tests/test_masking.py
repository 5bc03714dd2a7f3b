"""Hidden facets leave no trace, histories are cut as asked, and nobody is its own peer."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from copersona.method.calibration import MaskedFacets
from copersona.method.corpus import Corpus, restrict_users
from copersona.method.facets import FacetConfig
from copersona.method.fitted import FittedState, MethodConfig, fit_state
from copersona.method.masking import Hiding, mask_facets
from copersona.method.residuals import ResidualConfig
from copersona.testing import WorldSpec, planted_world

SPEC = WorldSpec(n_users=120, n_facets=3, per_facet=5, missing=0.2)


@cache
def corpus() -> Corpus:
    return planted_world(SPEC).corpus


@cache
def state(n_facets: int = 3) -> FittedState:
    config = MethodConfig(facets=FacetConfig(n_facets=n_facets), residuals=ResidualConfig(dim=8))
    return fit_state(corpus(), encoder="planted", cut=2e9, config=config)


def hide(*caps: int | None, n_facets: int = 3, are_lenders: bool = True,
         min_support: float = 4.0) -> MaskedFacets:  # fmt: skip
    it = state(n_facets)
    return mask_facets(
        it.observe(corpus()), it.models, it.lending, it.calibration.agreement_floor,
        it.config.completion, are_lenders=are_lenders,
        hiding=Hiding(caps=caps, min_support=min_support),
    )  # fmt: skip


def test_the_hidden_facet_is_in_no_sum_and_truth_is_what_was_hidden() -> None:
    masked, whole = hide(None), state().evidence
    at = np.arange(len(masked)), masked.facets
    assert not masked.evidence.support[at].any()
    assert not masked.evidence.means[at].any()
    center = np.concatenate([m.center for m in state().models], axis=1)
    np.testing.assert_allclose(
        masked.truth, whole.means[masked.users, masked.facets] - center[masked.facets], atol=1e-5
    )
    np.testing.assert_array_equal(masked.support, whole.support[masked.users, masked.facets])


def test_some_of_the_facet_may_stay_and_is_no_part_of_the_truth() -> None:
    it, whole = state(), state().evidence
    masked = mask_facets(
        it.observe(corpus()), it.models, it.lending, it.calibration.agreement_floor,
        it.config.completion, are_lenders=True, hiding=Hiding(caps=(None,), kept=(1, 2)),
    )  # fmt: skip
    stayed = masked.evidence.support[np.arange(len(masked)), masked.facets]
    assert set(np.unique(stayed)) == {0, 1, 2}
    assert 0.3 < (stayed == 0).all(axis=1).mean() < 0.7
    total = whole.support[masked.users, masked.facets]
    np.testing.assert_allclose(stayed + masked.support, total)
    own, hidden = masked.evidence.means[np.arange(len(masked)), masked.facets], masked.truth
    center = np.concatenate([m.center for m in it.models], axis=1)[masked.facets]
    both = stayed[:, :1] * own[:, :8] + masked.support[:, :1] * (hidden + center)[:, :8]
    np.testing.assert_allclose(
        both / total[:, :1], whole.means[masked.users, masked.facets, :8], atol=1e-4
    )


def test_only_those_named_have_facets_hidden() -> None:
    it, chosen = state(), np.arange(SPEC.n_users) % 3 == 0
    masked = mask_facets(
        it.observe(corpus()), it.models, it.lending, it.calibration.agreement_floor,
        it.config.completion, are_lenders=True, hiding=Hiding(among=chosen),
    )  # fmt: skip
    assert set(masked.users) == set(np.flatnonzero(chosen)) & set(hide(None).users)


@pytest.mark.parametrize("cap", [1, 3])
def test_histories_are_cut_to_the_cap(cap: int) -> None:
    masked = hide(cap)
    assert (masked.n_elsewhere <= cap).all()
    assert (masked.n_elsewhere > 0).all()
    longest = hide(None).n_elsewhere
    assert longest.max() > cap


def test_what_is_hidden_cannot_change_what_is_said_of_it() -> None:
    """The secret part of the history is replaced by noise: every prediction stays the same."""
    it, observed = state(), state().observe(corpus())
    before = hide(None, are_lenders=False)
    case = 0
    user, f = int(before.users[case]), int(before.facets[case])
    secret = (observed.users == user) & (observed.facets == f)
    noisy = observed.residuals.copy()
    noisy[secret] += 100
    changed = mask_facets(
        type(observed)(**{**observed.__dict__, "residuals": noisy}), it.models, it.lending,
        it.calibration.agreement_floor, it.config.completion, are_lenders=False,
        hiding=Hiding(caps=(None,)),
    )  # fmt: skip
    for name in ("own", "shared", "specific", "unknown", "alignment"):
        np.testing.assert_array_equal(getattr(changed, name)[case], getattr(before, name)[case])
    assert np.abs(changed.truth[case] - before.truth[case]).max() > 50


def test_a_lender_is_never_its_own_peer() -> None:
    it, rows = state(), np.arange(SPEC.n_users)
    barred = it.lending.search(it.states, rows, exclude=rows)
    allowed = it.lending.search(it.states, rows, exclude=None)
    assert not any(row in found for row, found in zip(rows, barred, strict=True))
    assert np.mean([row in found for row, found in zip(rows, allowed, strict=True)]) > 0.9


def test_offers_in_one_facet_are_those_among_all() -> None:
    it, near = state(), state().graph.candidates(7)
    lends = near % 3 > 0
    every = it.lending.offers(it.states, 7, near, lends, [0, 1, 2])
    for f in (2, 0):
        (alone,) = it.lending.offers(it.states, 7, near, lends, [f])
        np.testing.assert_array_equal(alone.shared.peers.rows, every[f].shared.peers.rows)
        np.testing.assert_array_equal(alone.specific.peers.rows, every[f].specific.peers.rows)
        np.testing.assert_allclose(alone.shared.offered, every[f].shared.offered, rtol=1e-6)
        np.testing.assert_allclose(alone.specific.offered, every[f].specific.offered, rtol=1e-6)
        assert set(alone.specific.peers.rows) <= set(near[lends])


def test_with_one_facet_half_of_a_history_is_hidden() -> None:
    masked = hide(None, n_facets=1)
    counts = np.bincount(corpus().users)[masked.users]
    np.testing.assert_allclose(masked.n_elsewhere + masked.support.max(axis=1), counts)
    assert (masked.specific != 0).any()
    assert not masked.unknown.any()  # there is no whole user beside the facet


def test_nobody_to_hide_is_an_empty_answer() -> None:
    nobody = restrict_users(corpus(), np.zeros(SPEC.n_users, bool))
    it = state()
    masked = mask_facets(
        it.observe(nobody), it.models, it.lending, it.calibration.agreement_floor,
        it.config.completion, are_lenders=False,
    )  # fmt: skip
    assert len(masked) == 0
    assert masked.completed(it.calibration, it.models).shape == masked.truth.shape
