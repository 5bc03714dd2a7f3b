"""The multiplex persona graph: one layer for the whole user and one for each facet.

What links two users in a facet's layer is what is facet-specific about them: the part of a mean
residual that the user's other facets do not already predict. Layer 0 holds what all facets have in
common. A layer is a hubness-corrected kNN graph among lenders; edges are the mutual ones.

Which neighbours may stand in for which facet is `alignment`; this module does not decide that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from copersona.method.facets import unit
from copersona.method.knn import top_k
from copersona.method.profiles import OwnEvidence, Posterior, ViewModel

Array = NDArray[Any]


class GraphConfig(BaseModel):
    """How layers are built."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(32, ge=1)
    """Neighbours listed per user and layer: the candidates for peers."""
    one_way_edges: int = Field(3, ge=0)
    """Best one-way edges kept where a user has no mutual one."""
    min_support: float = Field(2.0, ge=1)
    """Interactions in a facet from which on a user lends in it."""


@dataclass(frozen=True)
class LayerStates:
    """What users are compared by, layer by layer; layer 0 is the whole user.

    Shapes:
        vectors (n_users, n_layers, n_columns): rows of length 1, or 0 where nothing is known ·
        credibility (n_users, n_layers): weight of own evidence in [0, 1) ·
        specifics (n_users, n_facets, n_columns): facet-specific part e_uf in residual units, what
        a peer lends · support (n_users, n_facets): interactions, all views ·
        posteriors: one per view.
    """

    vectors: Array
    credibility: Array
    specifics: Array
    support: Array
    posteriors: tuple[Posterior, ...]

    @property
    def n_facets(self) -> int:
        """Number of facets."""
        return int(self.support.shape[1])

    def take(self, rows: Array) -> LayerStates:
        """The same of some users."""
        return LayerStates(
            self.vectors[rows], self.credibility[rows], self.specifics[rows], self.support[rows],
            tuple(posterior.take(rows) for posterior in self.posteriors),
        )  # fmt: skip


def layer_states(evidence: OwnEvidence, models: Sequence[ViewModel]) -> LayerStates:
    """Own evidence as layer states; the same function for a whole population and one user.

    With one facet there is nothing that other facets could predict: the facet's layer holds the
    whole tendency and layer 0 stays empty (F = 1 is the global model).

    Source: method step 3. Deviates: layer 0 is the mean residual over all facets, not the leading
    component of Σ, and views are joined as they are, not scaled by their signal share; both found
    better peers on masked facets (docs/decisions/0006).
    """
    n_users, n_facets, _ = evidence.support.shape
    n_columns = evidence.means.shape[2]
    specifics = np.zeros((n_users, n_facets, n_columns), np.float32)
    joined = np.zeros((n_users, n_facets + 1, n_columns), np.float32)
    credibility = np.zeros((n_users, n_facets + 1), np.float32)
    shares = np.array([model.signal_share for model in models])
    posteriors = []
    for number, model in enumerate(models):
        support = evidence.support[..., number].astype(np.float64)
        part = model.view.slice
        means = np.where(support[..., None] > 0, evidence.means[..., part] - model.center, 0)
        posterior = model.posterior(support, means)
        posteriors.append(posterior)
        specific = np.where(support[..., None] > 0, means - posterior.others, 0)
        specifics[..., part] = specific
        joined[:, 1:, part] = specific
        weight = shares[number] / shares.sum()
        credibility[:, 1:] += weight * support / (support + model.kappa)
        if n_facets > 1:
            total = support.sum(axis=1)
            whole = (means * support[..., None]).sum(axis=1)
            joined[:, 0, part] = whole / np.maximum(total, 1e-9)[:, None]
            credibility[:, 0] += weight * total / (total + model.kappa.mean())
    return LayerStates(
        unit(joined), credibility, specifics, evidence.support.max(axis=2), tuple(posteriors)
    )


@dataclass(frozen=True)
class PersonaGraph:
    """Neighbour lists of every layer.

    Attributes:
        radius: mean cosine of a user to its nearest neighbours, per layer; large for hubs.

    Shapes:
        neighbours (n_layers, n_users, k) int32, −1 where there are fewer, best first ·
        is_edge (n_layers, n_users, k) bool · radius (n_layers, n_users) ·
        lends (n_layers, n_users) bool
    """

    neighbours: Array
    is_edge: Array
    radius: Array
    lends: Array

    @property
    def n_layers(self) -> int:
        """Facets + 1; layer 0 is empty with one facet."""
        return len(self.neighbours)

    def candidates(self, user: int) -> Array:
        """Everyone listed near a user in any layer, ascending, without repeats."""
        listed = np.unique(self.neighbours[:, user])
        return listed[listed >= 0]


def lending_rows(states: LayerStates, may_lend: Array, min_support: float) -> Array:
    """Who lends in which layer.

    Shapes:
        may_lend (n_users,) -> (n_layers, n_users)
    """
    total = states.support.sum(axis=1, keepdims=True)
    support = np.concatenate([total, states.support], axis=1)
    return np.asarray((support >= min_support) & may_lend[:, None]).T


def build_graph(states: LayerStates, may_lend: Array, config: GraphConfig) -> PersonaGraph:
    """Link every user to near lenders, layer by layer.

    Shapes:
        may_lend (n_users,) bool

    Source: method step 3; hubness correction CSLS (Conneau et al. 2018), shifted back to the scale
    of a cosine so that weighting by credibility cannot invert it.
    """
    n_users, n_layers, _ = states.vectors.shape
    lends = lending_rows(states, may_lend, config.min_support)
    neighbours = np.full((n_layers, n_users, config.k), -1, np.int32)
    is_edge = np.zeros(neighbours.shape, bool)
    radius = np.zeros((n_layers, n_users), np.float32)
    for layer in range(n_layers):
        vectors = states.vectors[:, layer]
        rows, cosines = search_layer(
            vectors, vectors, lends[layer], 2 * config.k, exclude=np.arange(n_users)
        )
        found = rows[:, : config.k] >= 0
        n_found = np.maximum(found.sum(axis=1), 1)
        radius[layer] = (cosines[:, : config.k] * found).sum(axis=1) / n_found
        usual = float(radius[layer][lends[layer]].mean()) if lends[layer].any() else 0.0
        score = corrected(cosines, radius[layer][:, None], radius[layer][rows], usual)
        score *= np.sqrt(states.credibility[:, layer, None] * states.credibility[rows, layer])
        score[rows < 0] = -np.inf
        order = np.lexsort((rows, -score), axis=1)[:, : config.k]
        neighbours[layer] = np.take_along_axis(rows, order, axis=1)
        is_edge[layer] = mutual(neighbours[layer], config.one_way_edges)
    return PersonaGraph(neighbours, is_edge, radius, lends)


def corrected(cosines: Array, radius_u: Array, radius_v: Array, usual: float) -> Array:
    """CSLS on the scale of a cosine: hubs lose, hermits gain, never below 0.

    Args:
        usual: mean radius of a lender; someone of that radius keeps the cosine.
    """
    return np.maximum(cosines - (radius_u + radius_v) / 2 + usual, 0)


def search_layer(
    queries: Array, vectors: Array, lends: Array, k: int, *, exclude: Array | None = None
) -> tuple[Array, Array]:
    """The k lenders most like every query in one layer, as user rows, with cosines above 0.

    Shapes:
        queries (n, n_columns) · vectors (n_users, n_columns) · lends (n_users,) ->
        (n, k) int32 and (n, k); −1 and 0 where there are fewer.
    """
    lenders = np.flatnonzero(lends)
    barred = None
    if exclude is not None:
        place = np.full(len(vectors), -1)
        place[lenders] = np.arange(len(lenders))
        barred = np.where(exclude >= 0, place[exclude], -1)
    found, cosines = top_k(queries, vectors[lenders], k, exclude=barred)
    if not len(lenders):
        return found, cosines
    is_like = (found >= 0) & (cosines > 0)
    return np.where(is_like, lenders[found], -1).astype(np.int32), np.where(is_like, cosines, 0)


def mutual(neighbours: Array, one_way: int) -> Array:
    """Which listed neighbours are edges: the mutual ones, else the best few one-way ones.

    Shapes:
        neighbours (n_users, k) -> (n_users, k) bool
    """
    n_users, k = neighbours.shape
    source = np.repeat(np.arange(n_users, dtype=np.int64), k)
    target = neighbours.ravel().astype(np.int64)
    forward = source * n_users + target
    backward = target * n_users + source
    is_mutual = np.isin(forward, backward) & (target >= 0)
    edges: Array = is_mutual.reshape(n_users, k)
    lonely = ~edges.any(axis=1)
    edges[lonely, :one_way] = neighbours[lonely, :one_way] >= 0
    return edges
