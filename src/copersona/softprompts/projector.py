"""Projector: what is known of a user as a few soft tokens, each as long as a token of the model.

Every token is a trained base token, which knows no user, plus what the user adds to it; that is
nothing before training. The base tokens start as a neutral phrase, so training starts from a plain
prompt, and a projector that knows no user is the control: the same tokens, trained the same way.

One class holds what is compared: a slot alone is a user's vector as a token (E2P, 2505.17051), a
pool of history items alone is PPlug (2409.11901), facets as the pool beside two slots are ours.
Arrays in, tensors or arrays out; knows no objective, no language model and no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from copersona.errors import ShapeError
from copersona.reasoning.network import EDGE_FLOOR, Attention

Array = NDArray[Any]


@dataclass(frozen=True)
class PersonaVectors:
    """What is known of one user for one request.

    Attributes:
        slots: each becomes a token of its own.
        pool: attended to from the query, such as facets or history items; may be empty.
        bias: how far each of the pool counts beforehand, in [0, 1].
        query: what is asked, as a vector.
        confidence: 0 means nothing is known: no soft tokens at all.

    Shapes:
        slots (n_slots, slot_width) · pool (k, pool_width) · bias (k,) · query (query_width,)
    """

    slots: Array
    pool: Array
    bias: Array
    query: Array
    confidence: float

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """n_slots, slot_width, pool_width, query_width.

        Raises:
            ShapeError: the arrays have other dimensions, or the bias another length than the pool.
        """
        dimensions = (self.slots.ndim, self.pool.ndim, self.bias.ndim, self.query.ndim)
        if dimensions != (2, 2, 1, 1) or len(self.bias) != len(self.pool):
            raise ShapeError(
                "vectors of a persona are slots (n_slots, width), pool (k, width), bias (k,) and "
                "query (width,)"
            )
        return *self.slots.shape, self.pool.shape[1], len(self.query)


@dataclass(frozen=True)
class Known:
    """`PersonaVectors` of several users as tensors, pools filled up behind.

    Shapes:
        slots (n, n_slots, slot_width) · pool (n, k, pool_width) · bias, is_there (n, k) · query
        (n, query_width)
    """

    slots: Tensor
    pool: Tensor
    bias: Tensor
    is_there: Tensor
    query: Tensor

    @classmethod
    def of(cls, vectors: Sequence[PersonaVectors], device: str = "cpu") -> Known:
        """Of users whose vectors have the same widths."""
        k = max(len(one.pool) for one in vectors)

        def filled(each: Sequence[Array]) -> Tensor:
            rows = [np.pad(a, [(0, k - len(a)), *[(0, 0)] * (a.ndim - 1)]) for a in each]
            return stacked(rows)

        def stacked(each: Sequence[Array]) -> Tensor:
            return torch.tensor(np.stack(each), dtype=torch.float32, device=device)

        return cls(
            stacked([one.slots for one in vectors]),
            filled([one.pool for one in vectors]),
            filled([one.bias for one in vectors]),
            filled([np.ones(len(one.pool)) for one in vectors]).bool(),
            stacked([one.query for one in vectors]),
        )


@dataclass(frozen=True)
class ProjectorSize:
    """Of a projector.

    Attributes:
        n_pooled: tokens made of the pool.
        width: of the language model.
        token_norm: length that every token is given.
        knows_user: False makes the control.
    """

    n_slots: int
    slot_width: int
    pool_width: int
    query_width: int
    n_pooled: int
    hidden: int
    width: int
    token_norm: float
    knows_user: bool

    @property
    def n_tokens(self) -> int:
        """Soft tokens of a user."""
        return self.n_slots + self.n_pooled


class Projector(nn.Module):
    """Soft tokens from what is known of users.

    Source: method step 10. Norm-matched tokens from a frozen user encoder and a two-layer network:
    PPlug (2409.11901). Base tokens that start as words: prompt tuning (Lester et al. 2021).

    Ours: that the user is added to them, and adds nothing before training.

    Deviates: base tokens are not in the step.
    """

    def __init__(self, size: ProjectorSize) -> None:
        super().__init__()
        self.size = size
        self.base = nn.Parameter(torch.zeros(size.n_tokens, size.width))
        if not size.knows_user:
            return
        self.register_buffer("units", torch.ones(3))
        self.slots = nn.ModuleList(
            nn.Linear(size.slot_width, size.hidden) for _ in range(size.n_slots)
        )
        if size.n_pooled:
            self.pool = nn.Linear(size.pool_width, size.hidden)
            self.query = nn.Linear(size.query_width, size.n_pooled * size.hidden)
            self.attention = Attention(size.hidden, n_heads=1)
        self.inner = nn.Sequential(nn.Linear(size.hidden, size.hidden), nn.GELU())
        self.outer = nn.Linear(size.hidden, size.width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    @torch.no_grad()
    def start(self, base: Array, vectors: Sequence[PersonaVectors]) -> None:
        """Put the base tokens where they begin, and learn in which units vectors come.

        Args:
            base: embeddings of a phrase, repeated or cut to the number of tokens.
            vectors: of the users learnt from; slots, pool and query are divided by their root
                mean squares.

        Shapes:
            base (n, width)
        """
        rows = np.arange(self.size.n_tokens) % len(base)
        self.base.copy_(torch.tensor(base[rows]))
        if self.size.knows_user:
            units = [
                _root_mean_square([one.slots for one in vectors]),
                _root_mean_square([one.pool for one in vectors]),
                _root_mean_square([one.query for one in vectors]),
            ]
            self.units = torch.tensor(units).to(self.base)

    def forward(self, known: Known) -> Tensor:
        """Soft tokens of several users.

        Shapes:
            -> (n, n_tokens, width)
        """
        tokens = self.base.expand(len(known.query), -1, -1)
        if self.size.knows_user:
            tokens = tokens + self.outer(self.inner(self._entered(known)))
        return self.size.token_norm * nn.functional.normalize(tokens, dim=-1)

    def _entered(self, known: Known) -> Tensor:
        """What each token is made of: slots, and the pool as the query attends to it."""
        slots, pool, query = self.units
        entered = [enter(known.slots[:, n] / slots) for n, enter in enumerate(self.slots)]
        if self.size.n_pooled:
            shape = (len(known.query), self.size.n_pooled)
            asking = self.query(known.query / query).view(*shape, -1)
            heard = self.pool(known.pool / pool)[:, None].expand(*shape, -1, -1)
            bias = (known.bias + EDGE_FLOOR).log()[:, None].expand(*shape, -1)
            is_there = known.is_there[:, None].expand(*shape, -1)
            entered += self.attention(asking, heard, bias, is_there).unbind(dim=1)
        return torch.stack(entered, dim=1)

    @torch.no_grad()
    def soft(self, vectors: PersonaVectors) -> Array | None:
        """Soft tokens of one user; None where nothing is known.

        Shapes:
            -> (n_tokens, width) float32
        """
        if vectors.confidence <= 0:
            return None
        tokens: Array = self(Known.of([vectors], str(self.base.device)))[0].cpu().numpy()
        return tokens


def _root_mean_square(arrays: Sequence[Array]) -> float:
    """1 where there is nothing but zeros."""
    squares = sum(float(np.square(a, dtype=float).sum()) for a in arrays)
    return (squares / max(1, sum(a.size for a in arrays))) ** 0.5 or 1.0
