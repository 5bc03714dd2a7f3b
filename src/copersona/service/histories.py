"""Routes by which users say and decide: interactions in, instructions, consent, export, erasure."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from fastapi import APIRouter, Query

from copersona.records import Interaction
from copersona.service.answers import (
    ConsentAnswer,
    ExportAnswer,
    Outcome,
    Outcomes,
    ReceiptAnswer,
)
from copersona.service.parameters import Asker, Noting, PathUser
from copersona.service.requests import (
    ConsentChange,
    NewInstruction,
    NewInteractions,
    with_own_ids,
)

router = APIRouter(tags=["histories"])


@router.post("/interactions")
def add_interactions(body: NewInteractions, access: Asker, notes: Noting) -> Outcomes:
    """Store interactions; one outcome for each, in order.

    What is `stored` is durable, and is in the user's next context. Ids are idempotency keys of the
    whole namespace; those that the holder of a token for one user gives are that user's own, and
    are stored as a hash.
    """
    rows = body.rows
    users = dict.fromkeys(row.user for row in rows if isinstance(row, Interaction))
    engine = access.to(list(users), "add", "write")
    if access.is_for_one_user:
        rows = [with_own_ids(row) if isinstance(row, Interaction) else row for row in rows]
    found = engine.add(rows)
    counts = Counter(one.status for one in found)
    notes.interactions(engine.namespace, counts)
    # A rejected id may be anything, and has no use.
    named = [one if one.status != "rejected" else replace(one, id="") for one in found]
    return Outcomes(
        stored=counts["stored"], duplicates=counts["duplicate"], rejected=counts["rejected"],
        outcomes=[Outcome.model_validate(one) for one in named],
    )  # fmt: skip


@router.get("/users/{user}/export")
def export_user(user: PathUser, access: Asker) -> ExportAnswer:
    """Everything that is stored of one user; for administrators, and users themselves."""
    engine = access.to([user], "export", "admin", by_self="read")
    return ExportAnswer.model_validate(engine.export_user(user))


@router.delete("/users/{user}")
def forget_user(
    user: PathUser,
    access: Asker,
    strict: bool = Query(
        False, description="Serve nothing that was trained on the user until it is trained anew."
    ),
) -> ReceiptAnswer:
    """Erase a user everywhere, at once, and say what an independent scan still finds.

    For administrators, and users themselves, whose tokens go with them. Nothing of the user is
    taken in any more.
    """
    engine = access.to([user], "forget", "admin", by_self="write")
    return ReceiptAnswer.of(engine.forget(user, strict=strict))


@router.get("/users/{user}/consent")
def consent(user: PathUser, access: Asker) -> ConsentAnswer:
    """What a user allows."""
    engine = access.to([user], "consent", "read")
    return ConsentAnswer.model_validate(engine.consent(user))


@router.patch("/users/{user}/consent")
def set_consent(user: PathUser, body: ConsentChange, access: Asker) -> ConsentAnswer:
    """Change what a user allows; acts on the very next request."""
    engine = access.to([user], "set consent", "write")
    return ConsentAnswer.model_validate(engine.set_consent(user, **body.changes))


@router.post("/users/{user}/instructions", status_code=204)
def instruct(user: PathUser, body: NewInstruction, access: Asker) -> None:
    """Keep what a user says outright; it outranks everything inferred."""
    access.to([user], "instruct", "write").instruct(user, body.text)
