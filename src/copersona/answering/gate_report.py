"""What a gate comes to on requests of users it had not seen, against every fixed choice.

Counts only: takes measured losses and what was chosen, and knows neither features nor fitting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

_TWO_SIDED_95 = 1.96


@dataclass(frozen=True)
class Outcome:
    """What one way to choose comes to, as means over all requests.

    Attributes:
        loss: nats per token of the user's real answer.
        false_injection: share of all requests that were given something and were worse by it than
            with nothing, by more than the margin.
        tokens: of context.
    """

    loss: float
    false_injection: float
    tokens: float


@dataclass(frozen=True)
class GateReport:
    """A gate on held-out users: every request is judged by one that did not see its user.

    Attributes:
        n: requests.
        gate: of the gate that is kept, learnt or constant.
        fixed: of taking the same choice always, by its name; `none` is the first.
        oracle: mean of the least loss of each request; noise makes it lower than any gate can be.
        margin: nats per token a request must be worse by to count as a false injection.
        abstained: share of requests given nothing.
        lost_by_abstaining: over these, the mean loss of none less that of the choice the gate would
            have taken had none been barred; above 0 where abstaining lost. NaN without any.
        difference, low, high: loss of the gate less that of the best fixed choice, with its 95 %
            interval, users being independent (normal approximation).
        is_constant: the gate takes one choice always, since the learnt one was not better.
        why: which is kept, and by what numbers.
    """

    n: int
    n_users: int
    gate: Outcome
    fixed: Mapping[str, Outcome]
    oracle: float
    margin: float
    abstained: float
    lost_by_abstaining: float
    difference: float
    low: float
    high: float
    is_constant: bool
    why: str

    @property
    def best_fixed(self) -> str:
        """The fixed choice of least loss, known only afterwards."""
        return min(self.fixed, key=lambda name: self.fixed[name].loss)

    def lines(self) -> list[str]:
        """As sentences."""
        return list(self._sentences())

    def _sentences(self) -> Iterator[str]:
        given = 1 - self.abstained
        yield f"gate: {self.why}"
        yield (f"judged on {self.n} requests of {self.n_users} users, each by a gate that had not "
               f"seen the user; a false injection is worse than none by more than {self.margin:g} "
               "nats a token")  # fmt: skip
        yield f"the gate: {_said(self.gate)}"
        for name, outcome in self.fixed.items():
            yield f"always {name}: {_said(outcome)}"
        yield f"the best choice of every request, known only afterwards: loss {self.oracle:.4f}"
        yield (f"against always {self.best_fixed}: loss {self.difference:+.4f} "
               f"(95 % from {self.low:+.4f} to {self.high:+.4f})")  # fmt: skip
        if given:
            yield (f"something is injected in {given:.0%} of requests, falsely in "
                   f"{self.gate.false_injection / given:.0%} of these")  # fmt: skip
        if self.abstained:
            yield (f"none in {self.abstained:.0%} of requests; the next best choice would have "
                   f"changed their loss by {-self.lost_by_abstaining:+.4f}")  # fmt: skip


def _said(outcome: Outcome) -> str:
    return (f"loss {outcome.loss:.4f}, false injections in {outcome.false_injection:.1%} of all "
            f"requests, {outcome.tokens:.0f} tokens")  # fmt: skip


def build_gate_report(
    losses: Array,
    tokens: Array,
    users: Sequence[str],
    names: Sequence[str],
    shares: Array,
    *,
    margin: float,
    kept: tuple[bool, str],
) -> GateReport:
    """Count what the likeliest choices came to.

    Args:
        names: of the choices, none first.
        shares: out of fold.
        kept: whether one choice is taken always, and why.

    Shapes:
        losses, tokens, shares (n, n_choices) · users (n,)
    """
    rows = np.arange(len(losses))
    taken = shares.argmax(axis=1)
    instead = 1 + shares[:, 1:].argmax(axis=1)
    is_none = taken == 0

    def outcome(places: Array | int) -> Outcome:
        loss = losses[rows, places]
        is_worse = loss > losses[:, 0] + margin
        return Outcome(float(loss.mean()), float(is_worse.mean()),
                       float(tokens[rows, places].mean()))  # fmt: skip

    lost = losses[:, 0] - losses[rows, instead]
    steps = losses[rows, taken] - losses[:, losses.mean(axis=0).argmin()]
    difference = float(steps.mean())
    half = _TWO_SIDED_95 * clustered_error(steps, users)
    return GateReport(
        n=len(losses),
        n_users=len(set(users)),
        gate=outcome(taken),
        fixed={name: outcome(place) for place, name in enumerate(names)},
        oracle=float(losses.min(axis=1).mean()),
        margin=margin,
        abstained=float(is_none.mean()),
        lost_by_abstaining=float(lost[is_none].mean()) if is_none.any() else math.nan,
        difference=difference,
        low=difference - half,
        high=difference + half,
        is_constant=kept[0],
        why=kept[1],
    )


def clustered_error(steps: Array, users: ArrayLike) -> float:
    """Standard error of a mean over requests, users being independent of each other.

    Shapes:
        steps, users (n,)

    Source: Cochran 1977, ratio estimator.
    """
    names, rows = np.unique(np.asarray(users), return_inverse=True)
    excess = np.bincount(rows, steps - steps.mean())
    return math.sqrt(len(names) / (len(names) - 1) * float(excess @ excess)) / len(steps)
