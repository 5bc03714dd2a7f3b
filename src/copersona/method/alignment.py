"""Facet transfer and the choice of peers: who may stand in for whom, in which facet.

T_fg says how far similarity in layer g foretells agreement in facet f. It is learnt from users who
have both, on disjoint halves of their histories, and lets a facet without any own evidence find its
peers through the layers where the user can be seen. "Be like me where we can both be seen, and
know the facet where I cannot be seen."

Knows layer states and graphs. What peers then lend is `completion`; who may lend at all is decided
by the caller, from consent, before anything here is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import nnls

from copersona.method.graph import LayerStates, layer_states
from copersona.method.profiles import OwnEvidence, ViewModel

Array = NDArray[Any]

RESERVE = 0.1
"""Added to the total credibility, so that a pair seen in hardly any layer is not fully aligned."""


class AlignmentConfig(BaseModel):
    """How peers are chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_peers: int = Field(50, ge=3)
    """Most peers for one facet of one user."""
    sharpness: float = Field(3.0, gt=0)
    """Power of the alignment in a peer's weight; see docs/experiments.md."""
    pairs_from: int = Field(500, ge=10)
    """Users per facet whose pairs teach T."""
    seed: int = 0


def fit_transfer(
    target: OwnEvidence,
    predictor: OwnEvidence,
    models: Sequence[ViewModel],
    config: AlignmentConfig,
) -> Array:
    """Facet transfer T from two disjoint halves of the same users' histories.

    Args:
        target: from one half; agreement in facet f is read here.
        predictor: from the other half; similarity in layer g is read here, in layer 0 without f.

    Shapes:
        -> (n_facets, n_facets + 1), rows sum to 1; column 0 is the whole user.

    Source: method step 4, non-negative least squares over pairs of users; a row without any
    positive coefficient becomes uniform over the layers that exist.
    """
    n_facets = target.support.shape[1]
    seen = target.support.max(axis=2), predictor.support.max(axis=2)
    transfer = np.zeros((n_facets, n_facets + 1))
    rng = np.random.default_rng(config.seed)
    for f in range(n_facets):
        users = np.flatnonzero((seen[0][:, f] >= 1) & (seen[1].sum(axis=1) >= 1))
        if len(users) >= 10:
            users = rng.permutation(users)[: config.pairs_from]
            half = predictor.take(users)
            transfer[f] = _transfer_row(
                layer_states(target.take(users), models),
                layer_states(half, models),
                layer_states(half.without_facet(f), models),
                f,
            )
    if n_facets == 1:
        return np.array([[0.0, 1.0]])
    silent = transfer.sum(axis=1) <= 0
    transfer[silent] = 1.0
    return np.asarray(transfer / transfer.sum(axis=1, keepdims=True))


def _transfer_row(
    target: LayerStates, predictor: LayerStates, without: LayerStates, f: int
) -> Array:
    upper = np.triu_indices(len(target.support), 1)
    agreement = _pairwise(target, f + 1)
    weight = np.sqrt(np.maximum(_trust(target, f + 1), 0))[upper]
    design = np.stack(
        [
            (_pairwise(half, g) * _trust(half, g))[upper] * weight
            for g, half in enumerate([without] + [predictor] * target.n_facets)
        ],
        axis=1,
    ).astype(np.float64)
    answer = (agreement[upper] * weight).astype(np.float64)
    gram, moment = design.T @ design, design.T @ answer
    jitter = 1e-9 * max(float(np.trace(gram)), 1e-12)
    factor = np.linalg.cholesky(gram + jitter * np.eye(len(gram)))
    return np.asarray(nnls(factor.T, np.linalg.solve(factor, moment))[0])


def _pairwise(states: LayerStates, layer: int) -> Array:
    vectors = states.vectors[:, layer]
    return np.asarray(vectors @ vectors.T)


def _trust(states: LayerStates, layer: int) -> Array:
    root = np.sqrt(states.credibility[:, layer])
    return np.outer(root, root)


def align(
    user: LayerStates, row: int, lenders: LayerStates, candidates: Array, transfer: Array
) -> Array:
    """How well each candidate may stand in for a user in each facet.

    Args:
        row: the user's row in `user` (0 for a user on its own).
        candidates: rows in `lenders`.

    Shapes:
        candidates (c,) · transfer (n_facets, n_layers) -> (n_facets, c), in [0, 1]

    Source: method step 4.
    """
    cosines = np.einsum("ld,cld->cl", user.vectors[row], lenders.vectors[candidates])
    trust = np.sqrt(user.credibility[row] * lenders.credibility[candidates])
    shared = (transfer @ (trust * cosines).T) / (transfer @ trust.T + RESERVE)
    return np.asarray(np.clip(shared, 0, 1))


@dataclass(frozen=True)
class FacetPeers:
    """Peers chosen for one facet of one user.

    Attributes:
        rows: rows of the peers among the lenders, best aligned first.
        alignments: in [0, 1].
        weights: share of each in what is borrowed; sum to 1, none above one half.
    """

    rows: Array
    alignments: Array
    weights: Array

    @property
    def n_effective(self) -> float:
        """1 / Σα²: how many equally weighted peers this amounts to; 0 without peers."""
        squares = float((self.weights**2).sum())
        return 1 / squares if squares > 0 else 0.0

    @property
    def alignment(self) -> float:
        """ā: weighted mean alignment."""
        return float((self.weights * self.alignments).sum())


def choose_peers(
    alignments: Array, candidates: Array, credibility: Array, lends: Array, config: AlignmentConfig
) -> FacetPeers:
    """The best aligned lenders of one facet, weighted, no one above half of the weight.

    Args:
        lends: which candidates have enough support in the facet and allow lending now.

    Shapes:
        alignments, candidates, credibility, lends (c,)

    Source: method steps 4 and 5. Deviates: weights go with the cube of the alignment, over more
    peers than a plain weighting would take (docs/decisions/0003).
    """
    usable = np.flatnonzero(lends & (alignments > 0) & (credibility > 0))
    best = usable[np.lexsort((candidates[usable], -alignments[usable]))][: config.n_peers]
    chosen = alignments[best]
    raw = chosen**config.sharpness * credibility[best]
    return FacetPeers(candidates[best], chosen, capped(raw))


def capped(raw: Array) -> Array:
    """Weights that sum to 1 with none above one half; empty where that is impossible.

    Ours: no single donor may dominate a statistic (product rule, minimum donors).
    """
    if len(raw) < 2 or raw.sum() <= 0:
        return np.zeros(len(raw)) if len(raw) else raw
    weights = raw / raw.sum()
    top = int(weights.argmax())
    if weights[top] > 0.5:
        others = weights.sum() - weights[top]
        weights = weights * (0.5 / others) if others > 0 else np.zeros_like(weights)
        weights[top] = 0.5 if others > 0 else 0.0
    return np.asarray(weights)
