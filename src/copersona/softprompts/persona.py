"""What a soft prompt tells of a user: the routed persona, own and completed, and every facet.

Two slots – what is expected of the user where the request falls, and what own evidence alone says
there – and as the pool all facets, which the request attends to. Everything in units in which a
stranger's tendency has variance 1. Knows a state and one user's view; knows no language model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.method.completion import confidence_of
from copersona.method.fitted import FittedState, UserView
from copersona.reasoning.neighbourhoods import nodes_of, units
from copersona.softprompts.projector import PersonaVectors

Array = NDArray[Any]


def persona_vectors(
    state: FittedState, view: UserView, routed: Array, vector: Array
) -> PersonaVectors:
    """Of one user for one request.

    Args:
        view: with at least the routed facets.

    Shapes:
        routed (n_facets,) · vector (dim,): the request's

    Source: method step 10. Deviates: own evidence stands in the place of states of graph reasoning,
    which corrects the completed tendencies instead, so that it can be left out.
    """
    unit, n_views = units(state.models), len(state.models)
    completed, own = np.zeros(unit.shape[1] + n_views), np.zeros(unit.shape[1] + n_views)
    confidence = 0.0
    for f, done in view.facets.items():
        share = float(routed[f])
        completed += share * np.r_[done.completed / unit[f], done.confidence]
        own += share * np.r_[done.own / unit[f], done.own_confidence]
        confidence += share * confidence_of(done.confidence, state.models)
    nodes, credibility = nodes_of(state.models, view.evidence, view.states)
    known = np.flatnonzero(view.support > 0)
    return PersonaVectors(
        np.stack([completed, own]), nodes[0][known], credibility[0][known], vector,
        float(np.clip(confidence, 0, 1)),
    )  # fmt: skip
