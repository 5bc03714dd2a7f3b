"""The vocabulary of an evaluation: tasks, cases, predictions and the systems that make them.

A *case* is a *request*, which systems see, and a *target*, which only metrics see; they are two
objects so that a system cannot read the answer. A *system* turns requests into *predictions*:
messages for a language model, or labels, a rating, or a text of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from copersona.records import Evidence, Interaction, Query

Kind = Literal["text", "label", "rating", "answer"]
"""What is predicted: a text as this user writes, a label, a rating, or the answer to a question."""

Shift = Literal["none", "facet", "random"]
"""What is deleted from a history: nothing, the request's facet, or as many at random."""


@dataclass(frozen=True)
class Target:
    """What was really said, seen by metrics alone; `text` is empty where a task asks for none."""

    text: str = ""
    label: str | None = None
    rating: float | None = None


@dataclass(frozen=True)
class Request:
    """Everything a system may know of one request.

    Attributes:
        id: of the case: the same in every run, whatever is deleted from the history.
        text: what the request is about, as the inputs of the history are.
        instruction: what a language model is to do with it.
        at: time of the request; None where the data have no times.
        item: what it is about, where items have names.
        history: the user's own earlier interactions, oldest first.
        barred: ids of other users' interactions that repeat the target; no system sees them.
    """

    id: str
    user: str
    text: str
    instruction: str
    at: float | None
    item: str | None
    history: tuple[Interaction, ...]
    barred: frozenset[str] = frozenset()

    @property
    def query(self) -> Query:
        """The same as the library's record of a request."""
        return Query(self.user, self.text, self.instruction, self.at, self.item)


@dataclass(frozen=True)
class Case:
    """A request and what was really said.

    Attributes:
        source: id of the interaction it was made from.
    """

    request: Request
    target: Target
    source: str


@dataclass(frozen=True)
class Question:
    """A request as a benchmark's file states it, with the profile it comes with.

    Attributes:
        number: of the question in its file, which keeps ids apart.
    """

    number: str
    user: str
    text: str
    target: Target
    history: tuple[Interaction, ...]
    at: float | None = None
    item: str | None = None


@dataclass(frozen=True)
class Material:
    """What a task is made of.

    Attributes:
        interactions: everybody's, with ids; what a user may be asked about and learnt from.
        questions: where the source states them itself; else they are taken from the interactions.
    """

    interactions: Sequence[Interaction]
    questions: Sequence[Question] = ()


@dataclass(frozen=True)
class Task:
    """One thing to be done for many users.

    Attributes:
        name: `dataset.what`, such as `acl.title`.
        dataset: name of the folder with the data.
        description: one line: whose, from what, what.
        instruction: tells a language model what to do; stands before the text of a request.
        load: reads the data from the folder that holds all data sets, or from a file.
        max_words: references are cut to so many words before they are scored.
        per_user: most requests of any one user, the newest ones; more where users are few.
        has_dates: without dates users are split, and a request is any interaction of a user.
        has_peers: False where users have nothing in common to borrow.
        note: what a reader of the results must know, such as that only same items are shared.
    """

    name: str
    dataset: str
    kind: Kind
    description: str
    instruction: str
    load: Callable[[Path], Material]
    max_words: int = 60
    per_user: int = 1
    has_dates: bool = True
    has_peers: bool = True
    note: str = ""


@dataclass(frozen=True)
class Prediction:
    """What a system says to one request.

    Attributes:
        messages: for a language model, where the task asks for a text.
        shown: evidence that stands in the messages, or that voted.
        labels: share of every label considered; they sum to 1.
        rating: the guess of least squared error.
        rating_median: the guess of least absolute error; `rating` where None.
        text: an answer that needs no language model.
        tokens: added to the request, in the language model's tokens.
        soft: soft tokens for the language model, where it is a local one.
        numbers: more that is worth keeping, such as `need` and `worth`.
    """

    messages: tuple[Mapping[str, str], ...] = ()
    shown: tuple[Evidence, ...] = ()
    labels: Mapping[str, float] = field(default_factory=dict)
    rating: float | None = None
    rating_median: float | None = None
    text: str | None = None
    tokens: int = 0
    soft: NDArray[np.float32] | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)


class System(Protocol):
    """A way to personalise, ready for the requests of one task."""

    def predict(self, request: Request) -> Prediction:
        """Answer one request from what was known before it."""
