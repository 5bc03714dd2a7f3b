"""Removing people's words: interactions, and with them whatever was derived from them in the store.

Every way of removing (one interaction, by age, by consent, a whole user) goes through
`erase_interactions`, so that an embedding or a trace never outlives the words it came from. This
module decides nothing: who may have what removed, and the tombstone, are the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from copersona.storage import embedding_cache
from copersona.storage.database import Scope, chunks
from copersona.storage.schema import (
    instructions,
    interactions,
    trace_quotes,
    traces,
    user_states,
    users,
)


@dataclass(frozen=True, slots=True)
class ForgetCounts:
    """How many rows went when a user was forgotten.

    Attributes:
        consents: 1 where the user had said what they allow.
        traces: of the user, and of others that quoted the user.
        embeddings: of texts nobody else in the namespace has.
        is_scrubbed: False where a reader, or a server, still keeps the bytes of the old state;
            `Store.scrub` tries again.
    """

    interactions: int = 0
    instructions: int = 0
    consents: int = 0
    traces: int = 0
    embeddings: int = 0
    is_scrubbed: bool = False


def erase_interactions(scope: Scope, condition: sa.ColumnElement[bool]) -> ForgetCounts:
    """Remove interactions of this namespace, their embeddings, their users' traces.

    The condition names rows or users, which belong to one namespace: naming the namespace as well
    would lead SQLite to look through all of it.
    """
    connection = scope.connection
    fields = (interactions.c.user_id, interactions.c.input_hash, interactions.c.response_hash)
    owners: set[int] = set()
    hashes: set[bytes] = set()
    for user_id, input_hash, response_hash in connection.execute(
        sa.select(*fields).where(condition)
    ):
        owners.add(user_id)
        hashes.update((input_hash, response_hash))
    return ForgetCounts(
        interactions=connection.execute(sa.delete(interactions).where(condition)).rowcount,
        traces=erase_traces(scope, owners),
        embeddings=embedding_cache.sweep(scope, hashes),
    )


def erase_traces(scope: Scope, user_ids: Iterable[int]) -> int:
    """Remove the traces of these users, and those that quote them."""
    erased = 0
    for part in chunks(user_ids):
        quoting = sa.select(trace_quotes.c.trace_seq).where(trace_quotes.c.user_id.in_(part))
        condition = traces.c.user_id.in_(part) | traces.c.seq.in_(quoting)
        erased += scope.connection.execute(sa.delete(traces).where(condition)).rowcount
    return erased


def erase_history(scope: Scope, user_id: int) -> ForgetCounts:
    """Remove all a user ever said: interactions, instructions, traces, embeddings."""
    counts = erase_interactions(scope, interactions.c.user_id == user_id)
    said = sa.delete(instructions).where(instructions.c.user_id == user_id)
    return ForgetCounts(
        interactions=counts.interactions,
        instructions=scope.connection.execute(said).rowcount,
        traces=counts.traces + erase_traces(scope, [user_id]),
        embeddings=counts.embeddings,
    )


def erase_user(scope: Scope, user_id: int) -> ForgetCounts:
    """Remove a user with everything that is theirs."""
    connection = scope.connection
    counts = erase_history(scope, user_id)
    chosen = sa.select(sa.func.count()).select_from(user_states)
    chosen = chosen.where(user_states.c.user_id == user_id, user_states.c.remember.is_not(None))
    consents = connection.scalar(chosen) or 0
    connection.execute(sa.delete(user_states).where(user_states.c.user_id == user_id))
    connection.execute(sa.delete(users).where(users.c.id == user_id))
    return ForgetCounts(
        interactions=counts.interactions,
        instructions=counts.instructions,
        consents=consents,
        traces=counts.traces,
        embeddings=counts.embeddings,
    )
