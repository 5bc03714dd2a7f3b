"""PersonaGNN: attention over the aligned peers of a facet and over a user's own facets.

The answer is a *correction* to what completion says in closed form, in units of a stranger's
standard deviation, and is zero before training: the network is credited only with what it adds.
No peer has more than half of the weight, and fewer than `min_donors` peers say nothing. Weights
are shared by all layers and users, so that somebody new needs a forward pass and no training.

Tensors in, tensors out; knows no objective, no users by name and no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

EDGE_FLOOR = 0.01
"""Added to an alignment or a credibility before its logarithm is taken."""
_BARRED = -1e4
_SPREAD = 8.0
"""Most that one peer's logit may lie above another's, so that capping it leaves something."""


@dataclass(frozen=True)
class Nodes:
    """`Neighbourhoods` as tensors.

    Shapes:
        nodes (n, n_facets, width) · credibility (n, n_facets) · peers (n, n_facets, k) int64, −1
        where there are fewer · alignments (n, n_facets, k)
    """

    nodes: Tensor
    credibility: Tensor
    peers: Tensor
    alignments: Tensor

    def take(self, rows: Tensor) -> Nodes:
        """The same of some users."""
        return Nodes(self.nodes[rows], self.credibility[rows], self.peers[rows],
                     self.alignments[rows])  # fmt: skip

    def to(self, device: str) -> Nodes:
        """The same on a device."""
        return Nodes(self.nodes.to(device), self.credibility.to(device), self.peers.to(device),
                     self.alignments.to(device))  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """Users and the facet of each that is to be corrected.

    Shapes:
        users: n · facets (n,) int64 · themselves (n,) int64: their rows among the lenders, whose
        edges are not followed; −1 for strangers
    """

    users: Nodes
    facets: Tensor
    themselves: Tensor

    def take(self, rows: Tensor) -> Asked:
        """Some of them."""
        return Asked(self.users.take(rows), self.facets[rows], self.themselves[rows])

    def __len__(self) -> int:
        return len(self.facets)


@dataclass(frozen=True)
class Size:
    """Of a network.

    Attributes:
        node_width: numbers in a node.
        n_columns: of all views together.
        n_views: each gets a log-variance.
        n_second: peers that each peer listens to.
        min_donors: peers below which nothing of them is heard.
    """

    node_width: int
    n_columns: int
    n_views: int
    width: int = 64
    n_heads: int = 4
    n_second: int = 8
    min_donors: int = 3


class Attention(nn.Module):
    """Multi-head attention with a stated bias; an empty set gives 0."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self._shape = (n_heads, width // n_heads)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(
        self, asking: Tensor, heard: Tensor, bias: Tensor, may_speak: Tensor, least: int = 1
    ) -> Tensor:
        """What is heard, weighted.

        Args:
            least: speakers below which nothing is heard; with two or more of them none has more
                than half of the weight.

        Shapes:
            asking (…, d) · heard (…, k, d) · bias, may_speak (…, k) -> (…, d)
        """
        split = (*heard.shape[:-1], *self._shape)
        query = self.query(asking).view(*asking.shape[:-1], *self._shape)
        key, value = self.key(heard).view(split), self.value(heard).view(split)
        logits = torch.einsum("...hc,...khc->...kh", query, key) / self._shape[1] ** 0.5
        barred = ~may_speak[..., None]
        logits = (logits + bias[..., None]).masked_fill(barred, _BARRED)
        if least > 1:
            lowest = logits.amax(dim=-2, keepdim=True) - _SPREAD
            logits = torch.maximum(logits, lowest).masked_fill(barred, _BARRED)
        is_enough = may_speak.sum(dim=-1, keepdim=True) >= least
        weights = logits.softmax(dim=-2) * (may_speak & is_enough)[..., None]
        if least > 1:
            weights = torch.minimum(weights, 1 - weights)
            weights = weights / weights.sum(dim=-2, keepdim=True).clamp(min=1e-6)
        return torch.einsum("...kh,...khc->...hc", weights, value).reshape(asking.shape)


class Hop(nn.Module):
    """One exchange: with the peers of a facet, and with the user's own facets."""

    def __init__(self, width: int, n_heads: int, min_donors: int) -> None:
        super().__init__()
        self._min_donors = min_donors
        self.peers, self.facets = Attention(width, n_heads), Attention(width, n_heads)
        self.gate = nn.Linear(3 * width + 1, 2 * width)
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        state: Tensor,
        credibility: Tensor,
        peers: tuple[Tensor, Tensor, Tensor],
        facets: tuple[Tensor, Tensor],
    ) -> Tensor:
        """States after the exchange.

        Args:
            peers: their states, alignments, and which of them may speak.
            facets: states of the user's own facets, and their links to this one times their
                credibility.

        Shapes:
            state (…, d) · credibility (…) · peers (…, k, d), (…, k), (…, k) · facets
            (…, n_facets, d), (…, n_facets)
        """
        theirs, alignments, may_speak = peers
        own, links = facets
        lent = self.peers(state, theirs, (alignments + EDGE_FLOOR).log(), may_speak,
                          self._min_donors)  # fmt: skip
        kept = self.facets(state, own, (links + EDGE_FLOOR).log(),
                           torch.ones_like(links, dtype=torch.bool))  # fmt: skip
        said = torch.cat([state, lent, kept, credibility[..., None]], dim=-1)
        gates = self.gate(said).sigmoid().chunk(2, dim=-1)
        out: Tensor = self.norm(state + gates[0] * lent + gates[1] * kept)
        return out


class PersonaGNN(nn.Module):
    """Two hops over the persona graph; a correction and its log-variance for every asked facet.

    Args:
        transfer: T without its first column: how far facet g foretells facet f.

    Shapes:
        transfer (n_facets, n_facets)

    Source: method step 6. Deviates: narrower by default, eight peers of each peer; no one above
    half of the weight (product rule, minimum donors).
    """

    def __init__(self, size: Size, transfer: Tensor, *, edge_dropout: float = 0.2) -> None:
        super().__init__()
        n_facets, width = len(transfer), size.width
        self._n_second, self._edge_dropout = size.n_second, edge_dropout
        self.register_buffer("transfer", transfer)
        self.enter = nn.Linear(size.node_width, width)
        self.place = nn.Parameter(torch.randn(n_facets, width) * 0.02)
        self.first, self.second = (Hop(width, size.n_heads, size.min_donors) for _ in range(2))
        self.inner = nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.correction = nn.Linear(width, size.n_columns)
        self.doubt = nn.Linear(width, size.n_views)
        for last in (self.correction, self.doubt):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, lenders: Nodes, asked: Asked) -> tuple[Tensor, Tensor]:
        """Corrections and the logarithm of a factor on the variance of completion.

        Shapes:
            -> (n, n_columns), (n, n_views)
        """
        n, n_facets = asked.users.credibility.shape
        each = torch.arange(n, device=asked.facets.device)
        facets = torch.arange(n_facets, device=each.device)
        own, links = self._own(asked.users)
        listed = asked.users.peers
        theirs = self._entered(lenders, listed, facets[None, :, None].expand_as(listed))
        hears = self._kept(listed >= 0)
        own = self.first(own, asked.users.credibility, (theirs, asked.users.alignments, hears),
                         (own[:, None].expand(-1, n_facets, -1, -1), links))  # fmt: skip
        f = asked.facets
        peers = listed[each, f]
        heard = self._peers_after_one_hop(lenders, peers, f, asked.themselves)
        state = self.second(
            own[each, f], asked.users.credibility[each, f],
            (heard, asked.users.alignments[each, f], hears[each, f]), (own, links[each, f]),
        )  # fmt: skip
        inner = self.inner(state)
        return self.correction(inner), self.doubt(inner)

    def _own(self, users: Nodes) -> tuple[Tensor, Tensor]:
        """States of all facets, and how far each of them foretells each other."""
        transfer: Any = self.transfer
        links = transfer[None] * users.credibility[:, None, :]
        return self.enter(users.nodes) + self.place, links

    def _entered(self, lenders: Nodes, rows: Tensor, facets: Tensor) -> Tensor:
        entered: Tensor = self.enter(lenders.nodes[rows.clamp(min=0), facets]) + self.place[facets]
        return entered

    def _peers_after_one_hop(
        self, lenders: Nodes, peers: Tensor, f: Tensor, themselves: Tensor
    ) -> Tensor:
        """States of peers in the asked facet, without what they heard from who asks."""
        n, k = peers.shape
        there = lenders.take(peers.clamp(min=0).ravel())
        facets = f[:, None].expand(n, k).ravel()
        each = torch.arange(n * k, device=f.device)
        own, links = self._own(there)
        listed = there.peers[each, facets][:, : self._n_second]
        hears = (listed >= 0) & (listed != themselves.repeat_interleave(k)[:, None])
        theirs = self._entered(lenders, listed, facets[:, None].expand_as(listed))
        alignments = there.alignments[each, facets][:, : self._n_second]
        state: Tensor = self.first(own[each, facets], there.credibility[each, facets],
                           (theirs, alignments, self._kept(hears)),
                           (own, links[each, facets]))  # fmt: skip
        return state.view(n, k, -1)

    def _kept(self, edges: Tensor) -> Tensor:
        """Edges, some of them dropped while training."""
        if not self.training or not self._edge_dropout:
            return edges
        drawn = torch.rand(edges.shape, device=edges.device)
        return edges & (drawn >= self._edge_dropout)
