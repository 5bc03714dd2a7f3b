"""Completion: what peers add to a user's own profile, in closed form, with its uncertainty.

Peers add what self-completion cannot know: the facet-specific part of their tendencies. How much
of it to believe, and how much variance it removes, is fitted on *masked facets* – facets of lenders
hidden on purpose – as monotone functions of the alignment of the peers. Own evidence comes last
and wins by itself as it grows. Where peers are too few, too weak, or agree less than
random peers do, completion abstains and says why.

Computed when read, from the user's own evidence and the peers who lend now; never stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from copersona.alignment import AlignmentConfig, FacetPeers, align, choose_peers
from copersona.graph import LayerStates
from copersona.profiles import ViewModel
from copersona.residuals import columns_of

Array = NDArray[Any]


MIN_MASKED = 30
"""Masked facets with peers below which nothing can be believed, and least in a bin."""


class CompletionConfig(BaseModel):
    """When completion abstains."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_donors: int = Field(3, ge=2)
    """Effective peers, and contributors to any single statistic."""
    n_bins: int = Field(5, ge=1)
    """Bins of alignment in the calibration."""
    tested: int = Field(3000, ge=50)
    """Most masked user-facets the calibration uses."""
    seed: int = 0


@dataclass(frozen=True)
class Calibration:
    """How far borrowed evidence may be believed, by alignment; one curve per view.

    Shapes:
        edges (n_bins,): lower bound of ā of each bin, ascending · slope, explained, lower
        (n_views, n_bins): s, R and the lower bound of R ·
        agreement_floor (n_facets,): 5th percentile of the agreement of random peer sets.
    """

    edges: Array
    slope: Array
    explained: Array
    lower: Array
    agreement_floor: Array

    def at(self, alignment: float) -> tuple[Array, Array, Array]:
        """Slope, explained share and its lower bound at ā; zeros below the first bin."""
        place = int(np.searchsorted(self.edges, alignment, side="right")) - 1
        if place < 0:
            nothing = np.zeros(len(self.slope))
            return nothing, nothing, nothing
        return self.slope[:, place], self.explained[:, place], self.lower[:, place]


@dataclass(frozen=True)
class Borrowed:
    """What the peers of one facet offer, before it is believed.

    Attributes:
        agreement: mean inner product of two different peers over their mean square; 0 where
            they have nothing in common, 1 where they are the same.

    Shapes:
        offered (n_columns,): r_uf, mean facet-specific part · contributors (n_views,): peers
        behind each view's statistic; 0 where one of them has more than half of the weight
    """

    peers: FacetPeers
    offered: Array
    agreement: float
    contributors: Array


@dataclass(frozen=True)
class FacetCompletion:
    """One completed facet of one user.

    Attributes:
        abstained: the reason why nothing was borrowed; empty where something was.
        borrowed_views: views in which peers moved the estimate, with the number of
            contributors to each.

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


def borrow(peers: FacetPeers, specifics: Array, support: Array) -> Borrowed:
    """What chosen peers offer together.

    Shapes:
        specifics (n_peers, n_columns): the peers' facet-specific parts · support (n_peers,
        n_views): their interactions in the facet
    """
    has = (support > 0) & (peers.weights > 0)[:, None]
    shares = np.where(has, peers.weights[:, None], 0)
    is_dominated = shares.max(axis=0, initial=0) > 0.5 * shares.sum(axis=0) + 1e-9
    contributors = np.where(is_dominated, 0, has.sum(axis=0))
    offered = peers.weights @ specifics
    squares = peers.weights**2 @ (specifics**2).sum(axis=1)
    rest = float(peers.weights @ (specifics**2).sum(axis=1) - squares)
    agreement = float(offered @ offered - squares) / rest if rest > 0 else 0.0
    return Borrowed(peers, np.asarray(offered), agreement, contributors)


def find_peers(
    user: LayerStates,
    row: int,
    lenders: LayerStates,
    candidates: Array,
    may_lend: Array,
    transfer: Array,
    config: AlignmentConfig,
    *,
    min_support: float = 2.0,
) -> list[FacetPeers]:
    """Peers of every facet of one user among candidates who lend now.

    Shapes:
        candidates, may_lend (c,) -> one FacetPeers per facet
    """
    alignments = align(user, row, lenders, candidates, transfer)
    found = []
    for f in range(user.n_facets):
        lends = may_lend & (lenders.support[candidates, f] >= min_support)
        credibility = lenders.credibility[candidates, f + 1]
        found.append(choose_peers(alignments[f], candidates, credibility, lends, config))
    return found


def complete_facet(
    f: int,
    user: LayerStates,
    row: int,
    models: Sequence[ViewModel],
    borrowed: Borrowed | None,
    calibration: Calibration,
    support: Array,
    config: CompletionConfig,
) -> FacetCompletion:
    """Own evidence, self-completion and peers of one facet as one estimate.

    Args:
        borrowed: what peers offer; None where the user may not learn from others.

    Shapes:
        support (n_views,): own interactions in this facet

    Source: method step 5: π = θ̂^(−f) + s·r, W = V^(−f)(1 − R), then own evidence by precision.
    """
    n_columns = models[-1].view.stop
    own, completed = np.zeros(n_columns), np.zeros(n_columns)
    own_confidence, confidence = np.zeros(len(models)), np.zeros(len(models))
    reason = _reason_to_abstain(f, borrowed, calibration, config)
    moved: dict[str, int] = {}
    for number, model in enumerate(models):
        part, posterior = model.view.slice, user.posteriors[number]
        prior, noise = model.signal[f, f], model.noise[f]
        own[part] = posterior.theta[row, f]
        own_confidence[number] = 1 - posterior.variance[row, f] / prior
        completed[part], confidence[number] = own[part], own_confidence[number]
        if reason or borrowed is None:
            continue
        slope, explained, lower = (x[number] for x in calibration.at(borrowed.peers.alignment))
        if lower <= 0 or slope <= 0 or borrowed.contributors[number] < config.min_donors:
            continue
        moved[model.view.name] = int(borrowed.contributors[number])
        mean = posterior.others[row, f] + slope * borrowed.offered[part]
        variance = posterior.others_variance[row, f] * (1 - explained)
        precision = float(support[number]) / noise
        observed = user.specifics[row, f, part] + posterior.others[row, f]
        total = precision + 1 / max(variance, 1e-9)
        completed[part] = (precision * observed + mean / max(variance, 1e-9)) / total
        confidence[number] = np.clip(1 - 1 / total / prior, 0, 1 - 1e-9)
    if borrowed is not None and not reason and not moved:
        reason = "in no view did borrowing at this alignment help on masked facets"
    peers = borrowed.peers if borrowed else FacetPeers(*[np.zeros(0)] * 3)
    return FacetCompletion(
        own,
        completed,
        own_confidence,
        confidence,
        peers,
        borrowed.agreement if borrowed else 0.0,
        reason,
        moved,
    )


def _reason_to_abstain(
    f: int, borrowed: Borrowed | None, calibration: Calibration, config: CompletionConfig
) -> str:
    if borrowed is None:
        return "learning from others is switched off"
    n = borrowed.peers.n_effective
    if n < config.min_donors:
        return f"only {n:.1f} effective peers, {config.min_donors} are needed"
    if borrowed.agreement <= calibration.agreement_floor[f]:
        return (
            f"peers agree less than random ones would ({borrowed.agreement:.2f}, "
            f"needed above {calibration.agreement_floor[f]:.2f})"
        )
    return ""


@dataclass(frozen=True)
class MaskedFacet:
    """One hidden facet of one lender: what was predicted without it and what was there.

    Shapes:
        truth, own, offered (n_columns,) · support (n_views,)
    """

    user: int
    facet: int
    truth: Array
    own: Array
    offered: Array
    alignment: float
    agreement: float
    support: Array
    n_elsewhere: float


def calibrate(
    masked: Sequence[MaskedFacet],
    models: Sequence[ViewModel],
    floor: Array,
    config: CompletionConfig,
) -> Calibration:
    """Fit slope and explained share on masked facets: monotone in ā, never negative.

    Source: method step 5. Deviates: one curve per view over all facets, since single facets have
    too few masked cases; the bins are quantiles of ā; R is the share of the self-completion error
    removed.
    """
    alignment = np.array([m.alignment for m in masked])
    usable = alignment > 0
    n_views = len(models)
    if usable.sum() < MIN_MASKED:
        nothing = np.zeros((n_views, 1))
        return Calibration(np.array([0.0]), nothing, nothing, nothing, floor)
    n_bins = max(1, min(config.n_bins, int(usable.sum()) // MIN_MASKED))
    edges = np.quantile(alignment[usable], np.linspace(0, 1, n_bins + 1)[:-1])
    place = np.searchsorted(edges, alignment, side="right") - 1
    slope, explained, lower = (np.zeros((n_views, n_bins)) for _ in range(3))
    bins = [
        [m for m, p in zip(masked, place, strict=True) if p == b and m.alignment > 0]
        for b in range(n_bins)
    ]
    weight = np.array([len(rows) for rows in bins], float)
    for v, model in enumerate(models):
        gains = [_gain(rows, model, v) for rows in bins]
        slope[v] = _monotone(np.array([gain.slope for gain in gains]), weight)
        explained[v] = _monotone(np.array([gain.share for gain in gains]), weight)
        lower[v] = _lower_bounds(gains)
    return Calibration(edges, np.maximum(slope, 0), np.clip(explained, 0, 0.99), lower, floor)


@dataclass(frozen=True)
class _Gain:
    """What the best slope gains in one bin: total, its variance, the error there was to remove."""

    slope: float = 0.0
    total: float = 0.0
    variance: float = 0.0
    signal: float = 0.0

    @property
    def share(self) -> float:
        return min(self.total / self.signal, 0.99) if self.signal > 0 else 0.0


def _gain(rows: Sequence[MaskedFacet], model: ViewModel, number: int) -> _Gain:
    part = model.view.slice
    rows = [m for m in rows if m.support[number] > 0]
    if len(rows) < 10:
        return _Gain()
    gap = np.stack([m.truth[part] - m.own[part] for m in rows]).astype(np.float64)
    offered = np.stack([m.offered[part] for m in rows]).astype(np.float64)
    energy = (offered**2).sum()
    if energy <= 0:
        return _Gain()
    slope = float((gap * offered).sum() / energy)
    gain = (gap**2).sum(axis=1) - ((gap - slope * offered) ** 2).sum(axis=1)
    error = float((gap**2).sum())
    noise = sum(model.noise[m.facet] / m.support[number] for m in rows) * gap.shape[1]
    variance = float(gain.var(ddof=1)) * len(rows)
    return _Gain(slope, float(gain.sum()), variance, max(error - noise, 0.05 * error))


def _lower_bounds(gains: Sequence[_Gain]) -> Array:
    """One-sided 95 % lower bound of the explained share in every bin.

    The share does not fall with alignment, so cases of any bins just below count too; the best of
    these bounds is taken.
    """
    bounds = np.zeros(len(gains))
    for b in range(len(gains)):
        pooled = [gains[start : b + 1] for start in range(b + 1)]
        bounds[b] = max(_lower_bound(part) for part in pooled)
    return bounds


def _lower_bound(gains: Sequence[_Gain]) -> float:
    signal = sum(gain.signal for gain in gains)
    if signal <= 0:
        return 0.0
    total = sum(gain.total for gain in gains)
    error = float(np.sqrt(sum(gain.variance for gain in gains)))
    return (total - 1.645 * error) / signal


def _monotone(values: Array, weight: Array) -> Array:
    """Isotonic (non-decreasing) fit by pooling adjacent violators."""
    blocks: list[list[float]] = []
    for value, w in zip(values.tolist(), np.maximum(weight, 1e-9).tolist(), strict=True):
        blocks.append([value, w, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            v2, w2, n2 = blocks.pop()
            v1, w1, n1 = blocks.pop()
            blocks.append([(v1 * w1 + v2 * w2) / (w1 + w2), w1 + w2, n1 + n2])
    return np.concatenate([np.full(int(n), value) for value, _, n in blocks])


def agreement_floor(specifics: Array, lends: Array, *, n_peers: int, seed: int) -> Array:
    """5th percentile of the agreement of random peer sets, per facet.

    Deviates: method step 5 asks peers to agree better than 95 % of random sets; measured on masked
    facets that threw away half of the gain, so only peers who agree less than almost any random
    set are refused (docs/decisions/0005).

    Shapes:
        specifics (n_users, n_facets, n_columns) · lends (n_layers, n_users) -> (n_facets,)
    """
    rng = np.random.default_rng(seed)
    floor = np.ones(specifics.shape[1])
    for f in range(specifics.shape[1]):
        pool = np.flatnonzero(lends[f + 1])
        if len(pool) < 4:
            floor[f] = np.inf
            continue
        size = min(n_peers, max(3, len(pool) // 3))
        agreements = []
        for _ in range(200):
            rows = rng.choice(pool, size, replace=False)
            peers = FacetPeers(rows, np.ones(size), np.full(size, 1 / size))
            agreements.append(borrow(peers, specifics[rows, f], np.ones((size, 1))).agreement)
        floor[f] = np.quantile(agreements, 0.05)
    return floor


def confidence_of(values: Array, models: Sequence[ViewModel]) -> float:
    """One confidence for a facet: views weighted by their signal share."""
    shares = np.array([model.signal_share for model in models])
    return float((values * shares).sum() / shares.sum())


def view_columns(models: Sequence[ViewModel], per_view: Array) -> Array:
    """A value per view, repeated for its columns."""
    return np.asarray(columns_of([model.view for model in models], per_view))
