"""Routing: how little a user's own history says about a request, and how much borrowing adds.

`Facets.route` splits a request over facets; this module weighs that split with the user's own
support and confidence, giving two numbers in [0, 1] that the gate and `explain` read: the *need*
(own history is thin here) and the *worth* (peers know more here than the user's own history).

It knows arrays over facets. It knows nothing of texts, peers' identities, evidence or prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.errors import ConfigError, ShapeError

Array = NDArray[Any]


@dataclass(frozen=True)
class Routing:
    """Where a request falls and what that means for one user.

    Attributes:
        routed: share of the request in each facet.
        need: how thin the user's own support is there, in [0, 1]; 1 is nothing at all.
        worth: confidence that borrowing adds there, in [0, 1]; 0 where all facets abstained.

    Shapes:
        routed (n_facets,)
    """

    routed: Array
    need: float
    worth: float


def own_need(routed: Array, support: Array, n0: float = 2.0) -> float:
    """Expected lack of own support over the routed facets: Σ q_f n₀ / (n_uf + n₀).

    Args:
        routed: share of the request in each facet.
        support: effective number of the user's own interactions in each facet.
        n0: support at which the need has fallen to one half.

    Shapes:
        routed (n_facets,) · support (n_facets,)

    Raises:
        ShapeError: the arrays disagree.
        ConfigError: `n0` is not above 0.

    Source: method step 8.
    """
    _check(routed, support)
    if not n0 > 0:
        raise ConfigError(f"n0={n0} must be above 0")
    return float(np.sum(routed * (n0 / (support + n0))))


def borrowing_worth(
    routed: Array, own_confidence: Array, confidence: Array, abstained: Array
) -> float:
    """Expected confidence gained from peers over the routed facets: Σ q_f (ĉ_f − c_f)₊.

    Args:
        routed: share of the request in each facet.
        own_confidence: before completion.
        confidence: after completion.
        abstained: True where nothing was borrowed; such facets count 0.

    Shapes:
        all (n_facets,)

    Raises:
        ShapeError: the arrays disagree.

    Source: method step 8.
    """
    _check(routed, own_confidence, confidence, abstained)
    gain = np.maximum(confidence - own_confidence, 0.0)
    return float(np.sum(np.where(abstained.astype(bool), 0.0, routed * gain)))


def _check(routed: Array, *others: Array) -> None:
    shapes = [np.shape(array) for array in (routed, *others)]
    if len(shapes[0]) != 1 or any(shape != shapes[0] for shape in shapes):
        raise ShapeError(f"arrays over facets have shapes {shapes}; give one number a facet")
