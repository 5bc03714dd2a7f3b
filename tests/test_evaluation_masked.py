"""The scoreboard of masked facets on a planted world, where the order of comparators is known."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from copersona.evaluation.masked import (
    COMPARATORS,
    REASONED,
    MaskedScores,
    hash_fold,
    score_masked,
)
from copersona.method.calibration import MaskedFacets
from copersona.method.corpus import Corpus
from copersona.method.facets import FacetConfig
from copersona.method.fitted import FittedState, MethodConfig
from copersona.method.residuals import ResidualConfig
from copersona.testing import WorldSpec, planted_world

WORLD = WorldSpec(n_users=240, n_facets=4, links=(0, 0, 1, 1), missing=0.2, per_facet=6, noise=0.5)
CONFIG = MethodConfig(facets=FacetConfig(n_facets=4), residuals=ResidualConfig(dim=12))


@cache
def scores(*caps: int | None) -> MaskedScores:
    corpus = planted_world(WORLD).corpus
    found = score_masked(corpus, encoder="planted", config=CONFIG, n_folds=2, caps=caps)
    return next(s for s in found if s.view == "text")


def test_peers_beat_everything_where_facets_are_linked_in_pairs() -> None:
    found = scores(None)
    ours = found.explained("completion")
    others = {n: found.explained(n) for n in COMPARATORS if n != "completion"}
    assert ours > max(others.values()) + 0.03
    assert others["self + random peers"] == pytest.approx(others["self-completion"], abs=0.02)
    assert others["facet mean"] == 0
    assert 0 < found.over_ceiling("completion") <= 1.05
    assert found.slope("completion") == pytest.approx(1, abs=0.15)
    assert found.borrowed.mean() > 0.5


def test_a_comparator_of_ones_own_is_scored_beside_the_others() -> None:
    def reasons(state: FittedState, fitted: Corpus, hidden: MaskedFacets) -> NDArray[Any]:
        assert set(state.lenders) == set(fitted.user_ids)
        return 0.5 * hidden.own

    corpus = planted_world(WORLD).corpus
    found = score_masked(corpus, encoder="planted", config=CONFIG, n_folds=2, reasons=reasons)
    for one in found:
        half = one.predictions[REASONED]
        np.testing.assert_array_equal(half, 0.5 * one.predictions["self-completion"])
        assert one.cosine(REASONED) == pytest.approx(one.cosine("self-completion"))
        assert one.slope(REASONED) == pytest.approx(2 * one.slope("self-completion"))
    assert np.isnan(found[0].cosine("facet mean"))


def test_shorter_histories_say_less() -> None:
    short, full = scores(1), scores(None)
    assert (short.n_elsewhere <= 1).all()
    assert short.explained("completion") < full.explained("completion") - 0.05
    few = full.n_elsewhere <= np.median(full.n_elsewhere)
    assert full.explained("completion", few) > full.explained("self-completion", few)


def test_every_user_is_in_one_fold_and_folds_do_not_depend_on_the_run() -> None:
    folds = [hash_fold(f"user-{n}", 5) for n in range(500)]
    assert folds == [hash_fold(f"user-{n}", 5) for n in range(500)]
    assert np.bincount(folds, minlength=5).min() > 50
