"""What was trained on top of a fitted state: weights and facts, as plain arrays, by branch.

Published beside the state and dropped with it, since it holds for that state alone. What the arrays
mean is known to those who trained them; nothing here needs their libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

GRAPH, SOFT, GATE = "graph", "soft", "gate"
"""Graph reasoning, the projector of soft prompts, and the gate."""
PREFIX = "learnt"
TRAINED_ON = "trained_on"
"""Which lenders it was trained on: (n_lenders,) bool."""


@dataclass(frozen=True)
class Weights:
    """One trained part.

    Attributes:
        facts: settings, and how good it was; anything JSON holds.
        by_lender: names of the arrays that have a row for every lender; one of them may be
            `TRAINED_ON`.
        of_rows: names of the arrays whose values are rows of lenders.
    """

    arrays: Mapping[str, Array]
    facts: Mapping[str, Any]
    by_lender: tuple[str, ...] = ()
    of_rows: tuple[str, ...] = ()

    def saw(self, row: int) -> bool:
        """Whether it was trained on a lender."""
        return TRAINED_ON in self.arrays and bool(self.arrays[TRAINED_ON][row])

    def without(self, row: int) -> Weights:
        """The same without the row of one lender; what was learnt of them stays in the weights."""
        arrays = dict(self.arrays)
        for name in self.by_lender:
            arrays[name] = np.delete(arrays[name], row, axis=0)
        for name in self.of_rows:
            rows = arrays[name]
            arrays[name] = np.where(rows == row, -1, rows - (rows > row)).astype(rows.dtype)
        return replace(self, arrays=arrays)


Learnt = Mapping[str, Weights]
"""Trained parts by name."""


def learnt_to_arrays(learnt: Learnt) -> tuple[dict[str, Array], dict[str, Any]]:
    """Trained parts as named arrays and JSON metadata; `learnt_from_arrays` is the inverse."""
    arrays = {
        f"{PREFIX}.{part}.{name}": np.ascontiguousarray(array)
        for part, weights in learnt.items()
        for name, array in weights.arrays.items()
    }
    meta = {
        part: {
            "facts": dict(weights.facts),
            "by_lender": list(weights.by_lender),
            "of_rows": list(weights.of_rows),
        }
        for part, weights in learnt.items()
    }
    return arrays, {PREFIX: meta} if meta else {}


def learnt_from_arrays(arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> dict[str, Weights]:
    """Trained parts again."""
    found = {}
    for part, said in meta.get(PREFIX, {}).items():
        start = f"{PREFIX}.{part}."
        mine = {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}
        rows = tuple(said["by_lender"]), tuple(said["of_rows"])
        found[part] = Weights(mine, said["facts"], *rows)
    return found
