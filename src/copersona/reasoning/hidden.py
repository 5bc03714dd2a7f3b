"""Masked facets as examples for graph reasoning: what is left, what completion says, the truth.

Everything is in units of a stranger's standard deviation in that facet. Arrays only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.method.calibration import MaskedFacets
from copersona.method.fitted import FittedState
from copersona.method.masking import Hiding, mask_facets
from copersona.method.profiles import Observed
from copersona.method.residuals import columns_of
from copersona.reasoning.neighbourhoods import Neighbourhoods, neighbourhoods, units, variance_of

Array = NDArray[Any]

KEPT = (1, 2, 4, 8)
"""Interactions of a facet that stay, where it is not hidden whole."""


@dataclass(frozen=True)
class Hidden:
    """Examples, one a row.

    Attributes:
        of: what is left of the users.
        themselves: their rows among the lenders; −1 for strangers.

    Shapes:
        users, facets, themselves (n,) · truth, own, closed (n, n_columns): what was hidden,
        self-completion, completion in closed form · known (n, n_columns): weight of own evidence ·
        variance (n, n_columns): what completion is left with · noise (n, n_columns): of the truth,
        infinite where nothing was hidden
    """

    of: Neighbourhoods
    users: Array
    facets: Array
    themselves: Array
    truth: Array
    own: Array
    closed: Array
    known: Array
    variance: Array
    noise: Array

    def __len__(self) -> int:
        return len(self.users)


def hide(
    state: FittedState,
    observed: Observed,
    hiding: Hiding,
    *,
    are_lenders: bool,
    n_peers: int,
    most: int,
    seed: int,
) -> Hidden:
    """Hide facets of users and cut their histories short.

    Args:
        most: examples at most.
    """
    settings = state.config.completion.model_copy(update={"seed": seed, "tested": most})
    masked = mask_facets(
        observed, state.models, state.lending, state.calibration.agreement_floor, settings,
        are_lenders=are_lenders, hiding=hiding,
    )  # fmt: skip
    return hidden_of(state, masked, are_lenders=are_lenders, n_peers=n_peers)


def hidden_of(
    state: FittedState, masked: MaskedFacets, *, are_lenders: bool, n_peers: int
) -> Hidden:
    """Masked facets as examples."""
    views = state.residuals.views
    unit = units(state.models)[masked.facets]
    known, variance = _certainty(masked, state)
    sampled = np.stack([m.noise[masked.facets] for m in state.models], axis=1)
    noise = np.where(masked.support > 0, sampled / np.maximum(masked.support, 1e-9), np.inf)
    return Hidden(
        of=neighbourhoods(state, masked.evidence, masked.states, masked.candidates, n_peers),
        users=masked.users,
        facets=masked.facets,
        themselves=masked.users if are_lenders else np.full(len(masked), -1),
        truth=masked.truth / unit,
        own=masked.own / unit,
        closed=masked.completed(state.calibration, state.models) / unit,
        known=columns_of(views, known),
        variance=columns_of(views, variance),
        noise=columns_of(views, noise) / unit**2,
    )


def _certainty(masked: MaskedFacets, state: FittedState) -> tuple[Array, Array]:
    """Weight of own evidence, and the variance that completion leaves, as a share of a stranger's.

    Shapes:
        -> (n, n_views), (n, n_views)
    """
    at = np.arange(len(masked)), masked.facets
    known, left = [], []
    for v, (model, posterior) in enumerate(
        zip(state.models, masked.states.posteriors, strict=True)
    ):
        prior = variance_of(model)[masked.facets]
        known.append(1 - posterior.variance[at] / prior)
        _, shared = state.calibration.shared.at(v, masked.unknown[:, v])
        _, specific = state.calibration.specific.at(v, masked.alignment[:, v])
        variance = np.maximum(posterior.others_variance[at], 1e-9) * (1 - shared) * (1 - specific)
        own = masked.evidence.support[..., v][at] / model.noise[masked.facets]
        left.append(1 / (own + 1 / variance) / prior)
    return np.clip(np.stack(known, axis=1), 0, 1), np.clip(np.stack(left, axis=1), 1e-6, 1)
