"""Learning the gate from measured losses: what every choice cost on requests with known answers.

The policy is trained to the cost itself, not to labels of the best choice, so that a request where
all choices are alike says little and one where a choice harms says much. Users are kept whole in
cross-fitting folds: the penalty, the decision between the learnt gate and one choice for all, and
every reported number come from users that the gate in question did not see. Arrays only: how a
loss is measured is no matter of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import norm

from copersona.answering.gate import CHOICES, NONE, Choice, Gate, design
from copersona.answering.gate_config import GateConfig
from copersona.answering.gate_data import Measured, check_table, measure
from copersona.answering.gate_report import GateReport, build_gate_report, clustered_error
from copersona.errors import ConfigError

Array = NDArray[Any]

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
"""Of squared weights of standardised features, strongest first; costs have root mean square 1."""

_FREE = 1e-4
"""Penalty of the constant part, which only keeps it finite."""
_STEP = 10.0
"""Log odds between one choice and the next best in a gate that always takes the same."""
_DOUBT = 0.05
"""Of a one-sided bound."""


def fit_gate(
    features: Array,
    losses: Array,
    tokens: Array,
    users: Sequence[str],
    config: GateConfig,
    *,
    choices: Sequence[Choice] = CHOICES,
) -> tuple[Gate, GateReport]:
    """A policy of least expected cost, or one choice for all where learning gains nothing.

    Least is Σ_i Σ_c π_c(x_i) · (harm_ic + price · tokens_ic / 100) plus a penalty of squared
    weights, harm being loss less the loss of none, times the caution where that is above 0. The
    learnt gate is kept if what it saves on held-out users against one choice for all has a lower
    bound (one-sided 95 %, by user) above 0; the one choice is none unless another is as sure.

    Args:
        features: columns as in `FEATURES`.
        losses: nats per token of the user's real answer under each choice.
        tokens: of context under each choice.
        choices: one for each column, none first.

    Shapes:
        features (n, n_features) · losses, tokens (n, n_choices) · users (n,)

    Raises:
        ConfigError: the choices do not begin with none, repeat, or are fewer than two.
        ShapeError: arrays disagree.
        DataError: a value is not finite; too few requests or users.

    Source: method step 11. Deviates: trained to the cost of the choices, not to which is best; the
    task is no feature, since a gate is fitted for one.
    """
    policy = _Policy(tuple(choices), config.price)
    check_table(losses, (len(users), len(choices)), "losses")
    check_table(tokens, (len(users), len(choices)), "tokens")
    measured = measure(features, choice_costs(losses, tokens, config), users)
    shares, one_for_all = _held_out(measured, policy.best), _held_out(measured, policy.constant)
    steps = _taken(measured, one_for_all) - _taken(measured, shares)
    gain, error = float(steps.mean()), clustered_error(steps, users)
    is_constant = not _is_sure(steps, measured.users)
    gate = (policy.constant if is_constant else policy.best)(measured)
    kept = f"always {gate.choices[gate.weights[0].argmax()].name}" if is_constant else "learnt"
    why = (f"{kept}; on users not seen the learnt one saves {gain:.4f} nats a token against one "
           f"choice for all, with a standard error of {error:.4f}")  # fmt: skip
    report = build_gate_report(
        losses, tokens, users, [choice.name for choice in choices],
        one_for_all if is_constant else shares, margin=config.margin, kept=(is_constant, why),
    )  # fmt: skip
    return gate, report


def choice_costs(losses: Array, tokens: Array, config: GateConfig) -> Array:
    """What each choice costs against none: loss, with caution where it harms, and tokens.

    Shapes:
        losses, tokens (n, n_choices) -> the same
    """
    harm = losses - losses[:, :1]
    harm = np.where(harm > 0, config.caution * harm, harm)
    return np.asarray(harm + config.price * tokens / 100)


def policy_cost(
    weights: Array, columns: Array, costs: Array, penalty: float
) -> tuple[float, Array]:
    """Mean expected cost of a policy with the penalty of its weights, and the gradient.

    Shapes:
        weights (1 + n_features, n_choices) · columns (n, 1 + n_features) · costs (n, n_choices)
        -> () and as weights
    """
    shares = softmax(columns @ weights, axis=1)
    expected = (shares * costs).sum(axis=1, keepdims=True)
    ridge = np.full((len(weights), 1), penalty)
    ridge[0] = _FREE
    value = float(expected.mean()) + 0.5 * float((ridge * weights**2).sum())
    return value, columns.T @ (shares * (costs - expected)) / len(costs) + ridge * weights


@dataclass(frozen=True)
class _Policy:
    """Ways to make a gate among some choices."""

    choices: tuple[Choice, ...]
    price: float

    def __post_init__(self) -> None:
        if self.choices[:1] != (NONE,) or not 1 < len(self.choices) == len(set(self.choices)):
            raise ConfigError("the choices must be none, first, and at least one other, each once")

    def best(self, measured: Measured) -> Gate:
        """Learnt with the penalty that is best on held-out users."""

        def cost(penalty: float) -> float:
            shares = _held_out(measured, partial(self.learnt, penalty=penalty))
            return float(_taken(measured, shares).mean())

        return self.learnt(measured, penalty=min(PENALTIES, key=cost))

    def learnt(self, measured: Measured, *, penalty: float) -> Gate:
        """Of least expected cost, starting at the best single choice."""
        location, scale = measured.standard()
        columns = design(measured.features, location, scale)
        costs = measured.outcomes - measured.outcomes.mean(axis=1, keepdims=True)
        costs = costs / max(float(np.sqrt((costs**2).mean())), 1e-12)
        start = np.zeros((columns.shape[1], len(self.choices)))
        start[0, costs.mean(axis=0).argmin()] = 1.0

        def objective(flat: Array) -> tuple[float, Array]:
            value, slope = policy_cost(flat.reshape(start.shape), columns, costs, penalty)
            return value, slope.ravel()

        found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B")
        return Gate(found.x.reshape(start.shape), location, scale, self.choices, self.price)

    def constant(self, measured: Measured) -> Gate:
        """Always the choice that surely costs least; the others follow in order of their costs."""
        n_features = measured.features.shape[1]
        weights = np.zeros((1 + n_features, len(self.choices)))
        costs = measured.outcomes
        order = np.argsort(costs.mean(axis=0), kind="stable")
        if not _is_sure(costs[:, 0] - costs[:, order[0]], measured.users, len(order) - 1):
            order = np.r_[0, order[order != 0]]
        weights[0, order] = -_STEP * np.arange(len(order))
        return Gate(weights, np.zeros(n_features), np.ones(n_features), self.choices, self.price)


def _held_out(measured: Measured, fit: Callable[[Measured], Gate]) -> Array:
    """Shares of the choices, each request by a gate fitted on other users: (n, n_choices)."""
    shares = np.zeros_like(measured.outcomes)
    for part, rest in measured.parts():
        shares[np.isin(measured.folds, part.folds)] = fit(rest).shares(part.features)
    return shares


def _taken(measured: Measured, shares: Array) -> Array:
    """The cost of the likeliest choice of every request: (n,)."""
    return np.asarray(measured.outcomes[np.arange(len(shares)), shares.argmax(axis=1)])


def _is_sure(savings: Array, users: Array, n_looks: int = 1) -> bool:
    """Whether the mean is above 0 by its lower bound, with so many looks for the best (Bonferroni).

    Shapes:
        savings, users (n,)
    """
    bound = float(norm.isf(_DOUBT / n_looks)) * clustered_error(savings, users)
    return bool(savings.mean() > bound)
