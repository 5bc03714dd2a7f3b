"""What answering reads: stored interactions, vectors of texts and what was trained, as protocols.

A deployment passes its store and its embedding cache; an evaluation passes what a system may see
of one request, held in memory. Knows no database, no encoder and no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from copersona.method.fitted import UserView
from copersona.records import Interaction
from copersona.storage.store import Remembered

Array = NDArray[Any]
Vector = NDArray[np.float16] | NDArray[np.float32]


class Records(Protocol):
    """Stored interactions; see `Store`, which is one."""

    def remembered(
        self, namespace: str, user: str, *, encoder: str, before: float | None = None
    ) -> Remembered:
        """All there is to answer a user from."""

    def history(
        self, namespace: str, user: str, *, before: float | None = None, limit: int | None = None
    ) -> list[Interaction]:
        """A user's interactions in time order, the newest so many of them."""

    def interactions(self, namespace: str, ids: Sequence[str]) -> dict[str, Interaction]:
        """Those of these interactions that are there, by id."""

    def embeddings(
        self, namespace: str, encoder: str, hashes: Sequence[bytes]
    ) -> dict[bytes, NDArray[np.float16]]:
        """Known vectors, by content hash."""


class Vectors(Protocol):
    """Vectors of texts under one encoder; see `VectorCache`, which is one."""

    @property
    def name(self) -> str:
        """The encoder's name."""

    def vectors(self, texts: Sequence[str]) -> Array:
        """One row per text, of length 1, or 0 for an empty text: (n, dim)."""

    def completed(self, texts: Sequence[str], known: Sequence[Vector | None]) -> Array:
        """The same where most vectors are at hand."""

    def of_request(self, text: str) -> Array:
        """The vector of a text that is not kept: (dim,)."""


class Reasoner(Protocol):
    """Graph reasoning over the fitted state in force; see `GraphReasoner`, which is one."""

    def corrected(self, view: UserView, may_lend: Callable[[str], bool]) -> UserView:
        """A view of somebody who learns from others, its completed facets corrected."""


class Prompter(Protocol):
    """Soft prompts under the fitted state in force; see `SoftPrompter`, which is one."""

    def soft(self, view: UserView, routed: Array, vector: Array) -> NDArray[np.float32] | None:
        """Soft tokens for one request; None where nothing is known of the user.

        Shapes:
            routed (n_facets,) · vector (dim,) -> (n_tokens, width of the language model)
        """
