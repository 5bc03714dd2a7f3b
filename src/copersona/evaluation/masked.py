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

from copersona.completion import MaskedFacet
from copersona.corpus import Corpus, restrict_users
from copersona.facets import unit
from copersona.fitted import FittedState, MethodConfig, fit_state, mask_facets
from copersona.profiles import OwnEvidence

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
    progress: Callable[[int, int], None] | None = None,
) -> list[MaskedScores]:
    """Masked-facet predictions of all comparators, pooled over folds, one result per view."""
    parts: list[list[MaskedScores]] = []
    fold = np.array([hash_fold(user, n_folds) for user in corpus.user_ids])
    for number in range(n_folds):
        train = restrict_users(corpus, fold != number)
        test = restrict_users(corpus, fold == number)
        state = fit_state(train, encoder=encoder, cut=float("inf"), config=config)
        parts.append(_score_fold(state, test))
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
        {name: np.concatenate([p.predictions[name] for p in parts]) for name in COMPARATORS},
        np.concatenate([p.ceiling for p in parts]),
        np.concatenate([p.n_elsewhere for p in parts]),
        np.concatenate([p.borrowed for p in parts]),
    )


def _score_fold(state: FittedState, test: Corpus) -> list[MaskedScores]:
    known = mask_facets(state, state.evidence, exclude_self=True)
    evidence = state.evidence_of(test)
    hidden = mask_facets(state, evidence, exclude_self=False)
    lenders = _Lenders(state)
    seen = lenders.features(known, state.evidence, is_lender=True)
    new = lenders.features(hidden, evidence, is_lender=False)
    return [_score_view(state, number, known, hidden, seen, new)
            for number in range(len(state.models))]  # fmt: skip


def _score_view(
    state: FittedState,
    number: int,
    known: Sequence[MaskedFacet],
    hidden: Sequence[MaskedFacet],
    seen: dict[str, Array],
    new: dict[str, Array],
) -> MaskedScores:
    model = state.models[number]
    part = model.view.slice
    known_rows = np.array([m.support[number] > 0 for m in known])
    rows = np.array([m.support[number] > 0 for m in hidden])

    def stack(masked: Sequence[MaskedFacet], name: str, keep: Array) -> Array:
        return np.stack([getattr(m, name)[part] for m in masked])[keep].astype(np.float64)

    target = stack(known, "truth", known_rows)
    truth, own = stack(hidden, "truth", rows), stack(hidden, "own", rows)
    known_own = stack(known, "own", known_rows)
    kept = [m for m, keep in zip(hidden, rows, strict=True) if keep]
    predictions = {"facet mean": np.zeros_like(truth), "self-completion": own}
    for name in COMPARATORS[2:5]:
        raw, test_raw = seen[name][known_rows][:, part], new[name][rows][:, part]
        predictions[name] = _scale(raw, target) * test_raw
    predictions["ridge from other facets"] = _ridge(
        seen["others"][known_rows], target, new["others"][rows]
    )
    random, test_random = seen["random"][known_rows][:, part], new["random"][rows][:, part]
    predictions["self + random peers"] = own + _scale(random, target - known_own) * test_random
    believed = np.array([_belief(state, m, number) for m in kept])
    predictions["completion"] = own + believed[:, None] * stack(hidden, "offered", rows)
    support = np.array([m.support[number] for m in kept])
    kappa = np.array([model.kappa[m.facet] for m in kept])
    return MaskedScores(model.view.name, truth, predictions, support / (support + kappa),
                        np.array([m.n_elsewhere for m in kept]), believed > 0)  # fmt: skip


def _belief(state: FittedState, masked: MaskedFacet, number: int) -> float:
    """The slope completion would use; 0 where it abstains."""
    slope, _, lower = (values[number] for values in state.calibration.at(masked.alignment))
    agrees = masked.agreement > state.calibration.agreement_floor[masked.facet]
    return float(slope) if agrees and lower > 0 and masked.alignment > 0 else 0.0


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
        """Feature Propagation (Rossi et al. 2022) over layer 0: known facets stay."""
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

    def features(
        self, masked: Sequence[MaskedFacet], evidence: OwnEvidence, *, is_lender: bool
    ) -> dict[str, Array]:
        """Raw material of every comparator, one row per masked facet."""
        n, columns = len(masked), self._means.shape[2]
        out = {name: np.zeros((n, columns)) for name in (*COMPARATORS[2:5], "random")}
        others = np.zeros((n, self._means.shape[1] * columns))
        rng = np.random.default_rng(0)
        for f in range(self._means.shape[1]):
            rows = np.array([i for i, m in enumerate(masked) if m.facet == f], int)
            if not len(rows):
                continue
            users = np.array([masked[i].user for i in rows.tolist()])
            hidden = evidence.take(users).without_facet(f)
            weights = self._weights(self._global(hidden), f, users if is_lender else None)
            everyone = self._weights(self._global(hidden), None, users if is_lender else None)
            out["global peers, facet means"][rows] = weights @ self._means[:, f]
            out["global peers, global means"][rows] = weights @ self._whole
            out["feature propagation"][rows] = everyone @ self._propagated[:, f]
            out["random"][rows] = (
                self._random(rng, len(rows), f) @ self._state.states.specifics[:, f]
            )
            others[rows] = self._centred(hidden).reshape(len(rows), -1)
        return {**out, "others": others}

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
