"""Facets: planted themes are found again, declared ones override, degenerate inputs are borne."""

from __future__ import annotations

import numpy as np
import pytest

from copersona.errors import ShapeError
from copersona.method.facets import FacetConfig, fit_facets, name_facets
from copersona.testing import WorldSpec, planted_world

WORLD = planted_world(WorldSpec(n_users=60))


def test_planted_facets_are_found_again() -> None:
    facets = fit_facets(WORLD.corpus.inputs, WORLD.corpus.users, FacetConfig(n_facets=4))
    assigned = facets.assign(WORLD.corpus.inputs)
    pairs = set(zip(assigned.tolist(), WORLD.facets.tolist(), strict=True))
    assert len(pairs) == 4
    np.testing.assert_allclose(np.linalg.norm(facets.prototypes, axis=1), 1, atol=1e-5)


def test_a_declared_facet_overrides_the_learnt_one() -> None:
    declared = ["tea" if f == 2 else None for f in WORLD.facets.tolist()]
    config = FacetConfig(n_facets=4)
    facets = fit_facets(WORLD.corpus.inputs, WORLD.corpus.users, config, declared)
    assert facets.declared[0] == facets.names[0] == "tea"
    assert (facets.assign(WORLD.corpus.inputs[:3], ["tea", None, "unheard of"])[0]) == 0
    assert facets.route(WORLD.corpus.inputs[0], "tea").tolist() == [1, 0, 0, 0]


def test_routing_sums_to_one_over_at_most_two_facets() -> None:
    facets = fit_facets(WORLD.corpus.inputs, WORLD.corpus.users, FacetConfig(n_facets=4))
    for vector in WORLD.corpus.inputs[:20]:
        weights = facets.route(vector)
        assert weights.sum() == pytest.approx(1)
        assert (weights > 0).sum() <= 2
    assert facets.route(np.zeros(16)).tolist() == [0.25] * 4


def test_zero_vectors_and_few_inputs_give_fewer_facets() -> None:
    for vectors in (np.zeros((5, 4), np.float32), np.ones((1, 4), np.float32)):
        facets = fit_facets(vectors, np.zeros(len(vectors), int), FacetConfig(n_facets=4))
        assert facets.n_facets == 1
        assert facets.assign(vectors).tolist() == [0] * len(vectors)


def test_vectors_without_their_users_are_refused() -> None:
    with pytest.raises(ShapeError, match="5 vectors for 4 users"):
        fit_facets(np.zeros((5, 2)), np.zeros(4), FacetConfig())


def test_names_are_words_of_enough_users() -> None:
    facets = fit_facets(WORLD.corpus.inputs, WORLD.corpus.users, FacetConfig(n_facets=4))
    assigned, users = facets.assign(WORLD.corpus.inputs), WORLD.corpus.users
    words = [
        [f"theme{f}", "secret" if u == 0 else "the"]
        for f, u in zip(assigned.tolist(), users.tolist(), strict=True)
    ]
    named = name_facets(facets, words, assigned, users, min_donors=3)
    assert [name.split(" · ")[0] for name in named.names] == [f"theme{f}" for f in range(4)]
    assert "secret" not in " ".join(named.names)
