"""Routes by which something is asked: persona, context, vote, and why a context was as it was."""

from __future__ import annotations

from fastapi import APIRouter

from copersona.answering.prompting import request_text
from copersona.errors import NotFittedError
from copersona.records import Branches, Context, Query
from copersona.service.answers import (
    ContextAnswer,
    ExplanationAnswer,
    MessageAnswer,
    PersonaAnswer,
    VoteAnswer,
)
from copersona.service.parameters import Asker, Noting, PathTrace, PathUser
from copersona.service.requests import ContextRequest, VoteRequest

router = APIRouter(tags=["asking"])


@router.get("/users/{user}")
def persona(user: PathUser, access: Asker) -> PersonaAnswer:
    """What is known of a user, and what of it is borrowed."""
    return PersonaAnswer.model_validate(access.to([user], "persona", "read").persona(user))


@router.post("/context")
def context(body: ContextRequest, access: Asker, notes: Noting) -> ContextAnswer:
    """The personalised messages of one request; no language model is called.

    Where nothing is fitted yet, the request comes back as it is, and marked so.
    """
    engine = access.to([body.user], "context", "read")
    branches = Branches.named(body.branches)
    with notes.step("context"):
        try:
            found = engine.prompt(
                body.user, body.text, instruction=body.instruction, item=body.item,
                budget_tokens=body.budget_tokens, branches=branches,
            )  # fmt: skip
        except NotFittedError as error:
            found = _unpersonalised(body, branches, str(error))
    notes.context(engine.namespace, found.trace_id, is_personalised=found.is_personalised)
    return ContextAnswer(
        messages=[MessageAnswer(**message) for message in found.messages],
        branches=str(found.branches),
        **{name: getattr(found, name) for name in _AS_THEY_ARE},
    )


_AS_THEY_ARE = tuple(ContextAnswer.model_fields.keys() - {"messages", "branches"})


def _unpersonalised(body: ContextRequest, branches: Branches, why: str) -> Context:
    query = Query(body.user, body.text, body.instruction)
    message = {"role": "user", "content": request_text(query)}
    return Context(
        query, (message,), (), (), 0, 0, is_personalised=False, warnings=(why,), branches=branches
    )


@router.post("/vote")
def vote(body: VoteRequest, access: Asker) -> VoteAnswer:
    """How a user would label and rate something; no language model is called."""
    engine = access.to([body.user], "vote", "read")
    branches = Branches.named(body.branches)
    return VoteAnswer.model_validate(
        engine.vote(body.user, body.text, item=body.item, branches=branches)
    )


@router.get("/explain/{trace_id}")
def explain(trace_id: PathTrace, access: Asker) -> ExplanationAnswer:
    """Why the context of a past request was as it was."""
    found = access.to_trace(trace_id, "explain", "read").explain(trace_id)
    return ExplanationAnswer(trace_id=trace_id, said=found.lines(), detail=found.detail)
