"""What users said of the answers they got: verdicts on traces, and what they would have said.

A verdict belongs to the user of the trace; a later one on the same trace takes its place. The words
that come with it are an interaction like any other, told by its source. What a verdict changes is
the business of `answering.trust`.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from copersona.errors import UnknownUserError
from copersona.records import Interaction, Verdict
from copersona.storage import embedding_cache
from copersona.storage.database import Database, Scope
from copersona.storage.intake import Intake
from copersona.storage.schema import (
    feedback,
    feedback_items,
    id_hash,
    interactions,
    trace_items,
    trace_quotes,
    traces,
)
from copersona.storage.user_registry import UserRegistry, touch


@dataclass(frozen=True, slots=True)
class Given:
    """One verdict on one trace."""

    trace_id: str
    verdict: Verdict
    note: str


class FeedbackLog:
    """The verdicts of one database."""

    def __init__(self, database: Database, registry: UserRegistry) -> None:
        self._database, self._registry = database, registry

    def give(self, namespace: str, given: Given, words: Interaction) -> bool:
        """Keep a verdict, in the place of an earlier one on the same trace.

        Args:
            words: by the user of the trace, under the id that all words on this trace have; not
                stored where its response is empty.

        Returns whether the words are stored.

        Raises:
            UnknownUserError: no such trace.
        """
        with self._database.changing(namespace) as scope:
            query = sa.select(traces.c.seq, traces.c.user_id).where(
                traces.c.namespace_id == scope.id, traces.c.trace_id == given.trace_id
            )
            row = scope.connection.execute(query).one_or_none()
            if row is None:
                raise UnknownUserError("no such trace")
            is_erased = _take_back(scope, row.user_id, row.seq, words.id)
            self._note(scope, row.user_id, row.seq, given)
            intake = Intake(self._registry, scope)
            outcomes = intake.take([words]) if words.response else []
            touch(scope, [row.user_id])
        if is_erased:
            self._database.scrub()
        return any(outcome.status == "stored" for outcome in outcomes)

    def of(self, namespace: str, user: str) -> tuple[Given, ...]:
        """All verdicts of a user, in the order they were given."""
        fields = (feedback.c.trace_id, feedback.c.verdict, feedback.c.note)
        with self._database.viewing(namespace) as scope:
            query = sa.select(*fields).where(feedback.c.user_id == self._registry.find(scope, user))
            rows = scope.connection.execute(query.order_by(feedback.c.seq)).all()
        return tuple(Given(*row) for row in rows)

    def _note(self, scope: Scope, user_id: int, trace_seq: int, given: Given) -> None:
        same = (feedback.c.user_id == user_id) & (feedback.c.trace_id == given.trace_id)
        scope.connection.execute(sa.delete(feedback).where(same))
        insert = sa.insert(feedback).values(
            user_id=user_id, trace_id=given.trace_id, verdict=given.verdict, note=given.note
        )
        seq = scope.connection.scalar(insert.returning(feedback.c.seq))
        shown = sa.select(sa.literal(seq), trace_items.c.interaction_seq)
        shown = shown.where(trace_items.c.trace_seq == trace_seq)
        columns = ["feedback_seq", "interaction_seq"]
        scope.connection.execute(sa.insert(feedback_items).from_select(columns, shown))


def _take_back(scope: Scope, user_id: int, trace_seq: int, interaction_id: str) -> bool:
    """Erase the words of an earlier verdict on a trace; whether there were any.

    Only later traces of the user may show them, and others' that quote the user: they go too.
    """
    connection = scope.connection
    chosen = (interactions.c.user_id == user_id) & (
        interactions.c.id_hash == id_hash(interaction_id)
    )
    hashes = connection.execute(
        sa.select(interactions.c.input_hash, interactions.c.response_hash).where(chosen)
    ).all()
    if not hashes:
        return False
    connection.execute(sa.delete(interactions).where(chosen))
    quoting = sa.select(trace_quotes.c.trace_seq).where(trace_quotes.c.user_id == user_id)
    later = (traces.c.user_id == user_id) & (traces.c.seq > trace_seq)
    connection.execute(sa.delete(traces).where(later | traces.c.seq.in_(quoting)))
    embedding_cache.sweep(scope, {one for row in hashes for one in row})
    return True
