"""What peers lend: who they are for one user and facet, and what they offer together.

Two kinds of peers lend two kinds of things. Peers of the *whole user* – alike wherever both can be
seen – offer their tendency in the facet. Peers of the *facet* – aligned through the layers that
foretell it – offer what is facet-specific about them. How far either is believed is `calibration`;
who allows lending is decided by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.method.alignment import AlignmentConfig, FacetPeers, align, choose_peers
from copersona.method.graph import LayerStates, PersonaGraph, search_layer
from copersona.method.profiles import OwnEvidence

Array = NDArray[Any]


@dataclass(frozen=True)
class Borrowed:
    """What some peers offer in one facet, before it is believed.

    Attributes:
        agreement: mean inner product of two different peers over their mean square; 0 where
            they have nothing in common, 1 where they are the same.

    Shapes:
        offered (n_columns,): their weighted mean · has (n_peers, n_views) bool: who stands behind
        each view
    """

    peers: FacetPeers
    offered: Array
    agreement: float
    has: Array

    @property
    def contributors(self) -> Array:
        """Peers behind each view's statistic; 0 where one has more than half of the weight."""
        shares = np.where(self.has, self.peers.weights[:, None], 0)
        is_dominated = shares.max(axis=0, initial=0) > 0.5 * shares.sum(axis=0) + 1e-9
        return np.where(is_dominated, 0, self.has.sum(axis=0))

    def is_enough(self, min_donors: int) -> Array:
        """In which views enough peers stand behind the offer: (n_views,) bool."""
        return (self.contributors >= min_donors) & (self.peers.n_effective >= min_donors)


@dataclass(frozen=True)
class Offers:
    """All that is offered to one user in one facet.

    Attributes:
        shared: from peers of the whole user: their tendency in the facet, g_uf.
        specific: from peers of the facet: what is facet-specific about them, r_uf.
    """

    shared: Borrowed
    specific: Borrowed


@dataclass(frozen=True)
class Lenders:
    """Everybody who lends, as a source of peers.

    Shapes:
        transfer (n_facets, n_facets + 1)
    """

    evidence: OwnEvidence
    states: LayerStates
    graph: PersonaGraph
    transfer: Array
    alignment: AlignmentConfig
    min_support: float
    n_candidates: int

    def search(self, states: LayerStates, rows: Array, exclude: Array | None) -> list[Array]:
        """Candidates of users who are not in the graph, layer by layer.

        Shapes:
            rows (n,): rows in `states` · exclude (n,): a lender row never returned, −1 for none
        """
        found = [
            search_layer(
                states.vectors[rows, layer],
                self.states.vectors[:, layer],
                self.graph.lends[layer],
                self.n_candidates,
                exclude=exclude,
            )[0]
            for layer in range(self.graph.n_layers)
        ]
        joined = np.concatenate(found, axis=1)
        unique = [np.unique(listed) for listed in joined]
        return [listed[listed >= 0] for listed in unique]

    def offers(
        self,
        states: LayerStates,
        row: int,
        candidates: Array,
        may_lend: Array,
        facets: Sequence[int],
    ) -> list[Offers]:
        """What candidates who lend now offer to one user, in every facet asked for.

        Args:
            row: the user's row in `states`.

        Shapes:
            candidates, may_lend (c,)
        """
        whole, by_facet = self.peers(states, row, candidates, may_lend, facets)
        total = self.evidence.support[whole.rows].sum(axis=1)
        offers = []
        for f, peers in zip(facets, by_facet, strict=True):
            tendencies = [p.theta[whole.rows, f] for p in self.states.posteriors]
            support = self.evidence.support[peers.rows, f]
            offers.append(
                Offers(
                    borrow(whole, np.concatenate(tendencies, axis=1), total),
                    borrow(peers, self.states.specifics[peers.rows, f], support),
                )
            )
        return offers

    def peers(
        self,
        states: LayerStates,
        row: int,
        candidates: Array,
        may_lend: Array,
        facets: Sequence[int],
    ) -> tuple[FacetPeers, list[FacetPeers]]:
        """Peers of the whole user, and of every facet asked for; arguments as those of `offers`."""
        alone = np.zeros((1, states.n_facets + 1))
        alone[0, 0] = 1  # the whole user as one more target: layer 0 foretells it
        layers = [0, *(f + 1 for f in facets)]
        targets = np.concatenate([alone, self.transfer])[layers]
        alignments = align(states, row, self.states, candidates, targets)
        support = self.states.support[candidates]
        credibility = self.states.credibility[candidates]
        found = []
        for layer, aligned in zip(layers, alignments, strict=True):
            known = support.sum(axis=1) if layer == 0 else support[:, layer - 1]
            lends = may_lend & (known >= self.min_support)
            found.append(
                choose_peers(aligned, candidates, credibility[:, layer], lends, self.alignment)
            )
        return found[0], found[1:]


def borrow(peers: FacetPeers, lent: Array, support: Array) -> Borrowed:
    """What chosen peers offer together.

    Shapes:
        lent (n_peers, n_columns): what each lends · support (n_peers, n_views): interactions
        behind it
    """
    has = (support > 0) & (peers.weights > 0)[:, None]
    offered = peers.weights @ lent
    energy = (lent**2).sum(axis=1)
    squares = float(peers.weights**2 @ energy)
    rest = float(peers.weights @ energy) - squares
    agreement = (float(offered @ offered) - squares) / rest if rest > 0 else 0.0
    return Borrowed(peers, np.asarray(offered), agreement, has)


def joined_peers(parts: Sequence[Borrowed]) -> FacetPeers:
    """The peers of several offers as one set, best aligned first; weights sum to 1."""
    parts = [part for part in parts if len(part.peers.rows)]
    if not parts:
        return FacetPeers(np.zeros(0, int), np.zeros(0), np.zeros(0))
    rows, place = np.unique(np.concatenate([p.peers.rows for p in parts]), return_inverse=True)
    alignments, weights = np.zeros(len(rows)), np.zeros(len(rows))
    np.maximum.at(alignments, place, np.concatenate([p.peers.alignments for p in parts]))
    np.add.at(weights, place, np.concatenate([p.peers.weights for p in parts]) / len(parts))
    order = np.lexsort((rows, -alignments))
    return FacetPeers(rows[order], alignments[order], weights[order])
