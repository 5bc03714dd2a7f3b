"""Learning how far the vote is believed over the language model, from labels that were given.

A logistic weight of the gate's features, by maximum likelihood; how far the features may move it
away from one weight for all is chosen on held-out users. Arrays only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit

from copersona.answering.gate import Omega, combined, design
from copersona.answering.gate_data import Measured, check_table, measure
from copersona.errors import DataError, ShapeError

Array = NDArray[Any]

PENALTIES = (100.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
"""Of squared weights of standardised features; the first leaves one weight for all."""


def fit_omega(
    features: Array, log_llm: Array, log_vote: Array, truth: Array, users: Sequence[str]
) -> Omega:
    """The weight of the vote as a logistic function of the features, by maximum likelihood.

    Starts at the best constant weight; how far features may move it is chosen over users.

    Args:
        truth: column of the label that was given.

    Shapes:
        features (n, n_features) · log_llm, log_vote (n, n_labels) · truth, users (n,)

    Raises:
        ShapeError: arrays disagree.
        DataError: a value is not finite; too few requests or users.

    Source: method step 11.
    """
    if np.ndim(log_llm) != 2 or np.shape(truth) != (len(users),):
        raise ShapeError(f"log_llm has shape {np.shape(log_llm)}, truth {np.shape(truth)}, "
                         f"for {len(users)} requests")  # fmt: skip
    n_labels = np.shape(log_llm)[1]
    check_table(log_llm, (len(users), n_labels), "log_llm")
    check_table(log_vote, (len(users), n_labels), "log_vote")
    given = np.equal.outer(truth, np.arange(n_labels))
    if not given.any(axis=1).all():
        raise DataError(f"a label that was given is none of the {n_labels}", field="truth")
    measured = measure(features, np.stack([log_llm, log_vote, given], axis=1), users)
    return _fitted(measured, min(PENALTIES, key=lambda penalty: _held_out(measured, penalty)))


def _fitted(measured: Measured, penalty: float) -> Omega:
    """One weight for all, then moved by the features."""
    location, scale = measured.standard()
    columns = design(measured.features, location, scale)
    log_llm, log_vote, given = np.moveaxis(measured.outcomes, 1, 0)
    best = minimize_scalar(
        lambda omega: _surprise(measured, omega).mean(), bounds=(0.001, 0.999), method="bounded"
    )
    start = np.zeros(columns.shape[1])
    start[0] = logit(best.x)
    ridge = np.r_[0.0, np.full(len(start) - 1, penalty)]

    def objective(weights: Array) -> tuple[float, Array]:
        omega = expit(columns @ weights)
        shares = np.exp(combined(log_llm, log_vote, omega))
        slope = ((shares - given) * (log_vote - log_llm)).sum(axis=1) * omega * (1 - omega)
        value = _surprise(measured, omega).mean() + 0.5 * ridge @ weights**2
        return float(value), columns.T @ slope / len(slope) + ridge * weights

    return Omega(minimize(objective, start, jac=True, method="L-BFGS-B").x, location, scale)


def _held_out(measured: Measured, penalty: float) -> float:
    """Nats at the labels given, each request with a weight fitted on other users."""
    return sum(
        float(_surprise(part, _fitted(rest, penalty).at(part.features)).sum())
        for part, rest in measured.parts()
    )


def _surprise(measured: Measured, omega: Array | float) -> Array:
    """Nats at the label given: (n,)."""
    log_llm, log_vote, given = np.moveaxis(measured.outcomes, 1, 0)
    return np.asarray(-(given * combined(log_llm, log_vote, omega)).sum(axis=1))
