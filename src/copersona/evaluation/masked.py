"""Masked facets: hide a facet of a user nobody learnt from, predict it, compare with the truth.

Users are split in folds by hash; the state is fitted on the other folds only and the hidden user
enters as a stranger, so no answer can leak through baselines, moments, graph or peers. Every
comparator that has a free scale gets it from the fitted users, never from the tested ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.method.calibration import MaskedFacets
from copersona.method.corpus import Corpus, restrict_users
from copersona.method.facets import unit
from copersona.method.fitted import FittedState, MethodConfig, fit_state
from copersona.method.masking import CAPS, Hiding, mask_facets
from copersona.method.profiles import Observed, OwnEvidence

Array = NDArray[Any]

COMPARATORS = (
    "facet mean",
    "self-completion",
    "global peers, facet means",
    "global peers, global means",
    "feature propagation",
    "ridge from other facets",
    "self + random peers",
    "completion",
)
REASONED = "graph reasoning"
"""Name of the comparator that a caller may add."""
Reasons = Callable[[FittedState, Corpus, MaskedFacets], Array]
"""From the state of a fold, those it was fitted on and the hidden facets of others: predictions."""
_K = 50
_RIDGES = (10.0, 100.0, 1000.0, 10000.0)


@dataclass(frozen=True)
class MaskedScores:
    """Predictions of every comparator for one view.

    Shapes:
        truth (n, n_columns) · predictions: name -> (n, n_columns) · ceiling (n,): share of the
        truth's variance that is not sampling noise · n_elsewhere (n,): own interactions left
    """

    view: str
    truth: Array
    predictions: dict[str, Array]
    ceiling: Array
    n_elsewhere: Array
    borrowed: Array

    def explained(self, name: str, rows: Array | None = None) -> float:
        """R² of one comparator over the facet mean; NaN without cases."""
        at = slice(None) if rows is None else rows
        truth = self.truth[at]
        total = float((truth**2).sum())
        return 1 - float(((truth - self.predictions[name][at]) ** 2).sum()) / total if total else (
            float("nan"))  # fmt: skip

    def cosine(self, name: str) -> float:
        """Mean cosine of prediction and truth, over cases that have both; NaN without any."""
        predicted = self.predictions[name]
        length = np.linalg.norm(predicted, axis=1) * np.linalg.norm(self.truth, axis=1)
        there = length > 0
        if not there.any():
            return float("nan")
        products = (predicted * self.truth).sum(axis=1)[there]
        return float((products / length[there]).mean())

    def over_ceiling(self, name: str) -> float:
        """R² as a share of what could be explained at all."""
        energy = (self.truth**2).sum(axis=1)
        return self.explained(name) / float((energy * self.ceiling).sum() / energy.sum())

    def slope(self, name: str) -> float:
        """Regression of the truth on the prediction: 1 is calibrated."""
        predicted = self.predictions[name]
        energy = float((predicted**2).sum())
        return float((self.truth * predicted).sum()) / energy if energy else float("nan")


def score_masked(
    corpus: Corpus,
    *,
    encoder: str,
    config: MethodConfig,
    n_folds: int = 5,
    caps: Sequence[int | None] = CAPS,
    reasons: Reasons | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[MaskedScores]:
    """Masked-facet predictions of all comparators, pooled over folds, one result per view.

    Args:
        caps: interactions left outside the hidden facet, drawn for every case; None leaves all.
        reasons: one more comparator, `REASONED`.
    """
    parts: list[list[MaskedScores]] = []
    fold = np.array([hash_fold(user, n_folds) for user in corpus.user_ids])
    for number in range(n_folds):
        train = restrict_users(corpus, fold != number)
        test = restrict_users(corpus, fold == number)
        state = fit_state(train, encoder=encoder, cut=float("inf"), config=config)
        parts.append(_score_fold(state, train, test, caps, reasons))
        if progress:
            progress(number + 1, n_folds)
    names = [scores.view for scores in parts[0]]
    return [_pooled([s for part in parts for s in part if s.view == name]) for name in names]


def hash_fold(user: str, n_folds: int) -> int:
    """The fold of a user: stable, and independent of the cross-fitting folds."""
    return sum((n + 1) * byte for n, byte in enumerate(user.encode())) % n_folds


def _pooled(parts: Sequence[MaskedScores]) -> MaskedScores:
    return MaskedScores(
        parts[0].view,
        np.concatenate([p.truth for p in parts]),
        {
            name: np.concatenate([p.predictions[name] for p in parts])
            for name in parts[0].predictions
        },
        np.concatenate([p.ceiling for p in parts]),
        np.concatenate([p.n_elsewhere for p in parts]),
        np.concatenate([p.borrowed for p in parts]),
    )


def _score_fold(
    state: FittedState,
    train: Corpus,
    test: Corpus,
    caps: Sequence[int | None],
    reasons: Reasons | None,
) -> list[MaskedScores]:
    floor, settings = state.calibration.agreement_floor, state.config.completion

    def masked(observed: Observed, *, are_lenders: bool) -> MaskedFacets:
        return mask_facets(observed, state.models, state.lending, floor, settings,
                           are_lenders=are_lenders, hiding=Hiding(caps=caps))  # fmt: skip

    known = masked(state.observe(train), are_lenders=True)
    hidden = masked(state.observe(test), are_lenders=False)
    lenders = _Lenders(state)
    seen, new = lenders.features(known, known.users), lenders.features(hidden, None)
    new["completion"] = hidden.completed(state.calibration, state.models)
    if reasons is not None:
        new[REASONED] = reasons(state, train, hidden)
    return [_score_view(state, number, known, hidden, seen, new)
            for number in range(len(state.models))]  # fmt: skip


def _score_view(
    state: FittedState,
    number: int,
    known: MaskedFacets,
    hidden: MaskedFacets,
    seen: dict[str, Array],
    new: dict[str, Array],
) -> MaskedScores:
    model = state.models[number]
    part = model.view.slice
    fitted, rows = known.support[:, number] > 0, hidden.support[:, number] > 0
    target, known_own = known.truth[fitted, part], known.own[fitted, part]
    truth, own = hidden.truth[rows, part], hidden.own[rows, part]
    predictions = {"facet mean": np.zeros_like(truth), "self-completion": own}
    for name in COMPARATORS[2:5]:
        predictions[name] = _scale(seen[name][fitted, part], target) * new[name][rows, part]
    predictions["ridge from other facets"] = _ridge(
        seen["others"][fitted], target, new["others"][rows]
    )
    random = _scale(seen["random"][fitted, part], target - known_own)
    predictions["self + random peers"] = own + random * new["random"][rows, part]
    for name in ("completion", *({REASONED} & new.keys())):
        predictions[name] = new[name][rows, part]
    support, kappa = hidden.support[rows, number], model.kappa[hidden.facets[rows]]
    moved = (predictions["completion"] != own).any(axis=1)
    return MaskedScores(model.view.name, truth, predictions, support / (support + kappa),
                        hidden.n_elsewhere[rows], moved)  # fmt: skip


def _scale(raw: Array, target: Array) -> float:
    energy = float((raw**2).sum())
    return float((raw * target).sum()) / energy if energy else 0.0


def _ridge(x: Array, y: Array, x_new: Array) -> Array:
    """Ridge with the penalty that does best on the last fifth of the fitted users."""
    cut = max(1, int(0.8 * len(x)))

    def solve(rows: slice, penalty: float) -> Array:
        a, b = x[rows], y[rows]
        return np.asarray(np.linalg.solve(a.T @ a + penalty * np.eye(a.shape[1]), a.T @ b))

    held = slice(cut, None)
    best = min(_RIDGES, key=lambda p: float(((y[held] - x[held] @ solve(slice(0, cut), p)) ** 2
                                             ).sum()))  # fmt: skip
    return np.asarray(x_new @ solve(slice(None), best))


class _Lenders:
    """What the graph-free comparators need of the fitted users."""

    def __init__(self, state: FittedState) -> None:
        self._state = state
        self._means = self._centred(state.evidence)
        self._support = state.evidence.support.max(axis=2)
        self._whole = self._global(state.evidence)
        self._propagated = self._propagate()

    def _centred(self, evidence: OwnEvidence) -> Array:
        center = np.concatenate([model.center for model in self._state.models], axis=1)
        seen = evidence.support.max(axis=2) > 0
        return np.where(seen[..., None], evidence.means - center, 0)

    def _global(self, evidence: OwnEvidence) -> Array:
        support = evidence.support.max(axis=2)
        total = np.maximum(support.sum(axis=1, keepdims=True), 1e-9)
        whole: Array = (self._centred(evidence) * support[..., None]).sum(axis=1) / total
        return whole

    def _propagate(self, steps: int = 20) -> Array:
        """Feature Propagation (Rossi et al. 2022) over layer 0: known facets stay.

        Deviates: a plain mean of the listed neighbours, no symmetric normalisation.
        """
        neighbours = self._state.graph.neighbours[0]
        there = (neighbours >= 0)[..., None]
        count = np.maximum(there.sum(axis=1), 1)
        known = (self._support > 0)[..., None]
        values = self._means.copy()
        for _ in range(steps):
            for f in range(values.shape[1]):
                mixed = np.where(there, values[neighbours, f], 0).sum(axis=1) / count
                values[:, f] = np.where(known[:, f], self._means[:, f], mixed)
        return values

    def features(self, masked: MaskedFacets, themselves: Array | None) -> dict[str, Array]:
        """Raw material of every comparator, one row per masked facet.

        Args:
            themselves: lender row of every case, which is never its own peer.
        """
        n, columns = len(masked), self._means.shape[2]
        out = {name: np.zeros((n, columns)) for name in (*COMPARATORS[2:5], "random")}
        whole = self._global(masked.evidence)
        rng = np.random.default_rng(0)
        for f in range(self._means.shape[1]):
            rows = np.flatnonzero(masked.facets == f)
            if not len(rows):
                continue
            exclude = None if themselves is None else themselves[rows]
            weights = self._weights(whole[rows], f, exclude)
            everyone = self._weights(whole[rows], None, exclude)
            out["global peers, facet means"][rows] = weights @ self._means[:, f]
            out["global peers, global means"][rows] = weights @ self._whole
            out["feature propagation"][rows] = everyone @ self._propagated[:, f]
            out["random"][rows] = (
                self._random(rng, len(rows), f) @ self._state.states.specifics[:, f]
            )
        others = self._centred(masked.evidence)
        return {**out, "others": others.reshape(n, others.shape[1] * others.shape[2])}

    def _weights(self, whole: Array, f: int | None, exclude: Array | None) -> Array:
        """Weights of the nearest lenders by the whole user; rows sum to 1 or are empty."""
        similarity = np.maximum(unit(whole) @ unit(self._whole).T, 0)
        if f is not None:
            similarity[:, self._support[:, f] < 2] = 0
        if exclude is not None:
            similarity[np.arange(len(exclude)), exclude] = 0
        k = min(_K, similarity.shape[1])
        kth = np.partition(similarity, -k, axis=1)[:, [-k]]
        similarity[similarity < kth] = 0
        return np.asarray(similarity / np.maximum(similarity.sum(axis=1, keepdims=True), 1e-9))

    def _random(self, rng: np.random.Generator, n: int, f: int) -> Array:
        pool = np.flatnonzero(self._support[:, f] >= 2)
        weights = np.zeros((n, len(self._support)))
        for row in range(n):
            weights[row, rng.choice(pool, min(_K, len(pool)), replace=False)] = 1
        return np.asarray(weights / np.maximum(weights.sum(axis=1, keepdims=True), 1))
