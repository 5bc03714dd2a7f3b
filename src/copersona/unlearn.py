"""Taking one user out of a fitted state, and an independent look for what is left.

`without_user` removes everything of a lender that is kept per user or per item. What was averaged
over everybody (baseline weights, facets, Σ, T, calibration) cannot be unlearnt at once; the receipt
names it and the next fit replaces it. `find_traces` shares no code with any deleter: it reads raw
bytes of files and knows nothing of what they mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.corpus import Corpus
from copersona.fitted import FittedState
from copersona.graph import PersonaGraph, layer_states
from copersona.profiles import OwnEvidence
from copersona.residuals import columns_of

Array = NDArray[Any]

NOT_UNLEARNT = ("facet prototypes", "baseline weights and means", "signal and noise (Σ, σ²)",
                "facet transfer (T)", "calibration")  # fmt: skip
"""Averages over all lenders that stay until the next fit."""


def without_user(state: FittedState, user: str, history: Corpus) -> FittedState:
    """The state without one lender.

    Args:
        history: the user's own interactions, read before they were deleted; their part in the
            item means is subtracted.
    """
    row = state.row_of.get(user)
    if row is None:
        return state
    keep = np.arange(len(state.lenders)) != row
    evidence = OwnEvidence(state.evidence.support[keep], state.evidence.means[keep])
    graph = state.graph
    neighbours = graph.neighbours[:, keep]
    gone = neighbours == row
    shifted = np.where(gone, -1, neighbours - (neighbours > row)).astype(np.int32)
    return replace(
        state,
        lenders=tuple(u for u in state.lenders if u != user),
        row_of={},
        evidence=evidence,
        states=layer_states(evidence, state.models),
        graph=PersonaGraph(shifted, graph.is_edge[:, keep] & ~gone, graph.radius[:, keep],
                           graph.lends[:, keep]),
        residuals=_without_items(state, history),
        fitted_ids=np.setdiff1d(state.fitted_ids, history.id_hashes),
    )  # fmt: skip


def _without_items(state: FittedState, history: Corpus) -> Any:
    model = state.residuals
    counted = np.isin(history.id_hashes, state.fitted_ids)
    rows = np.array([model.item_rows.get(i, -1) if i else -1 for i in history.items], np.int64)
    known = np.flatnonzero((rows >= 0) & counted)
    if not len(known):
        return model
    assigned = state.facets.assign(history.inputs, history.declared)
    values, present = model.values(history)
    raw = model.against_input(history, assigned, values) * columns_of(model.views, present)
    sums, counts = np.array(model.item_sums), np.array(model.item_counts)
    np.subtract.at(sums, rows[known], raw[known].astype(np.float32))
    np.subtract.at(counts, rows[known], present[known].astype(np.float32))
    return replace(model, item_sums=sums, item_counts=counts)


def find_traces(places: Iterable[Path], needles: Sequence[bytes]) -> list[str]:
    """Files whose raw bytes hold any of the needles; needles under 4 bytes are not looked for.

    Args:
        places: files, or folders searched with everything below them.
    """
    wanted = [needle for needle in needles if len(needle) >= 4]
    found = []
    for place in places:
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file():
                data = path.read_bytes()
                if any(needle in data for needle in wanted):
                    found.append(str(path))
    return found
