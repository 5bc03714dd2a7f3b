"""Completion: what peers add to a user's own profile, in closed form, with its uncertainty.

Two steps away from self-completion, each as far as the calibration believes it: towards what
people like this user tend to in the facet, and along what is facet-specific about peers there. Own
evidence comes last and wins by itself as it grows. Where peers are too few, too weak, or agree less
than random peers do, completion abstains and says why.

Computed when read, from the user's own evidence and the peers who lend now; never stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.method.alignment import FacetPeers
from copersona.method.calibration import Calibration, CompletionConfig
from copersona.method.graph import LayerStates
from copersona.method.lending import Borrowed, Offers, joined_peers
from copersona.method.profiles import ViewModel

Array = NDArray[Any]


@dataclass(frozen=True)
class FacetCompletion:
    """One completed facet of one user.

    Attributes:
        peers: those behind what was borrowed; where nothing was, those of the facet.
        agreement: of the peers of the facet, see `Borrowed`.
        abstained: the reason why nothing was borrowed; empty where something was.
        borrowed_views: views in which peers moved the estimate, with the number of
            contributors to each.
        reasoned_views: views in which graph reasoning corrected it, see `reasoning`.

    Shapes:
        own, completed (n_columns,): estimate from own evidence alone, and after completion ·
        own_confidence, confidence (n_views,) in [0, 1)
    """

    own: Array
    completed: Array
    own_confidence: Array
    confidence: Array
    peers: FacetPeers
    agreement: float
    abstained: str
    borrowed_views: Mapping[str, int]
    reasoned_views: tuple[str, ...] = ()


def complete_facet(
    f: int,
    user: LayerStates,
    row: int,
    models: Sequence[ViewModel],
    offers: Offers | None,
    calibration: Calibration,
    support: Array,
    config: CompletionConfig,
) -> FacetCompletion:
    """Own evidence, self-completion and peers of one facet as one estimate.

    Args:
        offers: what peers offer; None where the user may not learn from others.

    Shapes:
        support (n_views,): own interactions in this facet

    Source: method step 5: π = θ̂^(−f) + s·r, W = V^(−f)(1 − R), then own evidence by precision.
    Ours: t·(g − θ̂^(−f)), the step towards peers of the whole user.
    """
    n_columns = models[-1].view.stop
    own, completed = np.zeros(n_columns), np.zeros(n_columns)
    own_confidence, confidence = np.zeros(len(models)), np.zeros(len(models))
    used: dict[str, list[Borrowed]] = {}
    for v, model in enumerate(models):
        part, posterior = model.view.slice, user.posteriors[v]
        prior, noise = model.signal[f, f], model.noise[f]
        own[part] = posterior.theta[row, f]
        own_confidence[v] = 1 - posterior.variance[row, f] / prior
        completed[part], confidence[v] = own[part], own_confidence[v]
        if offers is None:
            continue
        variance = max(float(posterior.others_variance[row, f]), 1e-9)
        steps = _steps(f, v, variance / prior, offers, calibration, config)
        if not steps:
            continue
        used[model.view.name] = [step.source for step in steps]
        elsewhere = posterior.others[row, f]
        mean = elsewhere.copy()
        for step in steps:
            start = elsewhere if step.is_shared else 0
            mean += step.slope * (step.source.offered[part] - start)
            variance *= 1 - step.explained
        precision = float(support[v]) / noise
        observed = user.specifics[row, f, part] + elsewhere
        total = precision + 1 / variance
        completed[part] = (precision * observed + mean / variance) / total
        confidence[v] = np.clip(1 - 1 / total / prior, 0, 1 - 1e-9)
    sources = {id(source): source for view in used.values() for source in view}
    peers = joined_peers(list(sources.values()))
    if not used:
        peers = offers.specific.peers if offers else peers
    return FacetCompletion(
        own,
        completed,
        own_confidence,
        confidence,
        peers,
        offers.specific.agreement if offers else 0.0,
        "" if used else _reason(f, offers, calibration, config),
        {name: _contributors(used[name], models, name) for name in used},
    )


@dataclass(frozen=True)
class _Step:
    """One believed offer: towards the peers' tendency where shared, else along what is specific."""

    source: Borrowed
    slope: float
    explained: float
    is_shared: bool


def _steps(
    f: int,
    v: int,
    unknown: float,
    offers: Offers,
    calibration: Calibration,
    config: CompletionConfig,
) -> list[_Step]:
    """The offers that are believed in one view."""
    agrees = offers.specific.agreement > calibration.agreement_floor[f]
    specific = calibration.specific.at(v, offers.specific.peers.alignment * agrees)
    steps = []
    for source, (slope, explained), is_shared in (
        (offers.shared, calibration.shared.at(v, unknown), True),
        (offers.specific, specific, False),
    ):
        if slope > 0 and source.is_enough(config.min_donors)[v]:
            steps.append(_Step(source, float(slope), float(explained), is_shared))
    return steps


def _contributors(sources: Sequence[Borrowed], models: Sequence[ViewModel], name: str) -> int:
    """Different users behind one view."""
    v = next(v for v, model in enumerate(models) if model.view.name == name)
    rows = [source.peers.rows[source.has[:, v]] for source in sources]
    return len(np.unique(np.concatenate(rows)))


def _reason(
    f: int, offers: Offers | None, calibration: Calibration, config: CompletionConfig
) -> str:
    """Why nothing was borrowed."""
    if offers is None:
        return "learning from others is switched off"
    specific = offers.specific
    n = max(specific.peers.n_effective, offers.shared.peers.n_effective)
    if n < config.min_donors:
        return f"only {n:.1f} effective peers, {config.min_donors} are needed"
    floor = calibration.agreement_floor[f]
    if specific.peers.n_effective >= config.min_donors and specific.agreement <= floor:
        return (
            f"peers agree less than random ones would ({specific.agreement:.2f}, "
            f"needed above {floor:.2f})"
        )
    return "in no view did borrowing at this alignment help on masked facets"


def confidence_of(values: Array, models: Sequence[ViewModel]) -> float:
    """One confidence for a facet: views weighted by their signal share."""
    shares = np.array([model.signal_share for model in models])
    return float((values * shares).sum() / shares.sum())
