"""What the gate is told of a request, and what of a persona and its evidence its choice lets in.

Knows a desk's look at a request and the gate's vocabulary; decides nothing by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.answering.gate import Choice, GateFeatures, routing_entropy
from copersona.answering.retrieval import Candidate
from copersona.answering.routing import borrowing_worth, own_need
from copersona.method.completion import confidence_of
from copersona.method.corpus import Corpus
from copersona.method.facets import unit
from copersona.method.fitted import FittedState, UserView
from copersona.records import Persona

Array = NDArray[Any]

_HEARD = 4
"""Own interactions nearest to the request that are compared with the persona."""


def gate_features(
    state: FittedState,
    view: UserView,
    routed: Array,
    vector: Array,
    own: Corpus,
    candidates: Sequence[Candidate],
) -> GateFeatures:
    """What is known of a request before anything is chosen.

    Args:
        own: the user's own history.

    Shapes:
        routed (n_facets,) · vector (dim,)
    """
    done = view.facets
    share = np.array([routed[f] for f in done])
    before = np.array([confidence_of(one.own_confidence, state.models) for one in done.values()])
    after = np.array([confidence_of(one.confidence, state.models) for one in done.values()])
    abstained = np.array([not one.borrowed_views for one in done.values()], bool)
    relevance = {"own": 0.0, "peer": 0.0, "population": 0.0}
    for one in candidates:
        likeness = float(one.input_vector @ vector)
        relevance[one.origin] = max(relevance[one.origin], likeness)
    return GateFeatures(
        need=own_need(share, np.array([view.support[f] for f in done])),
        worth=borrowing_worth(share, before, after, abstained),
        own_relevance=relevance["own"],
        peer_relevance=relevance["peer"],
        population_relevance=relevance["population"],
        agreement=_agreement(state, view, routed, vector, own),
        log_own=float(np.log1p(len(own))),
        entropy=routing_entropy(routed),
        confidence=float(share @ after),
    )


def _agreement(
    state: FittedState, view: UserView, routed: Array, vector: Array, own: Corpus
) -> float:
    """Cosine of what the nearest own interactions say and what the persona expects."""
    if not len(own):
        return 0.0
    nearest = np.argsort(-(own.inputs @ vector), kind="stable")[:_HEARD]
    observed = state.observe(own.take(nearest))
    said = observed.residuals.mean(axis=0)
    expected = sum(routed[f] * done.completed for f, done in view.facets.items())
    return float(unit(said[None].astype(np.float64))[0] @ unit(np.asarray(expected)[None])[0])


def let_in(persona: Persona, choice: Choice) -> Persona:
    """What a choice lets be said of a persona; what the user said outright always is."""
    facets = tuple(
        replace(facet, tendencies=tuple(
            t for t in facet.tendencies
            if ("peer" if t.contributors else "own") in choice.origins
        ))
        for facet in persona.facets
    )  # fmt: skip
    return replace(persona, facets=facets)
