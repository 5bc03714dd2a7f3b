"""Hidden facets as tensors, and what a network makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from copersona.reasoning.hidden import Hidden
from copersona.reasoning.neighbourhoods import Neighbourhoods
from copersona.reasoning.network import Asked, Nodes, PersonaGNN

Array = NDArray[Any]

_ROWS = 512
"""Examples corrected at once."""


def tensors(found: Neighbourhoods, device: str = "cpu") -> Nodes:
    """Neighbourhoods on a device."""
    return Nodes(
        torch.tensor(found.nodes), torch.tensor(found.credibility),
        torch.tensor(found.peers, dtype=torch.int64), torch.tensor(found.alignments),
    ).to(device)  # fmt: skip


@dataclass(frozen=True)
class Examples:
    """`Hidden` as tensors.

    Shapes:
        users (n,) int64 · truth, closed, unknown, variance, noise (n, n_columns): noise 0 where
        not seen · seen (n, n_columns) bool · views (n_columns,) int64: the view of each column
    """

    asked: Asked
    users: Tensor
    truth: Tensor
    closed: Tensor
    unknown: Tensor
    variance: Tensor
    noise: Tensor
    seen: Tensor
    views: Tensor

    @classmethod
    def of(cls, hidden: Hidden, views: Array, device: str = "cpu") -> Examples:
        """On a device.

        Shapes:
            views (n_columns,): number of the view of each column
        """

        def real(values: Array) -> Tensor:
            return torch.tensor(np.asarray(values, np.float32), device=device)

        def whole(values: Array) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        seen = np.isfinite(hidden.noise)
        asked = Asked(tensors(hidden.of, device), whole(hidden.facets), whole(hidden.themselves))
        return cls(
            asked, whole(hidden.users), real(np.where(seen, hidden.truth, 0)), real(hidden.closed),
            real(1 - hidden.known), real(hidden.variance), real(np.where(seen, hidden.noise, 0)),
            torch.tensor(seen, device=device), whole(views),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: Tensor) -> Examples:
        """Some of them."""
        asked, views = self.asked.take(rows), self.views
        tables = {f.name: getattr(self, f.name) for f in fields(self)}
        taken = {n: t[rows] for n, t in tables.items() if n not in ("asked", "views")}
        return Examples(asked=asked, views=views, **taken)

    def corrected(self, correction: Tensor, doubt: Tensor) -> tuple[Tensor, Tensor]:
        """Completion with a correction, the larger the less own evidence says; and its variance.

        Shapes:
            correction (n, n_columns) · doubt (n, n_views) -> (n, n_columns), (n, n_columns)

        Source: method step 6: ẑ + (1 − k)·Δ(h).
        """
        variance = self.variance * doubt.clamp(-4, 4).exp()[:, self.views]
        return self.closed + self.unknown * correction, variance

    def are_rivals(self) -> Tensor:
        """Different users in the same facet who are not peers of each other: (n, n) bool."""
        facets, users = self.asked.facets, self.users
        each = torch.arange(len(self), device=facets.device)
        listed = self.asked.users.peers[each, facets]
        listens = (listed[:, :, None] == users[None, None, :]).any(dim=1)
        is_same = users[:, None] == users[None, :]
        return (facets[:, None] == facets[None, :]) & ~is_same & ~(listens & listens.T)


@torch.no_grad()
def corrections(network: PersonaGNN, lenders: Nodes, examples: Examples) -> tuple[Array, Array]:
    """What a trained network says of examples: corrected tendencies and their variance.

    Shapes:
        -> (n, n_columns), (n, n_columns)
    """
    network.eval()
    parts = [some.corrected(*network(lenders, some.asked)) for some in _in_batches(examples)]
    if not parts:
        return np.zeros(examples.truth.shape), np.ones(examples.truth.shape)
    guess, variance = (torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True))
    return guess, variance


def _in_batches(examples: Examples) -> Iterator[Examples]:
    rows = torch.arange(len(examples), device=examples.users.device)
    yield from (examples.take(some) for some in torch.split(rows, _ROWS) if len(some))
