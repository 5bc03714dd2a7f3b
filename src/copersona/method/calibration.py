"""How far borrowed evidence may be believed, learnt on *masked facets*.

Facets of lenders are hidden on purpose, and their histories cut short as those of newcomers are.
What peers would have offered is compared with what was hidden: how much to believe (the slope) and
how much uncertainty that removes (the explained share) follow as monotone step functions, with a
lower bound that decides whether to borrow at all.

Arrays only: how a facet is hidden is `masking`, what is done with the answer is `completion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from copersona.method.alignment import FacetPeers
from copersona.method.graph import LayerStates
from copersona.method.lending import borrow
from copersona.method.profiles import OwnEvidence, ViewModel

Array = NDArray[Any]

MIN_MASKED = 30
"""Masked facets with peers below which nothing can be believed, and least in a bin."""
_ONE_SIDED_99 = 2.33


class CompletionConfig(BaseModel):
    """When completion abstains, and what it is calibrated on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_donors: int = Field(3, ge=2)
    """Effective peers, and contributors to any single statistic."""
    n_bins: int = Field(5, ge=1)
    """Steps of every calibration curve."""
    tested: int = Field(3000, ge=50)
    """Most masked user-facets the calibration uses."""
    seed: int = 0


@dataclass(frozen=True)
class Curve:
    """How far one kind of offer may be believed, per view: monotone step functions of a key.

    Shapes:
        edges (n_views, n_bins): where each step begins, ascending · slope, explained, lower
        (n_views, n_bins): share of the offer to add, share of the uncertainty it removes, and the
        lower bound of that share.
    """

    edges: Array
    slope: Array
    explained: Array
    lower: Array

    def at(self, view: int, key: Array | float) -> tuple[Array, Array]:
        """Slope and explained share at a key; zeros below the first step and where nothing helps.

        Shapes:
            key () or (n,) -> the same
        """
        place = np.searchsorted(self.edges[view], key, side="right") - 1
        helps = (place >= 0) & (self.lower[view, place] > 0) & (self.slope[view, place] > 0)
        slope = np.where(helps, self.slope[view, place], 0)
        return slope, np.where(helps, self.explained[view, place], 0)

    @classmethod
    def none(cls, n_views: int) -> Curve:
        """A curve that believes nothing."""
        return cls(*(np.zeros((n_views, 1)) for _ in range(4)))


@dataclass(frozen=True)
class Calibration:
    """How far borrowed evidence may be believed.

    Attributes:
        shared: for peers of the whole user, by how little is known of the user's tendency from
            the other facets (V^(−f) over Σ_ff).
        specific: for peers of the facet, by their mean alignment ā.

    Shapes:
        agreement_floor (n_facets,): 5th percentile of the agreement of random peer sets
    """

    shared: Curve
    specific: Curve
    agreement_floor: Array

    @property
    def believes(self) -> bool:
        """True where anything would ever be borrowed."""
        return bool((self.shared.lower > 0).any() or (self.specific.lower > 0).any())


@dataclass(frozen=True)
class MaskedFacets:
    """Hidden facets of users: what was there, and what own and borrowed evidence said of it.

    Attributes:
        evidence: what was left of every user, one row a case.
        states: the same as layer states.
        candidates: lenders near every case, in any layer.

    Shapes:
        users, facets (n,) · truth, own, shared, specific (n, n_columns): mean of what was hidden,
        self-completion, and the two offers as steps away from it · support (n, n_views): hidden
        interactions · unknown, alignment (n, n_views): keys of the two curves, 0 where peers are
        too few or do not agree
    """

    users: Array
    facets: Array
    truth: Array
    support: Array
    own: Array
    shared: Array
    specific: Array
    unknown: Array
    alignment: Array
    evidence: OwnEvidence
    states: LayerStates
    candidates: Sequence[Array]

    def __len__(self) -> int:
        return len(self.users)

    @property
    def n_elsewhere(self) -> Array:
        """Own interactions that were left: (n,)."""
        return np.asarray(self.evidence.support.max(axis=2).sum(axis=1))

    def completed(self, calibration: Calibration, models: Sequence[ViewModel]) -> Array:
        """What completion says of every hidden facet: (n, n_columns)."""
        out = np.array(self.own, np.float64)
        for v, model in enumerate(models):
            part = model.view.slice
            shared, _ = calibration.shared.at(v, self.unknown[:, v])
            specific, _ = calibration.specific.at(v, self.alignment[:, v])
            out[:, part] += shared[:, None] * self.shared[:, part]
            out[:, part] += specific[:, None] * self.specific[:, part]
        return out


def calibrate(
    masked: MaskedFacets, models: Sequence[ViewModel], floor: Array, config: CompletionConfig
) -> Calibration:
    """Fit both curves on masked facets: monotone, never negative, one after the other.

    Source: method step 5. Deviates: one curve per view over all facets, since single facets have
    too few masked cases; the bins are quantiles of the key; R is the share of the self-completion
    error removed. Ours: the peers of the whole user.
    """
    n_views = len(models)
    specific, shared = [], []
    for v, model in enumerate(models):
        part = model.view.slice
        gap = (masked.truth - masked.own)[:, part].astype(np.float64)
        noise = model.noise[masked.facets] / np.maximum(masked.support[:, v], 1e-9)
        seen = masked.support[:, v] > 0
        key = np.where(seen, masked.alignment[:, v], 0)
        curve = _curve(key, gap, masked.specific[:, part], noise, masked.users, config.n_bins)
        believed = Curve(*(row[None] for row in curve)).at(0, key)[0]
        gap -= believed[:, None] * masked.specific[:, part]
        specific.append(curve)
        key = np.where(seen, masked.unknown[:, v], 0)
        shared.append(_curve(key, gap, masked.shared[:, part], noise, masked.users, config.n_bins))
    if not n_views:
        return Calibration(Curve.none(0), Curve.none(0), floor)
    return Calibration(_stacked(shared, config), _stacked(specific, config), floor)


def _stacked(curves: Sequence[tuple[Array, ...]], config: CompletionConfig) -> Curve:
    """Curves of several views as one; shorter ones repeat their last step."""
    padded = [[np.pad(row, (0, config.n_bins - len(row)), "edge") for row in c] for c in curves]
    return Curve(*(np.stack([c[i] for c in padded]) for i in range(4)))


def _curve(
    key: Array, gap: Array, offered: Array, noise: Array, users: Array, n_bins: int
) -> tuple[Array, Array, Array, Array]:
    """Edges, slope, explained share and its lower bound of one view, over the keys above 0.

    Shapes:
        key, noise, users (n,) · gap, offered (n, n_columns_of_view)
    """
    usable = np.flatnonzero(key > 0)
    if len(usable) < MIN_MASKED:
        return (np.zeros(1),) * 4
    n_bins = max(1, min(n_bins, len(usable) // MIN_MASKED))
    edges = np.quantile(key[usable], np.linspace(0, 1, n_bins + 1)[:-1])
    place = np.searchsorted(edges, key[usable], side="right") - 1
    gains = []
    for b in range(n_bins):
        rows = usable[place == b]
        offers = offered[rows].astype(np.float64)
        gains.append(_gain(gap[rows], offers, noise[rows], users[rows]))
    weight = np.bincount(place, minlength=n_bins).astype(float)
    slope = _monotone(np.array([gain.slope for gain in gains]), weight)
    explained = _monotone(np.array([gain.share for gain in gains]), weight)
    return edges, np.maximum(slope, 0), np.clip(explained, 0, 0.99), _lower_bounds(gains)


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


def _gain(gap: Array, offered: Array, noise: Array, users: Array) -> _Gain:
    """Cases of one user count as one for the variance: they are alike."""
    energy = (offered**2).sum()
    if len(gap) < 10 or energy <= 0:
        return _Gain()
    slope = float((gap * offered).sum() / energy)
    left = gap - max(slope, 0) * offered  # a negative share is never believed
    gain = (gap**2).sum(axis=1) - (left**2).sum(axis=1)
    error = float((gap**2).sum())
    by_user = np.bincount(np.unique(users, return_inverse=True)[1], gain)
    variance = float(by_user.var(ddof=1)) * len(by_user) if len(by_user) > 1 else np.inf
    signal = max(error - float(noise.sum()) * gap.shape[1], 0.05 * error)
    return _Gain(slope, float(gain.sum()), variance, signal)


def _lower_bounds(gains: Sequence[_Gain]) -> Array:
    """One-sided lower bound of the explained share in every bin.

    The share does not fall with the key, so cases of any bins just below count too; the best of
    these bounds is taken, which is why each of them is one of 99 %, not of 95 %.
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
    return (total - _ONE_SIDED_99 * error) / signal


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
