"""Interactions as aligned arrays: the one shape in which histories enter the numerical side.

A corpus may hold everybody (when a state is fitted) or one user (when a request is served); the
method cannot tell the difference, which is what makes a new user's persona the same as a refit's.
This module turns records into arrays and knows nothing of facets, residuals or stores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.errors import ShapeError
from copersona.records import Interaction
from copersona.style import style_features

Array = NDArray[Any]

N_FOLDS = 5
"""Folds for cross-fitting what anyone would have answered; a user is always in one fold."""


def fold_of(user_id: str) -> int:
    """The cross-fitting fold of a user: a hash, so that it never changes."""
    return hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).digest()[0] % N_FOLDS


def id_hash(interaction_id: str) -> int:
    """A signed 63-bit number for an interaction id."""
    digest = hashlib.sha256(interaction_id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Corpus:
    """Aligned arrays, one row an interaction, sorted by user and then time.

    Attributes:
        user_ids: external id of every user row.
        has_own_words: the response is the user's own wording; False where only a rating or label
            was given and the one text is the item's.
        is_single: one text serves as input and response.

    Shapes:
        users, folds, is_single, has_own_words, ratings, at, id_hashes (n,) ·
        inputs, responses (n, dim) · styles (n, n_habits) · items, labels, declared: n values.
    """

    user_ids: tuple[str, ...]
    users: Array
    folds: Array
    inputs: Array
    responses: Array
    styles: Array
    is_single: Array
    has_own_words: Array
    ratings: Array
    at: Array
    id_hashes: Array
    items: Sequence[str | None]
    labels: Sequence[str | None]
    declared: Sequence[str | None]

    def __post_init__(self) -> None:
        n = len(self.users)
        for name in ("inputs", "responses", "styles", "ratings", "at", "items", "labels"):
            if len(getattr(self, name)) != n:
                raise ShapeError(f"{name} has {len(getattr(self, name))} rows, users has {n}")

    def __len__(self) -> int:
        return len(self.users)

    @property
    def n_users(self) -> int:
        """Number of users, also those without a row left."""
        return len(self.user_ids)

    def take(self, rows: Array) -> Corpus:
        """The same users with some of the rows, in the given order."""
        picked = np.flatnonzero(rows) if rows.dtype == bool else rows
        places = picked.tolist()
        return replace(
            self,
            users=self.users[picked],
            folds=self.folds[picked],
            inputs=self.inputs[picked],
            responses=self.responses[picked],
            styles=self.styles[picked],
            is_single=self.is_single[picked],
            has_own_words=self.has_own_words[picked],
            ratings=self.ratings[picked],
            at=self.at[picked],
            id_hashes=self.id_hashes[picked],
            items=[self.items[i] for i in places],
            labels=[self.labels[i] for i in places],
            declared=[self.declared[i] for i in places],
        )


def build_corpus(
    interactions: Sequence[Interaction], input_vectors: Array, response_vectors: Array
) -> Corpus:
    """Interactions and their vectors as a corpus; users are numbered in order of appearance.

    Args:
        interactions: grouped by user, in time order within a user.

    Shapes:
        input_vectors, response_vectors (n, dim), rows as in `interactions`
    """
    number: dict[str, int] = {}
    users = np.array([number.setdefault(i.user, len(number)) for i in interactions], np.int32)
    fold_by_user = np.array([fold_of(user) for user in number], np.int8)
    return Corpus(
        user_ids=tuple(number),
        users=users,
        folds=fold_by_user[users] if len(users) else np.zeros(0, np.int8),
        inputs=input_vectors,
        responses=response_vectors,
        styles=style_features([i.response_text for i in interactions]),
        is_single=np.array([i.is_single_text for i in interactions], bool),
        has_own_words=np.array([has_own_words(i) for i in interactions], bool),
        ratings=np.array([np.nan if i.rating is None else i.rating for i in interactions], float),
        at=np.array([np.nan if i.at is None else i.at for i in interactions], float),
        id_hashes=np.array([id_hash(i.id) for i in interactions], np.int64),
        items=[i.item for i in interactions],
        labels=[i.label for i in interactions],
        declared=[i.facet for i in interactions],
    )


def has_own_words(interaction: Interaction) -> bool:
    """False where only a rating or label was given and the one text describes the item."""
    was_only_rated = interaction.rating is not None or interaction.label is not None
    return bool(interaction.response) or not was_only_rated


def restrict_users(corpus: Corpus, keep: Array) -> Corpus:
    """Only some users and their rows, renumbered in the same order.

    Shapes:
        keep (n_users,) bool
    """
    old = np.flatnonzero(keep)
    table = np.full(corpus.n_users, -1, np.int32)
    table[old] = np.arange(len(old))
    part = corpus.take(keep[corpus.users])
    return replace(
        part, user_ids=tuple(corpus.user_ids[o] for o in old.tolist()), users=table[part.users]
    )
