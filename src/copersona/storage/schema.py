"""The tables of the store, and how an interaction becomes a row and comes back.

One rule shapes them: **no index holds anyone's words**. Users, ids and texts are indexed by a hash
of fixed size, because a database moves index entries around and leaves stale copies in the unused
part of a page, where erasing does not reach; rows with words in them are only ever appended. Every
key contains the namespace, the keyed hash of a user (`user_mark`) included. This module opens no
connection and runs no query.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from copersona.errors import DataError
from copersona.interactions import check
from copersona.records import Interaction

HASH_BYTES = 16

# SQLite numbers rows itself only where the type is spelt INTEGER.
_Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class _Bytes(sa.LargeBinary):
    """Bytes as they are: both drivers take and give them, and wrapping each takes a microsecond."""

    def bind_processor(self, dialect: sa.Dialect) -> None:
        return None

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> None:
        return None


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _owner(name: str, target: str, **options: Any) -> sa.Column[int]:
    """A column that goes when the row it points to goes."""
    reference = sa.ForeignKey(target, ondelete="CASCADE")
    return sa.Column(name, _Key, reference, nullable=False, **options)


def _items_of(name: str, table: sa.Table) -> sa.Table:
    """Which interactions were shown as examples in each row of a table."""
    is_key: dict[str, Any] = {"primary_key": True, "autoincrement": False}
    return sa.Table(
        f"{name}_items",
        metadata,
        _owner(f"{name}_seq", f"{table.name}.seq", **is_key),
        _owner("interaction_seq", "interactions.seq", index=True, **is_key),
    )


store_keys = sa.Table(
    "store_keys",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", _Bytes, nullable=False),
)

namespaces = sa.Table(
    "namespaces",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    _owner("namespace_id", "namespaces.id", index=True),
    sa.Column("mark", _Bytes, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
)

# Apart from `users`, so that a row with a name in it never changes its size.
user_states = sa.Table(
    "user_states",
    metadata,
    _owner("user_id", "users.id", primary_key=True, autoincrement=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("remember", sa.Boolean),
    sa.Column("learn", sa.Boolean),
    sa.Column("lend", sa.Text),
    sa.Column("train", sa.Boolean),
)

# Other ids under which a user writes. Numbers never come back, so that the last one tells whether
# anything was joined since.
aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("seq", _Key, primary_key=True),
    _owner("user_id", "users.id", index=True),
    sa.Column("mark", _Bytes, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)

tombstones = sa.Table("tombstones", metadata, sa.Column("mark", _Bytes, primary_key=True))

interactions = sa.Table(
    "interactions",
    metadata,
    sa.Column("seq", _Key, primary_key=True),
    _owner("namespace_id", "namespaces.id"),
    _owner("user_id", "users.id"),
    sa.Column("id_hash", _Bytes, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("response", sa.Text, nullable=False),
    sa.Column("item", sa.Text),
    sa.Column("rating", sa.Double),
    sa.Column("label", sa.Text),
    sa.Column("at", sa.Double),
    sa.Column("facet", sa.Text),
    sa.Column("thread", sa.Text),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("source", sa.Text),
    sa.Column("input_hash", _Bytes, nullable=False),
    sa.Column("response_hash", _Bytes, nullable=False),
    sa.UniqueConstraint("namespace_id", "id_hash"),
    sa.Index(None, "user_id", "at"),
    sa.Index(None, "namespace_id", "input_hash"),
    sa.Index(None, "namespace_id", "response_hash"),
)

instructions = sa.Table(
    "instructions",
    metadata,
    sa.Column("seq", _Key, primary_key=True),
    _owner("user_id", "users.id", index=True),
    sa.Column("text", sa.Text, nullable=False),
)

embeddings = sa.Table(
    "embeddings",
    metadata,
    _owner("namespace_id", "namespaces.id", primary_key=True, autoincrement=False),
    sa.Column("hash", _Bytes, primary_key=True),
    sa.Column("encoder", sa.Text, primary_key=True),
    sa.Column("vector", _Bytes, nullable=False),
)

traces = sa.Table(
    "traces",
    metadata,
    sa.Column("seq", _Key, primary_key=True),
    _owner("namespace_id", "namespaces.id"),
    _owner("user_id", "users.id", index=True),
    sa.Column("trace_id", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.UniqueConstraint("namespace_id", "trace_id"),
    sa.Index(None, "namespace_id", "seq"),
)

# Whose words a trace quotes, besides those of the user it belongs to.
trace_quotes = sa.Table(
    "trace_quotes",
    metadata,
    _owner("trace_seq", "traces.seq", primary_key=True, autoincrement=False),
    _owner("user_id", "users.id", primary_key=True, autoincrement=False, index=True),
)

trace_items = _items_of("trace", traces)

# What users said of answers, and of which examples; a verdict outlives the trace it was given on.
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("seq", _Key, primary_key=True),
    _owner("user_id", "users.id"),
    sa.Column("trace_id", sa.Text, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.UniqueConstraint("user_id", "trace_id"),
)

feedback_items = _items_of("feedback", feedback)

# Keys of the HTTP service. A token for one user holds the mark of the user, never the name.
api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _owner("namespace_id", "namespaces.id", index=True),
    sa.Column("hash", _Bytes, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("mark", _Bytes, index=True),
    sa.Column("created_at", sa.Double, nullable=False),
)

# What chats through the gateway took: one row for each key, user, model and day. Without a user
# where none was named, or where nothing of them may be kept.
usage = sa.Table(
    "usage",
    metadata,
    sa.Column("seq", _Key, primary_key=True),
    _owner("namespace_id", "namespaces.id"),
    sa.Column("user_id", _Key, sa.ForeignKey("users.id", ondelete="CASCADE"), index=True),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("day", sa.Text, nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("estimated", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("added_tokens", sa.BigInteger, nullable=False),
    sa.Index(None, "namespace_id", "day"),
)

# What is done beside requests. Who works on a job writes under a claim of its own.
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _owner("namespace_id", "namespaces.id"),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("options", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("done", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("claim", sa.Text),
    sa.Column("heartbeat_at", sa.Double),
    sa.Index(None, "namespace_id", "created_at"),
    sa.Index(None, "state"),
)

# Who asked what of whom. Users are named by a part of their mark, also after they were forgotten.
audit_lines = sa.Table(
    "audit_lines",
    metadata,
    sa.Column("seq", _Key, primary_key=True),
    _owner("namespace_id", "namespaces.id"),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("is_allowed", sa.Boolean, nullable=False),
    sa.Index(None, "namespace_id", "at"),
    sa.Index(None, "at"),
)
audit_marks = sa.Table(
    "audit_marks",
    metadata,
    _owner("line_seq", "audit_lines.seq", primary_key=True, autoincrement=False),
    sa.Column("mark", sa.Text, primary_key=True, index=True),
)

# Who was forgotten and may still stand in a fitted state: forgetting goes on, or was cut off.
departures = sa.Table(
    "departures",
    metadata,
    sa.Column("mark", _Bytes, primary_key=True),
    _owner("namespace_id", "namespaces.id", index=True),
)

# Copies of the whole database, with all its namespaces, and where they were put.
backups = sa.Table(
    "backups",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("place", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

# Everything of an `Interaction` but its user, in the order `interaction_of` reads.
INTERACTION_FIELDS = (
    interactions.c.id,
    interactions.c.input,
    interactions.c.response,
    interactions.c.item,
    interactions.c.rating,
    interactions.c.label,
    interactions.c.at,
    interactions.c.facet,
    interactions.c.thread,
    interactions.c.metadata,
    interactions.c.source,
)

# Of one user: rows without a time first, then by time, then as they came in.
TIME_ORDER = (interactions.c.at.asc().nulls_first(), interactions.c.seq.asc())


def content_hash(text: str) -> bytes:
    """16 bytes that stand for a text; equal for texts that differ only in Unicode composition."""
    normal = text if text.isascii() else unicodedata.normalize("NFC", text)
    return _hash(normal)


def id_hash(interaction_id: str) -> bytes:
    """16 bytes that stand for an interaction's id, exactly as given."""
    return _hash(interaction_id)


def user_mark(key: bytes, namespace: str, user: str) -> bytes:
    """HMAC-SHA256 of a user within a namespace: all a tombstone keeps of them."""
    # The length in front, so that no two pairs are joined to the same bytes.
    return hmac.digest(
        key, f"{len(namespace)}:{namespace}{user}".encode("utf-8", "surrogatepass"), "sha256"
    )


def row_of(interaction: Interaction) -> dict[str, Any]:
    """The row of an interaction, without its namespace and user.

    Raises:
        DataError: it has no id, or does not pass `interactions.check`.
    """
    check(interaction)
    if not interaction.id:
        raise DataError("no id: fill it with `interactions.with_ids`", field="id")
    input_hash = content_hash(interaction.input_text)
    is_single = interaction.is_single_text
    return {
        "id_hash": id_hash(interaction.id),
        "id": interaction.id,
        "input": interaction.input,
        "response": interaction.response,
        "item": interaction.item,
        "rating": interaction.rating,
        "label": interaction.label,
        "at": interaction.at,
        "facet": interaction.facet,
        "thread": interaction.thread,
        "metadata": dump_json(interaction.metadata) if interaction.metadata else "{}",
        "source": interaction.source,
        "input_hash": input_hash,
        "response_hash": input_hash if is_single else content_hash(interaction.response_text),
    }


def interaction_of(user: str, row: Sequence[Any]) -> Interaction:
    """The interaction behind a row that begins with `INTERACTION_FIELDS`."""
    # fmt: off
    (id_, input_, response, item, rating, label, at, facet, thread, details, source) = row[:11]
    # fmt: on
    return Interaction(
        user=user,
        input=input_,
        response=response,
        item=item,
        rating=rating,
        label=label,
        at=at,
        facet=facet,
        thread=thread,
        metadata={} if details == "{}" else json.loads(details),
        source=source,
        id=id_,
    )


def dump_json(value: Mapping[str, Any]) -> str:
    """JSON text that reads back the same; other mappings than `dict` are taken as such."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=dict)


def _hash(text: str) -> bytes:
    # What is no valid Unicode is never stored, and is looked up like anything unknown.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:HASH_BYTES]
