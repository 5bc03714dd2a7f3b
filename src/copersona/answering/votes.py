"""The vote on a label or a rating: own interactions, peers and anybody, each with its weight.

p(y | x) ∝ prior + Σ_own rel·1[y_j = y] + worth · Σ_peers α_v rel·1[y_j = y]. Own votes count by
themselves; what peers put into a value counts only while enough different ones stand behind that
very value and none of them has more than half of it, and so does the prior. That check comes last,
over what is left after every other filter.

Knows ballots: who, which value, what weight. Who may vote, and how relevant each vote is, is
`ballots`; nothing here knows texts, stores, consent or facets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from copersona.records import VoteShare

Value = str | float

_SMOOTHING = 0.5
_DOMINANT = 0.5 + 1e-9


class VoteConfig(BaseModel):
    """How votes are weighed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prior_weight: float = Field(4.0, ge=0)
    """Own interactions, of full relevance, that the prior weighs as much as."""
    floor: float = Field(0.25, ge=0, le=1)
    """Relevance of an interaction that has nothing in common with the request."""
    per_peer: int = Field(5, ge=1)
    """Votes of any one peer in a facet."""
    polled: int = Field(60, ge=1)
    """Lenders in a facet who are asked for the prior."""
    latest: int = Field(20, ge=1)
    """Newest interactions that are read of a user who lends statistics."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """One vote.

    Attributes:
        voter: tells one voter from another; for `lent` only.
        weight: at least 0.
    """

    voter: str
    value: Value
    weight: float


@dataclass(frozen=True, slots=True)
class Lent:
    """What several users put into one value.

    Attributes:
        contributors: different voters with a weight above 0.
    """

    weight: float
    contributors: int


def lent(ballots: Iterable[Ballot], min_donors: int) -> dict[Value, Lent]:
    """Values that enough voters stand behind, none of them with more than half of the weight.

    Source: the rule for statistics of others (docs/privacy.md), for each value apart.
    """
    of_value: dict[Value, dict[str, float]] = {}
    for ballot in ballots:
        if ballot.weight > 0:
            by_voter = of_value.setdefault(ballot.value, {})
            by_voter[ballot.voter] = by_voter.get(ballot.voter, 0.0) + ballot.weight
    totals = {value: sum(by_voter.values()) for value, by_voter in of_value.items()}
    return {
        value: Lent(totals[value], len(by_voter))
        for value, by_voter in of_value.items()
        if len(by_voter) >= min_donors and max(by_voter.values()) <= _DOMINANT * totals[value]
    }


def count_votes(
    own: Iterable[Ballot],
    borrowed: Iterable[Ballot],
    polled: Iterable[Ballot],
    *,
    prior_weight: float,
    min_donors: int,
) -> tuple[VoteShare, ...]:
    """The distribution over values, likeliest first; empty where nobody voted.

    Args:
        borrowed: peers' ballots, already weighed by the worth of borrowing.
        polled: ballots of a sample of lenders; the prior is the smoothed share of each value.

    Source: method step 9.
    """
    mine: dict[Value, float] = {}
    for ballot in own:
        mine[ballot.value] = mine.get(ballot.value, 0.0) + ballot.weight
    theirs = lent(borrowed, min_donors)
    prior = _prior(lent(polled, min_donors), prior_weight)
    values = mine.keys() | theirs.keys() | prior.keys()
    nothing = Lent(0.0, 0)
    parts = {
        v: (mine.get(v, 0.0), theirs.get(v, nothing).weight, prior.get(v, 0.0)) for v in values
    }
    total = sum(map(sum, parts.values()))
    if not total > 0:
        return ()
    shares = [
        VoteShare(
            value, (a + b + c) / total, a / total, b / total, c / total,
            theirs.get(value, nothing).contributors,
        )
        for value, (a, b, c) in parts.items()
    ]  # fmt: skip
    return tuple(sorted(shares, key=lambda share: (-share.share, str(share.value))))


def _prior(polled: Mapping[Value, Lent], weight: float) -> dict[Value, float]:
    """Smoothed shares of values, together as heavy as asked for."""
    if not polled:
        return {}
    n_voters = sum(found.contributors for found in polled.values())
    typical = sum(found.weight for found in polled.values()) / n_voters
    raw = {value: found.weight + _SMOOTHING * typical for value, found in polled.items()}
    total = sum(raw.values())
    return {value: weight * part / total for value, part in raw.items()}


def expected(shares: Sequence[VoteShare]) -> float | None:
    """Mean of a distribution over ratings, the guess of least squared error; None where empty."""
    if not shares:
        return None
    return sum(float(one.value) * one.share for one in shares)


def median(shares: Sequence[VoteShare]) -> float | None:
    """Lower median of a distribution over ratings, the guess of least absolute error."""
    passed = 0.0
    for one in sorted(shares, key=lambda share: float(share.value)):
        passed += one.share
        if passed >= 0.5 - 1e-12:
            return float(one.value)
    return None
