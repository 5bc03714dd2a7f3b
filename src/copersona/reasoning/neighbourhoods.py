"""What graph reasoning sees of users: a node for each facet, and the peers each node listens to.

Nodes are built from own evidence alone, in units in which a stranger's tendency has variance 1, so
that views and facets can be added up. Peers are those completion would choose. The same functions
serve lenders, people whose evidence was hidden on purpose, and strangers.

Arrays only; knows no torch and no consent: who may lend is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.method.fitted import FittedState
from copersona.method.graph import LayerStates
from copersona.method.profiles import OwnEvidence, ViewModel

Array = NDArray[Any]

_LEAST_SIGNAL = 1e-3
"""Share of the noise below which a signal is as good as none; keeps its unit from vanishing."""


@dataclass(frozen=True)
class Neighbourhoods:
    """Nodes of users, and who each of them listens to.

    Shapes:
        nodes (n, n_facets, width) float32 · credibility (n, n_facets): weight of own evidence, in
        [0, 1) · peers (n, n_facets, k): rows of lenders, best aligned first, −1 where there are
        fewer · alignments (n, n_facets, k), in [0, 1]
    """

    nodes: Array
    credibility: Array
    peers: Array
    alignments: Array

    def __len__(self) -> int:
        return len(self.nodes)


def width_of(state: FittedState) -> int:
    """Numbers in a node: the tendency, and for each view its credibility and its support."""
    return state.residuals.n_columns + 2 * len(state.models)


def neighbourhoods(
    state: FittedState,
    evidence: OwnEvidence,
    states: LayerStates,
    candidates: Iterable[Array],
    n_peers: int,
    may_lend: Array | None = None,
) -> Neighbourhoods:
    """Of users with this evidence.

    Args:
        candidates: lender rows near each user, in any layer.
        may_lend: which lenders lend now; all where None.

    Shapes:
        may_lend (n_lenders,) bool
    """
    nodes, credibility = nodes_of(state.models, evidence, states)
    shape = (len(nodes), state.n_facets, n_peers)
    peers, alignments = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    lending, facets = state.lending, range(state.n_facets)
    for row, near in enumerate(candidates):
        lends = np.ones(len(near), bool) if may_lend is None else may_lend[near]
        for f, chosen in enumerate(lending.peers(states, row, near, lends, facets)[1]):
            n = min(n_peers, len(chosen.rows))
            peers[row, f, :n] = chosen.rows[:n]
            alignments[row, f, :n] = chosen.alignments[:n]
    return Neighbourhoods(nodes, credibility, peers, alignments)


def of_lenders(state: FittedState, n_peers: int) -> Neighbourhoods:
    """Of all lenders, by their listed neighbours."""
    listed = (state.graph.candidates(row) for row in range(len(state.lenders)))
    return neighbourhoods(state, state.evidence, state.states, listed, n_peers)


def units(models: Sequence[ViewModel]) -> Array:
    """Standard deviation of a stranger's tendency, column by column: (n_facets, n_columns)."""
    wide = [
        np.repeat(variance_of(model)[:, None] ** 0.5, model.view.stop - model.view.start, axis=1)
        for model in models
    ]
    return np.concatenate(wide, axis=1)


def nodes_of(
    models: Sequence[ViewModel], evidence: OwnEvidence, states: LayerStates
) -> tuple[Array, Array]:
    """A node for every user and facet, and the weight of own evidence there.

    Shapes:
        -> (n, n_facets, width) float32, (n, n_facets) float32
    """
    tendencies = np.concatenate([p.theta for p in states.posteriors], axis=2) / units(models)
    known = [
        1 - posterior.variance / variance_of(model)
        for model, posterior in zip(models, states.posteriors, strict=True)
    ]
    credibility = np.clip(np.stack(known, axis=2), 0, 1)
    parts = [tendencies, credibility, np.log1p(evidence.support)]
    nodes = np.concatenate(parts, axis=2).astype(np.float32)
    return nodes, credibility.mean(axis=2).astype(np.float32)


def variance_of(model: ViewModel) -> Array:
    """Variance of a stranger's tendency; where there is none, a trace of the noise: (n_facets,)."""
    return np.asarray(np.maximum(np.diag(model.signal), _LEAST_SIGNAL * model.noise))
