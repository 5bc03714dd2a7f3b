"""What a user's own history shows: averaged residuals and one hierarchical model over facets.

Each view has its own model: the mean residual m_uf of user u in facet f is the user's tendency
θ_uf plus sampling noise σ_f²/n_uf, and a user's tendencies in different facets covary by Σ, an
F × F matrix estimated by moments from disjoint halves, so that noise cancels. From it follow, for
every user and facet, the estimate from own evidence and the one from the user's *other* facets
alone (self-completion), each with its variance: an F × F inverse a user, nothing iterated.

Own evidence only: what other users add is `completion`. Symbols as in docs/method.md: n support,
m mean residual, κ = σ²/τ², θ tendency, Σ covariance across facets.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import sparse

from copersona.method.residuals import View, columns_of

Array = NDArray[Any]

DEFAULT_KAPPA = 20.0
"""Noise over signal assumed where too few users repeat themselves to measure it."""
_MIN_USERS = 5
_HALF_TRUST = 10.0
"""Interactions at which a user's mean gets half of the weight in a mean over users."""


class ProfileConfig(BaseModel):
    """How own evidence is averaged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    half_life: float | None = Field(None, gt=0)
    """Days after which an interaction counts half; None keeps all at full weight."""
    cross_facet_shrinkage: float = Field(0.1, ge=0, le=1)
    """Share of the covariance replaced by its diagonal-plus-rank-one fit."""


class LowSupportWarning(UserWarning):
    """Something was estimated from too few users; the stated default was used."""


@dataclass(frozen=True)
class OwnEvidence:
    """Averaged residuals of users, before any model.

    Shapes:
        support (n_users, n_facets, n_views): effective number of interactions ·
        means (n_users, n_facets, n_columns): mean residual, 0 without support.
    """

    support: Array
    means: Array

    def take(self, users: Array) -> OwnEvidence:
        """The same of some users."""
        return OwnEvidence(self.support[users], self.means[users])

    def without_facet(self, facet: int) -> OwnEvidence:
        """The same as if there were no interaction in one facet."""
        support, means = self.support.copy(), self.means.copy()
        support[:, facet], means[:, facet] = 0, 0
        return OwnEvidence(support, means)


def average(
    residuals: Array,
    present: Array,
    users: Array,
    facets: Array,
    *,
    n_users: int,
    n_facets: int,
    views: Sequence[View],
    weights: Array | None = None,
) -> OwnEvidence:
    """Mean residual and effective support of every user, facet and view.

    Args:
        weights: of each interaction, for time decay; None means 1.

    Shapes:
        residuals (n, n_columns) · present (n, n_views) · users, facets, weights (n,)

    Source: method step 2, n_eff = (Σw)² / Σw².
    """
    cells = users.astype(np.int64) * n_facets + facets
    w = np.ones(len(cells)) if weights is None else weights
    picker = sparse.csr_array(
        (w, (cells, np.arange(len(cells)))), shape=(n_users * n_facets, len(cells))
    )
    sums = np.asarray(picker @ residuals, np.float32)
    weight = np.asarray(picker @ present.astype(np.float64))
    squares = np.asarray(picker.multiply(w[None, :]).tocsr() @ present.astype(np.float64))
    support = np.divide(weight**2, squares, out=np.zeros_like(weight), where=squares > 0)
    total = columns_of(views, weight)
    means = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
    shape = (n_users, n_facets)
    return OwnEvidence(
        support.reshape(*shape, len(views)).astype(np.float32),
        means.reshape(*shape, means.shape[1]).astype(np.float32),
    )


@dataclass(frozen=True)
class Observed:
    """Residuals with the user and facet each belongs to, and nothing averaged yet.

    Attributes:
        weights: of each interaction, for time decay; None means 1.

    Shapes:
        residuals (n, n_columns) · present (n, n_views) bool · users, facets (n,)
    """

    residuals: Array
    present: Array
    users: Array
    facets: Array
    n_users: int
    n_facets: int
    views: Sequence[View]
    weights: Array | None = None

    def average(self, rows: Array | None = None, owners: Array | None = None) -> OwnEvidence:
        """Own evidence of every user, or of made-up owners of chosen rows.

        Shapes:
            rows (m,): interactions, repeats allowed · owners (m,): 0 … max, instead of users
        """
        at = np.arange(len(self.users)) if rows is None else rows
        users = self.users[at] if owners is None else owners
        n_users = self.n_users if owners is None else int(owners.max(initial=-1)) + 1
        return average(
            self.residuals[at], self.present[at], users, self.facets[at],
            n_users=n_users, n_facets=self.n_facets, views=self.views,
            weights=None if self.weights is None else self.weights[at],
        )  # fmt: skip


def decay_weights(at: Array, half_life: float | None, now: float) -> Array | None:
    """Weight of each interaction by age; 1 where the time is unknown or decay is off."""
    if half_life is None:
        return None
    age_days = np.nan_to_num((now - at) / 86_400, nan=0.0).clip(min=0)
    return np.asarray(0.5 ** (age_days / half_life))


@dataclass(frozen=True)
class ViewModel:
    """Signal and noise of one view.

    Attributes:
        is_assumed: too few users repeat themselves; the noise ratio is the stated default.

    Shapes:
        center (n_facets, n_columns_of_view) · noise (n_facets,): σ_f² · signal (n_facets,
        n_facets): Σ, positive semi-definite.
    """

    view: View
    center: Array
    noise: Array
    signal: Array
    is_assumed: bool = False

    @cached_property
    def kappa(self) -> Array:
        """σ²/τ² of every facet: interactions needed before own evidence outweighs the prior."""
        return np.asarray(self.noise / np.maximum(np.diag(self.signal), 1e-9))

    @cached_property
    def signal_share(self) -> float:
        """Share of one interaction's variance that is the person's, averaged over facets."""
        return float(np.mean(1 / (1 + self.kappa)))

    def posterior(self, support: Array, means: Array) -> Posterior:
        """Best linear estimate of every tendency from own evidence.

        Shapes:
            support (n_users, n_facets) · means (n_users, n_facets, n_columns_of_view), centred

        Source: method step 2. The leave-one-facet-out estimate is read off the same inverse:
        θ̂^(−f) = m_f − [K⁻¹m]_f / [K⁻¹]_ff with K = Σ + diag(σ²/n).
        """
        root = np.sqrt(support / self.noise)
        inner = np.eye(len(self.noise)) + root[:, :, None] * self.signal * root[:, None, :]
        inverse = root[:, :, None] * np.linalg.inv(inner) * root[:, None, :]
        seen = support > 0
        solved = inverse @ np.where(seen[..., None], means, 0)
        theta = self.signal @ solved
        explained = ((self.signal @ inverse) * self.signal).sum(axis=2)
        prior = np.diag(self.signal)
        own = np.where(seen, np.diagonal(inverse, axis1=1, axis2=2), 1.0)
        others = np.where(seen[..., None], means - solved / own[..., None], theta)
        others_variance = np.where(
            seen, 1 / own - self.noise / np.where(seen, support, 1), prior - explained
        )
        return Posterior(
            theta, np.clip(prior - explained, 0, prior), others, np.clip(others_variance, 0, prior)
        )


@dataclass(frozen=True)
class Posterior:
    """Estimates of tendencies from own evidence alone.

    Attributes:
        theta: from all of the user's facets.
        others: from all facets but the one in question (self-completion), θ̂^(−f).

    Shapes:
        theta, others (n_users, n_facets, n_columns_of_view) · variance, others_variance
        (n_users, n_facets)
    """

    theta: Array
    variance: Array
    others: Array
    others_variance: Array

    def take(self, rows: Array) -> Posterior:
        """The same of some users."""
        return Posterior(
            self.theta[rows], self.variance[rows], self.others[rows], self.others_variance[rows]
        )


def fit_view_models(
    observed: Observed, evidence: OwnEvidence, config: ProfileConfig
) -> tuple[ViewModel, ...]:
    """Moments of every view, from lenders' interactions and their averages.

    Source: method step 2; moments by pairs of disjoint interactions, an average over all ways of
    halving a history.
    """
    models = []
    for number, view in enumerate(observed.views):
        has = observed.present[:, number]
        moments = _Moments.of(
            observed.residuals[has, view.slice].astype(np.float64),
            observed.users[has],
            observed.facets[has],
            evidence.support[..., number],
            evidence.means[..., view.slice],
        )
        models.append(moments.model(view, config))
    return tuple(models)


@dataclass(frozen=True)
class _Moments:
    center: Array
    counts: Array
    means: Array
    squares: Array

    @classmethod
    def of(
        cls, residuals: Array, users: Array, facets: Array, support: Array, means: Array
    ) -> _Moments:
        n_users, n_facets = support.shape
        counts = np.zeros((n_users, n_facets))
        np.add.at(counts, (users, facets), 1)
        trust = counts / (counts + _HALF_TRUST)  # a mean over users, not over interactions
        weight = np.maximum(trust.sum(axis=0), 1e-9)
        center = (means * trust[..., None]).sum(axis=0) / weight[:, None]
        centred = np.where(counts[..., None] > 0, means - center, 0).astype(np.float64)
        squares = np.bincount(
            users.astype(np.int64) * n_facets + facets,
            ((residuals - center[facets]) ** 2).sum(axis=1),
            n_users * n_facets,
        ).reshape(n_users, n_facets)
        return cls(center, counts, centred, squares)

    def model(self, view: View, config: ProfileConfig) -> ViewModel:
        n_facets, dim = self.center.shape
        noise, signal, enough = np.zeros(n_facets), np.zeros((n_facets, n_facets)), True
        pooled = self._within(slice(None))
        for f in range(n_facets):
            value = self._within(f)
            noise[f] = pooled if np.isnan(value) else value
            signal[f, f] = self._pair(f, f)
            for g in range(f):
                signal[f, g] = signal[g, f] = self._pair(f, g)
        if np.isnan(pooled) or np.isnan(np.diag(signal)).all():
            enough = False
            warnings.warn(
                f"view {view.name!r}: too few users with two interactions in one facet; "
                f"a noise ratio of {DEFAULT_KAPPA:g} is assumed",
                LowSupportWarning,
                stacklevel=4,
            )
        signal, noise = _completed(
            signal, noise, np.nanmean(self.squares / dim) if np.isnan(pooled) else pooled
        )
        return ViewModel(
            view,
            self.center.astype(np.float32),
            noise,
            _shrunk(signal, config.cross_facet_shrinkage),
            not enough,
        )

    def _within(self, f: int | slice) -> float:
        """Pooled variance within user-facets, per column; NaN with too few."""
        n = self.counts[:, f]
        repeated = n >= 2
        if repeated.sum() < _MIN_USERS:
            return float("nan")
        between = n * (self.means[:, f] ** 2).sum(axis=-1)
        within = (self.squares[:, f] - between)[repeated].sum()
        return float(max(within / ((n - 1)[repeated].sum() * self.center.shape[1]), 1e-9))

    def _pair(self, f: int, g: int) -> float:
        """Mean product of two disjoint averages of the same user, per column."""
        n, k = self.counts[:, f], self.counts[:, g]
        usable = n >= 2 if f == g else (n >= 1) & (k >= 1)
        if usable.sum() < _MIN_USERS:
            return float("nan")
        a, b, n, k = self.means[usable, f], self.means[usable, g], n[usable], k[usable]
        product = (a * b).sum(axis=1)
        if f == g:
            product = (n**2 * product - self.squares[usable, f]) / (n * (n - 1))
        weight = n / (n + _HALF_TRUST) * k / (k + _HALF_TRUST)
        return float((weight * product).sum() / weight.sum() / self.center.shape[1])


def _completed(signal: Array, noise: Array, total: float) -> tuple[Array, Array]:
    """Missing moments filled: variances by their pooled value, covariances by half of it."""
    variance = np.diag(signal).copy()
    known = np.isfinite(variance)
    fallback = max(float(np.mean(variance[known])) if known.any() else total / DEFAULT_KAPPA, 1e-9)
    variance = np.where(known, variance, fallback)
    variance = np.maximum(variance, 1e-4 * max(fallback, 1e-9))
    limit = np.sqrt(np.outer(variance, variance))
    filled = np.where(np.isfinite(signal), signal, 0.5 * limit)
    filled = np.clip(filled, -0.99 * limit, 0.99 * limit)
    np.fill_diagonal(filled, variance)
    noise = np.where(noise > 0, noise, max(total, 1e-9))
    return filled, np.nan_to_num(noise, nan=max(total, 1e-9))


def _shrunk(signal: Array, share: float) -> Array:
    """Σ mixed with its diagonal-plus-rank-one fit and clipped to positive semi-definite."""
    values, vectors = np.linalg.eigh(signal)
    rank_one = values[-1] * np.outer(vectors[:, -1], vectors[:, -1])
    np.fill_diagonal(rank_one, np.diag(signal))
    mixed = (1 - share) * signal + share * rank_one
    values, vectors = np.linalg.eigh(mixed)
    return np.asarray((vectors * np.maximum(values, 1e-9)) @ vectors.T)
