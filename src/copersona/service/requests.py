"""What may be asked over HTTP: request bodies, checked before anything is done with them.

Field names are those of the records. An unknown field is refused, since a misspelt one would
otherwise be lost without a word. In a batch a wrong row is an outcome, and never stops the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)

from copersona.errors import DataError
from copersona.interactions import ID_CHARACTERS, check, parse_time
from copersona.records import Interaction, Lend, RowOutcome, Verdict
from copersona.service.problems import reason

MAX_ROWS = 1_000
MAX_BUDGET_TOKENS = 100_000


def checked_user(user: str) -> str:
    """The id, if a user can be called that.

    Raises:
        DataError: nobody can.
    """
    return check(Interaction(user=user, response="-")).user


def is_user(name: str) -> bool:
    """Whether a user can be called that."""
    try:
        checked_user(name)
    except DataError:
        return False
    return True


def checked_text(text: str) -> str:
    """The text, if it is one that can be asked about.

    Raises:
        DataError: it is none.
    """
    return check(Interaction(user="-", response=text)).response


def _checked_instruction(text: str) -> str:
    return checked_text(text) if text else text


User = Annotated[str, AfterValidator(checked_user), Field(examples=["ana"])]
Text = Annotated[str, AfterValidator(checked_text)]
OptionalText = Annotated[str, AfterValidator(_checked_instruction)]


class Body(BaseModel):
    """A request body: nothing unknown in it, nothing turned into another type."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class NewInteraction(Body):
    """One thing a user said, and what it was an answer to; at least one of the two texts."""

    user: str = Field(examples=["ana"])
    """Who said it."""
    input: str = Field("", examples=["How did the sourdough turn out?"])
    """What the user was answering or looking at."""
    response: str = Field("", examples=["78 % hydration. 240 °C."])
    """What the user wrote or chose; in chats always the user's own message, never a model's."""
    item: str | None = None
    """The product, film, paper … that was answered."""
    rating: float | None = Field(None, examples=[5])
    """The user's rating, on whatever scale there is."""
    label: str | None = None
    """A category the user chose."""
    at: Annotated[float | None, BeforeValidator(parse_time)] = Field(
        None, examples=["2026-05-31T12:00:00Z"],
        json_schema_extra={"anyOf": [{"type": one} for one in ("number", "string", "null")]},
    )  # fmt: skip
    """When: seconds since 1970-01-01 UTC, or a date as text."""
    facet: str | None = None
    """A theme the user put it under (shelf, forum, project)."""
    thread: str | None = None
    """The conversation it belongs to."""
    metadata: dict[str, Any] = {}
    """Anything else, as JSON; kept and handed back, not learnt from."""
    source: str | None = None
    """Where it comes from."""
    id: str = ""
    """Idempotency key: the same id is stored once. A hash of what was said where left out."""


def _row(value: Any) -> Interaction | RowOutcome:
    try:
        return Interaction(**dict(NewInteraction.model_validate(value)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or None
        return RowOutcome(0, "rejected", reason=reason(first), field=field)


class NewInteractions(Body):
    """A batch of interactions."""

    interactions: list[
        Annotated[Any, PlainValidator(_row, json_schema_input_type=NewInteraction)]
    ] = Field(max_length=MAX_ROWS)
    """Up to 1,000, stored in one transaction; each gets an outcome of its own."""

    @property
    def rows(self) -> list[Interaction | RowOutcome]:
        """What may be stored, and the outcomes of what cannot."""
        return self.interactions


def with_own_ids(row: Interaction) -> Interaction:
    """The row with an id that only its user can have.

    Ids are shared by all of a namespace: to the holder of a token, who gives one, the outcome
    `duplicate` would tell that somebody else has it.
    """
    if not row.id:
        return row
    # The length in front, so that no two pairs are joined to the same text.
    joined = f"{len(row.user)}:{row.user}{row.id}".encode("utf-8", "surrogatepass")
    return replace(row, id=hashlib.sha256(joined).hexdigest()[:ID_CHARACTERS])


class ConsentChange(Body):
    """What a user allows from now on; what is left out stays as it is."""

    remember: bool | None = None
    """Keep my history. `false` erases it at once."""
    learn: bool | None = None
    """Complete me from others."""
    lend: Lend | None = Field(None, examples=["aggregate"])
    """What others may get from me. `text`: whole items may be quoted to another user's language
    model, and so to whoever runs it."""
    train: bool | None = None
    """My text may train soft prompts or a model."""

    @property
    def changes(self) -> Mapping[str, bool | str]:
        """What is to change, by purpose.

        Raises:
            DataError: nothing is.
        """
        found = self.model_dump(exclude_none=True)
        if not found:
            raise DataError("nothing to change; name remember, learn, lend or train")
        return found


class NewInstruction(Body):
    """What a user says outright about how to be answered."""

    text: Text = Field(examples=["Always metric units."])
    """Kept as it is; outranks everything inferred."""


class NewAlias(Body):
    """Another id under which a user writes."""

    alias: User = Field(examples=["ana-phone"])
    """The id; nobody who said or decided something, and nobody who was forgotten."""


class MergeRequest(Body):
    """Who turns out to be the same person."""

    other: User = Field(alias="from", examples=["ana-tablet"])
    """Whose history moves; the id becomes an alias."""


class NewFeedback(Body):
    """What a user says of an answer."""

    trace_id: str = Field(examples=["8c1f0e3f6c0c9f1f"])
    """As it came with the context."""
    verdict: Verdict
    """`edit` says what the answer should have been, and nothing of the examples."""
    answer: OptionalText = ""
    """With `accept`: the answer; it becomes the user's own words."""
    edited: OptionalText = ""
    """With `edit`: what the user made of the answer; it becomes the user's own words."""
    note: OptionalText = ""
    """Why; kept and handed back, not learnt from."""


class TrainOptions(Body):
    """What is trained, and for how long; see `copersona train`."""

    graph: bool = False
    """Graph reasoning."""
    soft_prompt: bool = False
    """Soft prompts for a local language model."""
    gate: bool = False
    """What decides what may enter a context, with the same."""
    steps: int | None = Field(None, ge=1, le=1_000)
    """Most steps of training soft prompts."""
    device: str = "cpu"
    """`cpu`, or `cuda` where there is one."""


class NewJob(Body):
    """Work that is done beside requests."""

    kind: Literal["fit", "train"] = Field(examples=["fit"])
    """`fit` learns anew from all who lend; `train` adds parts to the state in force."""
    options: TrainOptions = TrainOptions()
    """What is trained; a fit has no options."""

    @property
    def asked(self) -> dict[str, Any]:
        """The options as they are stored.

        Raises:
            DataError: there are some of a fit.
        """
        if self.kind == "train":
            return self.options.model_dump()
        if self.options != TrainOptions():
            raise DataError("a fit has no options", field="options")
        return {}


BranchNames = Literal["text,graph", "text", "graph", "none"]


class VoteRequest(Body):
    """Something that a user might label and rate."""

    user: User
    """Whose vote is wanted."""
    text: Text = Field(examples=["A kettle for two"])
    """What describes it."""
    item: str | None = None
    """Its id, where others may have answered it."""
    branches: BranchNames = "text,graph"
    """Which branches may speak."""


class ContextRequest(VoteRequest):
    """A request that is to be personalised before it goes to a language model."""

    user: User
    """Who asks."""
    text: Text = Field(examples=["Plan two days in Porto"])
    """What the request is about."""
    instruction: OptionalText = ""
    """What the language model is to do with the text; empty means to answer it."""
    item: str | None = None
    """The item the request is about."""
    budget_tokens: int | None = Field(None, ge=1, le=MAX_BUDGET_TOKENS)
    """Most tokens that may be added to the request; 1,500 where left out."""
