"""The nouns of CoPersona, as frozen records: what goes in, what comes out, and why.

Nothing here computes, stores or encodes. Text fields hold the user's words as given; times are
seconds since 1970-01-01 UTC; scores are "higher is better"; ids are strings from outside.
`docs/concepts.md` is the glossary of these words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from copersona.errors import ConfigError

Lend = Literal["no", "aggregate", "text"]
Origin = Literal["own", "peer", "population"]
Verdict = Literal["accept", "reject", "edit"]
Status = Literal["stored", "duplicate", "rejected"]


@dataclass(frozen=True, slots=True)
class Interaction:
    """One event of one user: what they were looking at (`input`) and what they said (`response`).

    At least one of the two texts is present; where only one is, it serves as both. In chats
    `response` is always the user's own message and `input` the turn before it.

    Attributes:
        id: idempotency key within a namespace; empty until `interactions.with_ids` fills it.
        item: the product, film, paper … that was answered.
        rating: the user's rating, on whatever scale the source has.
        label: a category the user chose (a tag, a verdict), never one given by others.
        at: when, in seconds since 1970-01-01 UTC.
        facet: a declared facet (shelf, subreddit, project); overrides the learnt one.
        thread: the conversation this belongs to.
        source: file or system the row came from.
    """

    user: str
    input: str = ""
    response: str = ""
    item: str | None = None
    rating: float | None = None
    label: str | None = None
    at: float | None = None
    facet: str | None = None
    thread: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    id: str = ""

    @property
    def input_text(self) -> str:
        """The text that facets are read from."""
        return self.input or self.response

    @property
    def response_text(self) -> str:
        """The text that the persona is read from."""
        return self.response or self.input

    @property
    def is_single_text(self) -> bool:
        """True where one text serves as input and response."""
        return not (self.input and self.response)


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What became of one row of a batch.

    Attributes:
        index: place in the batch or file, from 0.
        line: line in the source file, from 1, where there is one.
        reason: why it was rejected; empty otherwise.
        field: the field at fault, where one is.
    """

    index: int
    status: Status
    id: str = ""
    reason: str = ""
    field: str | None = None
    source: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Consent:
    """What one user allows, by purpose. The defaults are the deployment's defaults too.

    Attributes:
        remember: keep my history. Off: nothing is stored, the request's text is all there is.
        learn: complete me from others. Off: own history and the unpersonalised prior only.
        lend: what others may get from me: nothing, statistics, or whole items as text.
        train: my text may train soft prompts or a model.
    """

    remember: bool = True
    learn: bool = True
    lend: Lend = "aggregate"
    train: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """One request to be personalised.

    Attributes:
        text: what the request is about; the only thing facets are routed by.
        instruction: what the language model is to do with it; empty means answer `text`.
        at: time of the request; evidence must not be newer. None means now.
        item: the item the request is about; evidence on the same item is tagged.
    """

    user: str
    text: str
    instruction: str = ""
    at: float | None = None
    item: str | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """A user chosen to stand in for one facet of another, under a pseudonym for that borrower.

    Attributes:
        pseudonym: differs for every borrower; never the user id.
        facet: facet number.
        alignment: how well this peer may stand in, in [0, 1].
        weight: share in what was borrowed; weights of one facet sum to 1.
    """

    pseudonym: str
    facet: int
    alignment: float
    weight: float


@dataclass(frozen=True, slots=True)
class Tendency:
    """One readable statement about how a user answers, in one facet.

    Attributes:
        view: `style`, `rating`, `label` or `words`.
        name: what is measured (`length`, `exclamation marks`, a word …).
        value: in standard deviations of the facet, or rating points, or a share.
        contributors: how many other users stand behind it; 0 where it is the user's own.
        statement: the hedged sentence for a prompt.
    """

    view: str
    name: str
    value: float
    contributors: int
    statement: str


@dataclass(frozen=True, slots=True)
class FacetProfile:
    """What one user's own history shows in one facet.

    Attributes:
        support: effective number of own interactions, ≥ 0.
        confidence: weight own evidence gets against the prior, in [0, 1).
    """

    facet: int
    name: str
    support: float
    confidence: float
    tendencies: tuple[Tendency, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """What one user's **own** history shows, facet by facet."""

    user: str
    facets: tuple[FacetProfile, ...]
    n_interactions: int


@dataclass(frozen=True, slots=True)
class FacetPersona:
    """One facet of a completed profile.

    Attributes:
        own_confidence: before completion, in [0, 1).
        confidence: after completion, in [0, 1); equals `own_confidence` where abstained.
        n_contributors: users behind what was borrowed; 0 where abstained.
        agreement: mean alignment of those contributors, in [0, 1].
        abstained: why nothing was borrowed; empty where something was.
    """

    facet: int
    name: str
    support: float
    own_confidence: float
    confidence: float
    n_contributors: int
    agreement: float
    abstained: str
    tendencies: tuple[Tendency, ...] = ()


@dataclass(frozen=True, slots=True)
class Persona:
    """A profile **completed** by peers, with its uncertainty and what it rests on.

    Attributes:
        instructions: what the user said outright; outranks everything inferred.
        mode: what others may add: `own` where the user does not learn from them at all, `text`
            where their items may be quoted, else `aggregate`, statistics alone.
        state: version of the fitted state that was used.
    """

    user: str
    facets: tuple[FacetPersona, ...]
    instructions: tuple[str, ...]
    n_interactions: int
    mode: str
    state: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """One interaction found for a query, with whose it is and why it was chosen.

    Attributes:
        author: `you` for the user's own, else a pseudonym for this borrower.
        score_parts: the terms of the score by name; their sum is `score`.
        same_item: True where it is about the item the query asks about.
    """

    origin: Origin
    author: str
    interaction_id: str
    input: str
    response: str
    facet: int
    score: float
    score_parts: Mapping[str, float]
    same_item: bool = False
    rating: float | None = None
    label: str | None = None
    at: float | None = None


@dataclass(frozen=True, slots=True)
class ContextPart:
    """One block of a context: its text, its size, where it came from and why it is there.

    Attributes:
        kind: `instructions`, `own`, `tendencies`, `borrowed`, `peers` or `population`.
        tokens: size in the budget's tokens.
        reason: one sentence for `explain`.
    """

    kind: str
    text: str
    tokens: int
    sources: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Branches:
    """Which of the two branches may speak in an answer.

    Attributes:
        text: non-parametric: examples of the user's own, of peers and of the population.
        graph: parametric: tendencies, own and completed, as text and as soft prompt, and the
            choice among several answers.
    """

    text: bool = True
    graph: bool = True

    @classmethod
    def named(cls, names: str) -> Branches:
        """Those of `text,graph`, `text`, `graph` or `none`.

        Raises:
            ConfigError: another name.
        """
        found = {name.strip() for name in names.split(",")} - {"", "none"}
        if found - {"text", "graph"} or not names.strip():
            raise ConfigError(f"no branches are called {names!r}; known: text, graph, none")
        return cls("text" in found, "graph" in found)

    def __str__(self) -> str:
        return ",".join(name for name in ("text", "graph") if getattr(self, name)) or "none"


BOTH = Branches()


@dataclass(frozen=True, slots=True)
class Context:
    """The bounded text that goes to the language model for one query, and what it rests on.

    Attributes:
        messages: chat messages with `role` and `content`, ready to be sent.
        tokens: size of all parts together; never above the budget.
        warnings: what was left out or degraded (nothing fitted, model too small …).
        branches: those that might speak.
        soft: soft prompt, for the one local model it was trained for; None where there is none.
        choice: what the gate let in, by name; empty where none was asked.

    Shapes:
        soft (n_tokens, width of the language model) float32
    """

    query: Query
    messages: tuple[Mapping[str, str], ...]
    parts: tuple[ContextPart, ...]
    evidence: tuple[Evidence, ...]
    tokens: int
    budget_tokens: int
    is_personalised: bool
    trace_id: str = ""
    warnings: tuple[str, ...] = ()
    branches: Branches = BOTH
    soft: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    choice: str = ""


@dataclass(frozen=True, slots=True)
class VoteShare:
    """How likely one label or rating is, and by whose votes.

    Attributes:
        value: the label, or the rating.
        share: in [0, 1]; the sum of the next three.
        own: what the user's own interactions put into it; negative where they speak against it.
        borrowed: what peers put into it; likewise.
        prior: what anybody's would be.
        contributors: peers behind `borrowed`; none, or at least `min_donors`.
    """

    value: str | float
    share: float
    own: float
    borrowed: float
    prior: float
    contributors: int


@dataclass(frozen=True, slots=True)
class Vote:
    """How a user would label and rate something, without any language model.

    Attributes:
        labels: likeliest first; shares sum to 1. Empty where nobody who may vote gave a label.
        ratings: every rating that was seen, lowest first; empty likewise.
        expected_rating: their mean, the guess of least squared error.
        median_rating: the guess of least absolute error.
        n_own: own interactions that voted.
        worth: weight of all peers together, in [0, 1]; 0 where nothing is borrowed.
        state: version of the fitted state that was used.
    """

    user: str
    labels: tuple[VoteShare, ...]
    ratings: tuple[VoteShare, ...]
    expected_rating: float | None
    median_rating: float | None
    n_own: int
    worth: float
    state: str
