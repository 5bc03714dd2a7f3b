"""Taking one user out of a fitted state, and the list of what that leaves behind.

`without_user` removes everything of a lender that is kept per user or per item. What was learnt
from all lenders together cannot be unlearnt at once: `LEFT_IN` says which part of a state that is,
the receipt names it, and the next fit replaces it. It looks for nothing: that is `forgetting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.method.corpus import Corpus
from copersona.method.fitted import FittedState
from copersona.method.graph import PersonaGraph, layer_states
from copersona.method.profiles import OwnEvidence
from copersona.method.residuals import columns_of

Array = NDArray[Any]

LEFT_IN: Mapping[str, tuple[str, ...]] = {
    "facet centre and prototypes": ("facets.center", "facets.prototypes"),
    "facet names, declared facets and labels": ("facet_names", "declared", "labels", "views"),
    "baseline: centre, ridge penalty and weights, facet means": (
        "residuals.center", "residuals.weights", "residuals.facet_means", "ridge"),
    "text directions, location and scale of answers": (
        "residuals.basis", "residuals.location", "residuals.scale"),
    "which items have a mean, and its shrinkage": ("texts", "residuals.item_shrinkage"),
    "centre, noise and signal of every view (σ², Σ)": (
        "model.*.center", "model.*.noise", "model.*.signal", "is_assumed"),
    "facet transfer (T), and the preference for own examples": ("transfer", "own_preference"),
    "calibration and agreement floor": ("calibration.*",),
    "others' facets and averaged answers, which hang on those and on answers to the same items": (
        "evidence.*", "graph.lends", "items.facets"),
    "others' neighbour lists, edges and hub corrections, found while the user was among them": (
        "graph.neighbours", "graph.is_edge", "graph.radius"),
    "others' word counts, where the user was the first to write the same text": ("words.*",),
    "what was trained on the state, where the user allowed it, and the neighbour lists in it": (
        "learnt.*", "learnt"),
    "what the user had removed, corrected or let expire since the fit, in the means of items": (
        "residuals.item_sums", "residuals.item_counts", "fitted_ids"),
}  # fmt: skip
"""What of a fitted state still carries a forgotten user's influence until the next fit, with its
arrays and fields (`*` stands for anything)."""

NOT_UNLEARNT = (
    *LEFT_IN,
    "others' kept traces, which say what peers added while the user was one of them",
)
"""All that stays, in words: the receipt and docs/privacy.md say the same."""


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
