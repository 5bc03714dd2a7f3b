"""Requests with known answers, as tables to learn the gate from; users are kept whole in folds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.answering.gate import FEATURES
from copersona.errors import DataError, ShapeError
from copersona.method.corpus import fold_of

Array = NDArray[Any]

LEAST_REQUESTS, LEAST_USERS, LEAST_FOLDS = 40, 10, 3
"""Below any of these nothing is learnt."""


@dataclass(frozen=True)
class Measured:
    """What was known of each request, and what came of it.

    Shapes:
        features (n, n_features) · outcomes (n, ...): as the learner needs them · users, folds (n,)
    """

    features: Array
    outcomes: Array
    users: Array
    folds: Array

    def parts(self) -> Iterator[tuple[Measured, Measured]]:
        """Every fold that has any requests, with all the others to learn from."""
        for fold in np.unique(self.folds).tolist():
            yield self._take(self.folds == fold), self._take(self.folds != fold)

    def _take(self, rows: Array) -> Measured:
        return Measured(*(table[rows] for table in
                          (self.features, self.outcomes, self.users, self.folds)))  # fmt: skip

    def standard(self) -> tuple[Array, Array]:
        """Location and scale of every feature; 1 where a feature does not vary."""
        scale = self.features.std(axis=0)
        return self.features.mean(axis=0), np.where(scale > 1e-9, scale, 1.0)


def measure(features: Array, outcomes: Array, users: Sequence[str]) -> Measured:
    """Requests to learn from, in folds by a hash of the user.

    Shapes:
        features (n, n_features) · outcomes (n, ...) · users (n,)

    Raises:
        ShapeError, DataError: see `check_table` and `check_enough`.
    """
    check_table(features, (len(users), len(FEATURES)), "features")
    check_enough(users)
    folds = np.array([fold_of(user) for user in users])
    known, came = (np.asarray(table, np.float64) for table in (features, outcomes))
    return Measured(known, came, np.asarray(users), folds)


def check_enough(users: Sequence[str]) -> None:
    """Refuse to learn from too few requests, given by whom each is from.

    Raises:
        DataError: too few requests, users or folds.
    """
    folds = {user: fold_of(user) for user in users}
    n_folds = len(set(folds.values()))
    if len(users) < LEAST_REQUESTS or len(folds) < LEAST_USERS or n_folds < LEAST_FOLDS:
        raise DataError(
            f"{len(users)} requests of {len(folds)} users in {n_folds} folds are too few to learn "
            f"a gate from; needed are {LEAST_REQUESTS} requests of {LEAST_USERS} users in "
            f"{LEAST_FOLDS} folds"
        )


def check_table(table: Array, shape: tuple[int, int], name: str) -> None:
    """Refuse a table of another shape, or with a value that is not a finite number.

    Raises:
        ShapeError: the shape.
        DataError: a value.
    """
    if np.shape(table) != shape:
        raise ShapeError(f"{name} has shape {np.shape(table)}; expected {shape}")
    if n_bad := int((~np.isfinite(table)).sum()):
        raise DataError(f"{n_bad} values are not finite numbers", field=name)
