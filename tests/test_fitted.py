"""The whole method on planted worlds: what it must find, what it must not, and degenerate cases."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from copersona import artifacts
from copersona.errors import ArtifactError, DataError
from copersona.method.calibration import Curve, MaskedFacets
from copersona.method.corpus import Corpus, restrict_users
from copersona.method.facets import FacetConfig
from copersona.method.fitted import (
    FittedState,
    MethodConfig,
    UserView,
    fit_state,
    from_arrays,
    to_arrays,
)
from copersona.method.masking import Hiding, mask_facets
from copersona.method.profiles import LowSupportWarning
from copersona.method.residuals import ResidualConfig
from copersona.testing import World, WorldSpec, planted_world, reorder_users

Array = NDArray[Any]

MISLEADING = WorldSpec(
    n_users=320, links=(0, 0, 1, 1), missing=0.3, skew=1.0, per_facet=5, noise=0.4
)
"""Facets 0 and 1 share a group, 2 and 3 another; who is alike overall is alike where both are
active, which says nothing of the other pair."""
N_TRAIN = 240


def everybody(user: str) -> bool:
    return True


def fit(corpus: Corpus, n_facets: int = 4) -> FittedState:
    config = MethodConfig(facets=FacetConfig(n_facets=n_facets), residuals=ResidualConfig(dim=12))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LowSupportWarning)
        return fit_state(corpus, encoder="planted", cut=2e9, config=config)


@cache
def world(spec: WorldSpec = MISLEADING) -> World:
    return planted_world(spec)


def part(spec: WorldSpec, first: int, last: int) -> Corpus:
    rows = np.arange(spec.n_users)
    return restrict_users(world(spec).corpus, (rows >= first) & (rows < last))


@cache
def trained(spec: WorldSpec = MISLEADING, n_facets: int = 4) -> FittedState:
    return fit(part(spec, 0, N_TRAIN), n_facets)


def persona(state: FittedState, corpus: Corpus, user: int, **options: Any) -> UserView:
    alone = restrict_users(corpus, np.arange(corpus.n_users) == user)
    options.setdefault("may_lend", everybody)
    return state.view(corpus.user_ids[user], state.evidence_of(alone), **options)


def completed(view: UserView) -> Array:
    return np.stack([facet.completed for facet in view.facets.values()])


def hide(state: FittedState, corpus: Corpus) -> MaskedFacets:
    return mask_facets(
        state.observe(corpus), state.models, state.lending, state.calibration.agreement_floor,
        state.config.completion, are_lenders=False, hiding=Hiding(caps=(None,)),
    )  # fmt: skip


def masked_r2(state: FittedState, masked: MaskedFacets, *, borrows: bool) -> float:
    text = state.models[0].view.slice
    truth = masked.truth[:, text]
    guess = masked.completed(state.calibration, state.models) if borrows else masked.own
    return float(1 - ((truth - guess[:, text]) ** 2).sum() / (truth**2).sum())


def global_r2(spec: WorldSpec) -> float:
    """The same task for F = 1: an own facet hidden, completed from the rest of the history."""
    state, corpus = trained(spec, 1), part(spec, N_TRAIN, spec.n_users)
    facets = world(spec).facets[world(spec).corpus.users >= N_TRAIN]
    text, left, total = state.models[0].view.slice, 0.0, 0.0
    for user in range(corpus.n_users):
        for f in range(spec.n_facets):
            mine = corpus.users == user
            hidden = mine & (facets == f)
            if hidden.sum() < 4 or hidden.sum() == mine.sum():
                continue
            truth = state.evidence_of(corpus.take(hidden)).means[user, 0, text]
            truth = truth - state.models[0].center[0]
            guess = completed(persona(state, corpus.take(mine & ~hidden), user))[0, text]
            left, total = left + ((truth - guess) ** 2).sum(), total + (truth**2).sum()
    return float(1 - left / total)


def test_facet_peers_beat_self_completion_and_global_peers_where_similarity_misleads() -> None:
    state = trained()
    masked = hide(state, part(MISLEADING, N_TRAIN, 320))
    found = masked_r2(state, masked, borrows=True)
    assert found > masked_r2(state, masked, borrows=False) + 0.2
    whole = replace(state, transfer=np.tile([1.0, 0, 0, 0, 0], (4, 1)))
    by_whole_user = hide(whole, part(MISLEADING, N_TRAIN, 320))
    assert found > masked_r2(whole, by_whole_user, borrows=True) + 0.1
    assert found > global_r2(MISLEADING) + 0.2


def test_in_a_world_of_one_tendency_what_is_facet_specific_wins_nothing() -> None:
    spec = WorldSpec(n_users=320, n_facets=3, links=(0, 0, 0), shared=1.0, noise=0.4)
    state = trained(spec, 3)
    masked = hide(state, part(spec, N_TRAIN, 320))
    by_facet = masked_r2(state, masked, borrows=True)
    nothing = Curve.none(len(state.models))
    by_whole_user = replace(state, calibration=replace(state.calibration, specific=nothing))
    assert by_facet < masked_r2(by_whole_user, masked, borrows=True) + 0.02
    assert by_facet > masked_r2(state, masked, borrows=False) + 0.05
    assert by_facet > global_r2(spec)


def test_what_is_published_and_opened_gives_the_same_persona(tmp_path: Path) -> None:
    state, corpus = trained(), part(MISLEADING, 0, 320)
    arrays, meta = to_arrays(state)
    artifacts.publish(tmp_path, "world", arrays, meta)
    opened = artifacts.open_version(tmp_path, "world")
    again = from_arrays(opened.arrays, opened.meta)
    for user in (0, 17, 250, 319):
        before, after = persona(state, corpus, user), persona(again, corpus, user)
        np.testing.assert_allclose(completed(after), completed(before), atol=1e-4)
        for a, b in zip(before.facets.values(), after.facets.values(), strict=True):
            assert a.abstained == b.abstained
            assert a.peers.rows.tolist() == b.peers.rows.tolist()
    del arrays["transfer"]
    with pytest.raises(ArtifactError, match="transfer"):
        from_arrays(arrays, meta)


def test_a_persona_does_not_depend_on_the_order_of_users_or_rows() -> None:
    state, corpus = trained(), part(MISLEADING, N_TRAIN, 320)
    order = np.random.default_rng(0).permutation(corpus.n_users)
    moved = reorder_users(corpus, order)
    shuffled = moved.take(np.random.default_rng(1).permutation(len(moved)))
    before, after = state.evidence_of(corpus), state.evidence_of(shuffled)
    np.testing.assert_allclose(after.means, before.means[order], atol=1e-5)
    for row in (0, 5, 40):
        one = completed(persona(state, corpus, int(order[row])))
        np.testing.assert_allclose(completed(persona(state, shuffled, row)), one, atol=1e-4)


def test_nobody_and_nothing_to_fit_on_is_an_error() -> None:
    nobody = world().corpus.take(np.zeros(len(world().corpus), bool))
    with pytest.raises(DataError, match="nothing to fit on"):
        fit(nobody)


def test_without_evidence_the_persona_is_the_prior() -> None:
    empty = part(MISLEADING, 300, 301).take(np.zeros(0, int))
    view = persona(trained(), empty, 0)
    assert not completed(view).any()
    assert all((facet.confidence == 0).all() and facet.abstained for facet in view.facets.values())


def test_confidence_is_below_one_and_switched_off_borrows_nothing() -> None:
    state, corpus = trained(), part(MISLEADING, N_TRAIN, 320)
    for user in range(20):
        for facet in persona(state, corpus, user).facets.values():
            assert ((facet.confidence >= 0) & (facet.confidence < 1)).all()
        for options in ({"learns": False}, {"may_lend": lambda user: False}):
            view = persona(state, corpus, user, **options)
            assert all(
                facet.abstained and not facet.borrowed_views for facet in view.facets.values()
            )
            np.testing.assert_array_equal(completed(view), [f.own for f in view.facets.values()])


@pytest.mark.parametrize("kind", ["one row", "one user", "identical users", "zero vectors"])
def test_degenerate_populations_fit_and_answer(kind: str) -> None:
    corpus = part(MISLEADING, 0, 12)
    if kind == "one row":
        corpus = restrict_users(corpus, np.arange(12) == 0).take(np.array([0]))
    elif kind == "one user":
        corpus = restrict_users(corpus, np.arange(12) == 0)
    elif kind == "identical users":
        rows = np.flatnonzero(corpus.users == 0)
        corpus = replace(
            corpus.take(np.tile(rows, 12)),
            users=np.repeat(np.arange(12, dtype=np.int32), len(rows)),
        )
    else:
        corpus = replace(corpus, inputs=corpus.inputs * 0, responses=corpus.responses * 0)
    for n_facets in (1, 4):
        view = persona(fit(corpus, n_facets), corpus, 0)
        assert np.isfinite(completed(view)).all()
        assert all(np.isfinite(facet.confidence).all() for facet in view.facets.values())


def test_a_minority_gains_and_is_not_pulled_to_the_majority() -> None:
    spec = WorldSpec(n_users=900, n_facets=3, n_groups=2, links=(0, 0, 0), per_facet=6, noise=0.6)
    everyone = planted_world(spec)
    group = everyone.groups[:, 0]
    kept = (group == 0) | (np.cumsum(group == 1) <= 60)  # one in nine is of the minority
    corpus, group = restrict_users(everyone.corpus, kept), group[kept]
    is_new = np.arange(len(group)) % 3 == 0
    state = fit(restrict_users(corpus, ~is_new), 3)
    masked = hide(state, restrict_users(corpus, is_new))
    text = state.models[0].view.slice
    is_minor = group[is_new][masked.users] == 1
    assert is_minor.sum() >= 20
    guess = masked.completed(state.calibration, state.models)
    for rows in (is_minor, ~is_minor):
        alone, with_peers = (
            ((masked.truth[rows, text] - g[rows, text]) ** 2).sum() for g in (masked.own, guess)
        )
        assert with_peers < alone
    towards = masked.truth[is_minor, text].mean(axis=0)
    assert (guess[is_minor, text].mean(axis=0) * towards).sum() > 0.5 * (towards**2).sum()


def test_one_interaction_is_enough_for_a_newcomers_persona() -> None:
    newcomers = part(MISLEADING, N_TRAIN, 320)
    for row in (0, 3, 9):
        first = np.flatnonzero(newcomers.users == row)[:1]
        view = persona(trained(), newcomers.take(first), row)
        assert view.support.sum() == 1
        assert np.isfinite(completed(view)).all()
        assert max(float(f.confidence.max()) for f in view.facets.values()) > 0
