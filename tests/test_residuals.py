"""Residuals: nobody's own answer is ever part of what they are measured against."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from copersona.method.residuals import ResidualConfig, fit_residuals
from copersona.testing import WorldSpec, planted_world

WORLD = planted_world(WorldSpec(n_users=80, n_items=5, noise=0.3))
CORPUS = WORLD.corpus
MODEL = fit_residuals(CORPUS, WORLD.facets, 4, ResidualConfig(dim=8))


def test_an_item_effect_never_contains_the_users_own_answer() -> None:
    answer = np.random.default_rng(0).normal(size=(len(CORPUS), MODEL.n_columns)).astype("f4")
    present, fitted = np.ones((len(CORPUS), len(MODEL.views)), bool), np.ones(len(CORPUS), bool)
    mine = CORPUS.users == 7
    other = np.where(mine[:, None], answer + 100, answer)
    effects = []
    for raw in (answer, other):
        sums = np.zeros_like(MODEL.item_sums)
        counts = np.zeros_like(MODEL.item_counts)
        rows = np.array([MODEL.item_rows[i] for i in CORPUS.items if i])
        np.add.at(sums, rows, raw)
        np.add.at(counts, rows, 1)
        model = replace(MODEL, item_sums=sums, item_counts=counts)
        effects.append(model.item_effect(CORPUS, raw, present, fitted))
    np.testing.assert_allclose(effects[0][mine], effects[1][mine], atol=1e-3)
    assert np.abs(effects[0][~mine] - effects[1][~mine]).max() > 1


def test_an_items_own_level_is_taken_out_of_a_rating() -> None:
    residuals, present = MODEL.transform(CORPUS, WORLD.facets, np.ones(len(CORPUS), bool))
    column = next(view.start for view in MODEL.views if view.name == "rating")
    left = residuals[:, column] * MODEL.scale[column]
    assert present.all()
    assert left.std() < 0.4 < 0.8 < CORPUS.ratings.std()


def test_an_unknown_item_has_no_effect() -> None:
    strange = replace(CORPUS, items=["unheard of"] * len(CORPUS))
    values, present = MODEL.values(strange)
    effect = MODEL.item_effect(strange, values, present, np.zeros(len(strange), bool))
    assert not effect.any()
