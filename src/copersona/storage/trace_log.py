"""Traces: what was done for one request, kept for `explain`, and never longer than the words in it.

A trace belongs to a user and may quote others; it goes when any of them goes. Only the newest of a
namespace are kept. This module does not know what is in a trace.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from copersona.errors import UnknownUserError
from copersona.storage.database import Scope, among, chunks
from copersona.storage.schema import (
    dump_json,
    id_hash,
    interactions,
    trace_items,
    trace_quotes,
    traces,
    users,
)

MAX_TRACES = 10_000

# Built once, since every request runs them.
_OF_NAMESPACE: sa.BindParameter[int] = sa.bindparam("namespace")
_WRITE = sa.insert(traces).returning(traces.c.seq)
_NEWEST_SURPLUS = (
    sa.select(traces.c.seq)
    .where(traces.c.namespace_id == _OF_NAMESPACE)
    .order_by(traces.c.seq.desc())
    .offset(sa.bindparam("most"))
    .limit(1)
)
_NOTE_SHOWN = sa.insert(trace_items).from_select(
    ["trace_seq", "interaction_seq"],
    among(
        sa.select(sa.bindparam("trace", type_=sa.Integer), interactions.c.seq).where(
            interactions.c.namespace_id == _OF_NAMESPACE
        ),
        interactions.c.id_hash,
    ),
)


def write(
    scope: Scope,
    user_id: int,
    quoted_ids: Iterable[int],
    trace_id: str,
    payload: Mapping[str, Any],
) -> int:
    """Keep a trace, and let go of the oldest one beyond the cap; gives back its number."""
    row = {"namespace_id": scope.id, "user_id": user_id, "trace_id": trace_id,
           "payload": dump_json(payload)}  # fmt: skip
    seq: int = scope.connection.execute(_WRITE, row).scalar_one()
    quotes = [{"trace_seq": seq, "user_id": quoted_id} for quoted_id in quoted_ids]
    if quotes:
        scope.connection.execute(sa.insert(trace_quotes), quotes)
    _drop_oldest(scope)
    return seq


def write_items(scope: Scope, trace_seq: int, interaction_ids: Iterable[str]) -> None:
    """Note which interactions a trace shows, of those that are still there."""
    for part in chunks({id_hash(one) for one in interaction_ids}):
        asked = {"chosen": part, "namespace": scope.id, "trace": trace_seq}
        scope.connection.execute(_NOTE_SHOWN, asked)


def read(scope: Scope, trace_id: str) -> tuple[str, dict[str, Any]]:
    """The user it belongs to, and what was kept.

    Raises:
        UnknownUserError: no such trace in this namespace.
    """
    query = sa.select(users.c.name, traces.c.payload).join_from(traces, users)
    query = query.where(traces.c.namespace_id == scope.id, traces.c.trace_id == trace_id)
    row = scope.connection.execute(query).one_or_none()
    if row is None:
        raise UnknownUserError("no such trace")
    return row.name, json.loads(row.payload)


def of_user(scope: Scope, user_id: int) -> dict[str, dict[str, Any]]:
    """The traces of one user by id, oldest first."""
    query = sa.select(traces.c.trace_id, traces.c.payload).where(traces.c.user_id == user_id)
    found = scope.connection.execute(query.order_by(traces.c.seq))
    return {row.trace_id: json.loads(row.payload) for row in found}


def _drop_oldest(scope: Scope) -> None:
    asked = {"namespace": scope.id, "most": MAX_TRACES}
    newest_surplus = scope.connection.scalar(_NEWEST_SURPLUS, asked)
    if newest_surplus is not None:
        of_namespace = traces.c.namespace_id == scope.id
        surplus = sa.delete(traces).where(of_namespace, traces.c.seq <= newest_surplus)
        scope.connection.execute(surplus)
