"""The gate: what may enter the context of one request, "nothing" included.

A small policy, linear in a few numbers about the request and soft over the choices; the likeliest
is taken. Beside it what joins two opinions about labels, the language model's and the vote's, by a
weight that the same numbers give. Knows these numbers only: no text, user, peer or model; how both
are learnt is `gate_fitting` and `omega_fitting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_softmax, softmax

from copersona.errors import ArtifactError, DataError, ShapeError
from copersona.records import Origin

Array = NDArray[Any]


@dataclass(frozen=True)
class Choice:
    """What may enter one context.

    Attributes:
        origins: whose evidence may be shown as text; empty for none.
        has_soft: whether soft tokens stand in front.
    """

    origins: frozenset[Origin]
    has_soft: bool
    name: str


_ORIGINS: Mapping[str, tuple[Origin, ...]] = {
    "none": (),
    "own": ("own",),
    "own + peers": ("own", "peer"),
    "own + population": ("own", "population"),
    "all": ("own", "peer", "population"),
}
CHOICES = (
    *(Choice(frozenset(origins), False, name) for name, origins in _ORIGINS.items()),
    *(
        Choice(frozenset(origins), True, f"{name} + soft" if origins else "soft")
        for name, origins in _ORIGINS.items()
    ),
)
"""All there is to choose among; `soft` is soft tokens alone."""
NONE = CHOICES[0]
"""Nothing enters: the answer is the language model's alone. It is first, and so wins a tie."""


@dataclass(frozen=True)
class GateFeatures:
    """What the gate knows of a request; the order of the fields is that of the columns.

    Attributes:
        need: how thin own support is where the request falls, in [0, 1].
        worth: confidence that borrowing adds there, in [0, 1].
        own_relevance: cosine of the request and the user's most alike interaction; 0 without one.
        peer_relevance: the same of peers' candidates.
        population_relevance: the same of the population's.
        agreement: cosine of what retrieved answers of the user and of peers say and the completed
            persona, in [-1, 1]; 0 where either is missing.
        log_own: natural logarithm of 1 + own interactions.
        entropy: of the routing, in [0, 1]; see `routing_entropy`.
        confidence: of the completed persona in the routed facets, in [0, 1).
    """

    need: float
    worth: float
    own_relevance: float
    peer_relevance: float
    population_relevance: float
    agreement: float
    log_own: float
    entropy: float
    confidence: float

    def as_array(self) -> Array:
        """The features in order: (n_features,)."""
        return np.array(astuple(self), np.float64)


FEATURES = tuple(field.name for field in fields(GateFeatures))
"""Names of the columns that a gate reads."""

_GATE_ARRAYS = ("weights", "location", "scale")


def routing_entropy(routed: Array) -> float:
    """How evenly a request falls over the facets: 0 for all in one, 1 for the same in each.

    Shapes:
        routed (n_facets,)
    """
    shares = routed[routed > 0].astype(np.float64)
    return float(-(shares * np.log(shares)).sum() / np.log(max(len(routed), 2)))


@dataclass(frozen=True)
class Gate:
    """A policy over choices.

    Attributes:
        price: nats per token of an answer that 100 tokens of context had to gain when it was
            fitted.

    Shapes:
        weights (1 + n_features, n_choices), the constant part first · location, scale
        (n_features,)
    """

    weights: Array
    location: Array
    scale: Array
    choices: tuple[Choice, ...]
    price: float

    def shares(self, features: Array) -> Array:
        """How much speaks for each choice; sums to 1.

        Shapes:
            features (…, n_features) -> (…, n_choices)

        Raises:
            ShapeError: another number of features.
        """
        return np.asarray(softmax(design(features, self.location, self.scale) @ self.weights, -1))

    def choose(self, features: GateFeatures, *, has_soft: bool = True) -> Choice:
        """The likeliest choice; of equals the first, which is none.

        Args:
            has_soft: False where there are no soft tokens to choose.
        """
        shares = self.shares(features.as_array())
        may = [n for n, choice in enumerate(self.choices) if has_soft or not choice.has_soft]
        return self.choices[max(may, key=lambda n: shares[n])]

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """The gate as named arrays and JSON facts; `from_arrays` is the inverse."""
        arrays = {name: getattr(self, name) for name in _GATE_ARRAYS}
        names = [choice.name for choice in self.choices]
        return arrays, {"features": list(FEATURES), "choices": names, "price": self.price}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> Gate:
        """The gate again.

        Raises:
            ArtifactError: something is missing, or it reads other features or knows other choices.
        """
        known = {choice.name: choice for choice in CHOICES}
        if tuple(facts.get("features", ())) != FEATURES:
            raise ArtifactError("the gate reads other features than this version; fit again")
        try:
            choices = tuple(known[name] for name in facts["choices"])
            weights, location, scale = (arrays[name] for name in _GATE_ARRAYS)
            return cls(weights, location, scale, choices, facts["price"])
        except KeyError as error:
            raise ArtifactError(f"the gate lacks or does not know {error}; fit again") from error


@dataclass(frozen=True)
class Omega:
    """How far the vote is believed over the language model, request by request.

    Shapes:
        weights (1 + n_features,), the constant part first · location, scale (n_features,)
    """

    weights: Array
    location: Array
    scale: Array

    def at(self, features: Array) -> Array:
        """The weight of the vote, in [0, 1].

        Shapes:
            features (…, n_features) -> (…)

        Raises:
            ShapeError: another number of features.
        """
        return np.asarray(expit(design(features, self.location, self.scale) @ self.weights))


def combined(log_llm: Array, log_vote: Array, omega: ArrayLike) -> Array:
    """Two opinions about labels as one: log p = (1 − ω) log p_LLM + ω log p_A, renormalised.

    Args:
        omega: weight of the vote, in [0, 1].

    Shapes:
        log_llm, log_vote (…, n_labels) · omega (…) or () -> (…, n_labels)

    Raises:
        ShapeError: the two disagree.
        DataError: a logarithm is not finite; a label nobody votes for needs a floor.

    Source: method step 11.
    """
    if np.shape(log_llm) != np.shape(log_vote):
        raise ShapeError(f"log_llm has shape {np.shape(log_llm)}, log_vote {np.shape(log_vote)}")
    if not (np.isfinite(log_llm).all() and np.isfinite(log_vote).all()):
        raise DataError("a log probability is not finite; give every label a floor")
    weight = np.asarray(omega, np.float64)[..., None]
    return np.asarray(log_softmax((1 - weight) * log_llm + weight * log_vote, -1))


def design(features: Array, location: Array, scale: Array) -> Array:
    """A column of ones and the standardised features.

    Shapes:
        features (…, n_features) · location, scale (n_features,) -> (…, 1 + n_features)

    Raises:
        ShapeError: another number of features.
    """
    if np.shape(features)[-1:] != np.shape(location):
        raise ShapeError(f"features have shape {np.shape(features)}; {len(location)} are read")
    standard = (features - location) / scale
    return np.concatenate([np.ones((*standard.shape[:-1], 1)), standard], axis=-1)
