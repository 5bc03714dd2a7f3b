"""What is answered over HTTP: response bodies, read off the records of the same names.

A body is written out field by field, so that a record can grow without the service saying more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from copersona.records import Lend, Status, Verdict
from copersona.storage.job_log import JobState


class Answer(BaseModel):
    """A response body."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class Outcome(Answer):
    """What became of one interaction of a batch."""

    index: int
    """Its place in the batch, from 0."""
    status: Status
    """`stored`: durable, and in the user's next context. `duplicate`: was there already."""
    id: str
    """Under which it is stored; empty where it was rejected."""
    reason: str
    """Why it was rejected; empty otherwise."""
    field: str | None
    """The field at fault, where one is."""


class Outcomes(Answer):
    """What became of a batch."""

    stored: int
    """How many were stored."""
    duplicates: int
    """How many were there already."""
    rejected: int
    """How many cannot be stored."""
    outcomes: list[Outcome]
    """One for each, in order."""


class TendencyAnswer(Answer):
    """One readable statement about how a user answers in one facet."""

    view: str
    """`style`, `rating`, `label` or `words`."""
    name: str
    """What is measured."""
    value: float
    """In standard deviations of the facet, or rating points, or a share."""
    contributors: int
    """How many other users stand behind it; 0 where it is the user's own."""
    statement: str
    """The same as a sentence."""


class FacetAnswer(Answer):
    """One facet of a persona, and what it rests on."""

    facet: int
    """Its number in the fitted state."""
    name: str
    """Words that many users use in it."""
    support: float
    """Effective number of the user's own interactions."""
    own_confidence: float
    """In [0, 1), from the user's own history alone."""
    confidence: float
    """In [0, 1), with what peers add."""
    n_contributors: int
    """Users behind what was borrowed; 0, or at least 3."""
    agreement: float
    """Mean alignment of these, in [0, 1]."""
    abstained: str
    """Why nothing was borrowed; empty where something was."""
    tendencies: list[TendencyAnswer]
    """What can be said in words."""


class PersonaAnswer(Answer):
    """What is known of a user: the own history, completed by peers.

    Of a user nobody knows, whoever else may know them: the population prior with confidence 0.
    """

    user: str
    """Who was asked about."""
    facets: list[FacetAnswer]
    """One for each facet of the fitted state."""
    instructions: list[str]
    """What the user said outright."""
    n_interactions: int
    """How many are stored."""
    mode: str
    """What others may add: `own` (nothing), `aggregate` (statistics) or `text` (quotes as well)."""
    state: str
    """Version of the fitted state."""


class ConsentAnswer(Answer):
    """What a user allows, by purpose."""

    remember: bool
    """Keep the history."""
    learn: bool
    """Complete the persona from others."""
    lend: Lend
    """What others may get: `no`, `aggregate` (statistics) or `text` (whole items)."""
    train: bool
    """Texts may train a model."""


class InteractionAnswer(Answer):
    """One interaction as it is stored."""

    id: str
    """Its idempotency key."""
    input: str
    """What was answered."""
    response: str
    """What the user wrote or chose."""
    item: str | None
    """The product, film, paper …"""
    rating: float | None
    """As given."""
    label: str | None
    """As given."""
    at: float | None
    """Seconds since 1970-01-01 UTC."""
    facet: str | None
    """As given."""
    thread: str | None
    """As given."""
    metadata: dict[str, Any]
    """As given."""
    source: str | None
    """As given."""


class UsageAnswer(Answer):
    """What chats took with one key, of one user, with one model, on one day."""

    key_id: str
    """The public id of the key."""
    user: str = Field("", validation_alias="mark", examples=["9d0c2be27b1f8a44"])
    """The user's mark, as the audit log has it; empty where none is kept."""
    model: str
    """As it was asked for."""
    day: str
    """In UTC, as `2026-05-31`."""
    requests: int
    """How many were answered."""
    estimated: int
    """Of how many of them the tokens are estimated, since the model did not say."""
    prompt_tokens: int
    """All that was sent."""
    completion_tokens: int
    """All that was answered."""
    added_tokens: int
    """What of the prompts personalisation added."""
    cost: float | None = None
    """In the currency of the price table; null where the model has no price."""

    @field_validator("user", mode="before")
    @classmethod
    def _shortened(cls, mark: bytes | None) -> str:
        return mark.hex()[:16] if mark else ""


class UsagesAnswer(Answer):
    """What chats took."""

    usage: list[UsageAnswer]
    """Oldest day first."""


class ExportAnswer(Answer):
    """Everything that is stored of one user."""

    user: str
    """Who."""
    consent: ConsentAnswer
    """What they allow."""
    instructions: list[str]
    """What they said outright."""
    interactions: list[InteractionAnswer]
    """Their history in time order."""
    traces: dict[str, dict[str, Any]]
    """What was kept of their requests, by trace id."""
    aliases: list[str]
    """Other ids that stand for them."""
    feedback: dict[str, dict[str, str]]
    """What they said of answers, by trace id."""
    usage: list[UsageAnswer]
    """What their chats took."""


class AliasesAnswer(Answer):
    """Ids that stand for a user."""

    user: str
    """Who."""
    aliases: list[str]
    """The ids, besides the user's own."""


class MergedAnswer(Answer):
    """What moved when a user was merged into another one."""

    user: str
    """Who has it now."""
    interactions: int
    """Interactions that moved."""
    instructions: int
    """Instructions that moved; what both said is kept once."""
    aliases: int
    """Aliases that moved; the old id comes on top."""
    traces: int
    """Traces that were dropped, of both."""
    consent: ConsentAnswer
    """What the user allows now: the stricter of both."""


class FeedbackAnswer(Answer):
    """What became of a verdict."""

    trace_id: str
    """On which request."""
    verdict: Verdict
    """As given."""
    stored: bool
    """Whether an accepted or edited text is an interaction now."""


class BackupAnswer(Answer):
    """A backup that may still hold a forgotten user."""

    id: str
    """As `copersona backups` shows it."""
    age_days: float
    """Since it was taken."""
    is_noted: bool
    """Whether the tombstone stands beside it, so that restoring it erases the user again."""


class ReceiptAnswer(Answer):
    """What a forgotten user left, and what is left of the user."""

    removed: dict[str, int]
    """Rows per kind."""
    state: str
    """The fitted state in force, rewritten without the user."""
    states_removed: list[str]
    """Fitted states that were deleted."""
    not_unlearnt: list[str]
    """Averages over everybody that the next fit replaces."""
    traces_found: list[str]
    """Names of files in which an independent scan still finds the user; empty when clean."""
    scanned: int
    """How many files it read."""
    searched: list[str]
    """What the scan looked at."""
    unsearched: list[str]
    """What no scan from here can look at."""
    backups: list[BackupAnswer]
    """Copies that may still hold the user."""

    @classmethod
    def of(cls, receipt: Any) -> ReceiptAnswer:
        """A receipt, without the folders of the machine."""
        answer = cls.model_validate(receipt)
        answer.traces_found = [Path(file).name for file in answer.traces_found]
        return answer


class MessageAnswer(Answer):
    """One chat message."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str
    """Its text."""


class PartAnswer(Answer):
    """One block of a context."""

    kind: str
    """`instructions`, `own`, `tendencies`, `borrowed`, `peers` or `population`."""
    text: str
    """What it says."""
    tokens: int
    """Its size."""
    sources: list[str]
    """Where it came from; peers under a pseudonym."""
    reason: str
    """Why it is there."""


class ContextAnswer(Answer):
    """What goes to the language model for one request, and what it rests on."""

    messages: list[MessageAnswer]
    """Ready for any chat model."""
    parts: list[PartAnswer]
    """What was added to the request; empty where nothing was."""
    tokens: int
    """Size of what was added; never above the budget."""
    budget_tokens: int
    """Most it might have been; 0 where nothing is fitted."""
    is_personalised: bool
    """False: the messages are the request as it came; `warnings` say why, where there is more."""
    trace_id: str
    """For `/v1/explain`; empty where nothing was kept of the request."""
    branches: str = Field(examples=["text,graph"])
    """Which branches might speak."""
    choice: str
    """What the gate let in; empty where none was asked."""
    warnings: list[str]
    """What was left out or is missing."""


class VoteShareAnswer(Answer):
    """How likely one label or rating is, and by whose votes."""

    value: str | float
    """The label, or the rating."""
    share: float
    """In [0, 1]; the sum of the next three."""
    own: float
    """What the user's own interactions put into it."""
    borrowed: float
    """What peers put into it."""
    prior: float
    """What anybody's would be."""
    contributors: int
    """Peers behind `borrowed`; 0, or at least 3."""


class VoteAnswer(Answer):
    """How a user would label and rate something, without any language model."""

    user: str
    """Whose vote it is."""
    labels: list[VoteShareAnswer]
    """Likeliest first."""
    ratings: list[VoteShareAnswer]
    """Lowest first."""
    expected_rating: float | None
    """Their mean."""
    median_rating: float | None
    """Their median."""
    n_own: int
    """Own interactions that voted."""
    worth: float
    """Weight of all peers together, in [0, 1]."""
    state: str
    """Version of the fitted state."""


class ExplanationAnswer(Answer):
    """Why a context was as it was."""

    trace_id: str
    """Of which request."""
    said: list[str]
    """As sentences."""
    detail: Mapping[str, Any]
    """The same as data: facets, sources, and what would go without each."""


class FitStatusAnswer(Answer):
    """What is fitted, as far as it is nobody's in particular."""

    is_fitted: bool
    """False: contexts are not personalised, and there is neither persona nor vote."""
    fitted_at: float | None
    """Seconds since 1970-01-01 UTC; nothing newer of other users is in it."""
    facets: list[str]
    """Names of its facets."""


class Health(Answer):
    """How the service is."""

    status: str = Field(examples=["ok"])
    """`ok`."""


class JobAnswer(Answer):
    """One job: what is to be done, how far it is, and what came of it."""

    id: str
    """For `/v1/jobs/{job_id}`."""
    kind: str
    """`fit` or `train`."""
    options: Mapping[str, Any]
    """As it was asked."""
    state: JobState
    """`waiting`, `running`, `done`, `failed` or `cancelled`."""
    stage: str
    """What is being done, or was last."""
    done: int
    """How much of it."""
    total: int
    """Of how much; 0 where nobody knows."""
    created_at: float
    """Seconds since 1970-01-01 UTC."""
    started_at: float | None
    """When it was last begun."""
    ended_at: float | None
    """When it was done, failed or cancelled."""
    attempts: int
    """How often it was begun; it is begun anew where its process ended."""
    result: Mapping[str, Any] | None
    """What came of it: the report of the fit, or of the training."""
    error: Mapping[str, str] | None
    """`class` and `message`, where it failed."""


class JobsAnswer(Answer):
    """Jobs of the namespace."""

    jobs: list[JobAnswer]
    """Newest first."""


class AuditLineAnswer(Answer):
    """One thing that was asked or done, or refused."""

    at: float
    """Seconds since 1970-01-01 UTC."""
    key_id: str
    """Of the key that was shown."""
    action: str
    """What was asked or done."""
    marks: list[str]
    """Marks of the users it was about; names are not kept."""
    is_allowed: bool
    """False where it was refused."""


class AuditAnswer(Answer):
    """Who asked or did what."""

    lines: list[AuditLineAnswer]
    """Newest first."""
