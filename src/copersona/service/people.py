"""Routes by which one person is known under several ids, and says what an answer was worth.

To make an id an alias is to say whose words it will be, so that only administrators may; users see
their own aliases.
"""

from __future__ import annotations

from fastapi import APIRouter

from copersona.service.answers import AliasesAnswer, FeedbackAnswer, MergedAnswer
from copersona.service.parameters import Asker, PathAlias, PathUser
from copersona.service.requests import MergeRequest, NewAlias, NewFeedback

router = APIRouter(tags=["people"])


@router.get("/users/{user}/aliases")
def aliases(user: PathUser, access: Asker) -> AliasesAnswer:
    """The ids that stand for a user."""
    engine = access.to([user], "aliases", "read")
    return AliasesAnswer(user=engine.name(user), aliases=list(engine.aliases(user)))


@router.post("/users/{user}/aliases", status_code=204)
def alias(user: PathUser, body: NewAlias, access: Asker) -> None:
    """Let another id stand for a user from now on; for administrators.

    Tokens that were made for that id open nothing any more. Somebody who said or decided something
    is no alias: merge them.
    """
    access.to([user, body.alias], "alias", "admin").alias(user, body.alias)


@router.delete("/users/{user}/aliases/{alias}", status_code=204)
def unalias(user: PathUser, alias: PathAlias, access: Asker) -> None:
    """Let an alias stand for nobody; what was said under it stays the user's.

    For administrators.
    """
    access.to([user, alias], "unalias", "admin").unalias(user, alias)


@router.post("/users/{user}/merge")
def merge(user: PathUser, body: MergeRequest, access: Asker) -> MergedAnswer:
    """Make two users one, for administrators; the stricter of both consents holds.

    The other id becomes an alias, and its tokens open nothing any more. Nobody borrows from the
    other's old row in the fitted state from now on; the next fit sees one user.
    """
    engine = access.to([user, body.other], "merge", "admin")
    return MergedAnswer.model_validate(engine.merge(user, body.other))


@router.post("/feedback")
def feedback(body: NewFeedback, access: Asker) -> FeedbackAnswer:
    """Say what the answer to a past request was worth; a later word takes the place of this one.

    An accepted or edited text is stored as the user's own words. Examples that were shown for
    accepted answers go up for this user, and down for rejected ones, within a bound.
    """
    engine = access.to_trace(body.trace_id, "feedback", "write")
    stored = engine.feedback(
        body.trace_id, body.verdict, answer=body.answer, edited=body.edited, note=body.note
    )
    return FeedbackAnswer(trace_id=body.trace_id, verdict=body.verdict, stored=stored)
