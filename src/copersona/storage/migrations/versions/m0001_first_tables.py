"""First tables: users and what they say, allow and are remembered by.

Revision: 0001, the first.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Take this step."""
    _create_roots()
    _create_users()
    _create_interactions()
    _create_embeddings()
    _create_traces()


def _key(name: str, **options: Any) -> sa.Column[int]:
    return sa.Column(name, _KEY, nullable=False, **options)


def _owner(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_{column}"
    return sa.ForeignKeyConstraint([column], [target], name=name, ondelete="CASCADE")


def _create_roots() -> None:
    op.create_table(
        "store_keys",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_store_keys"),
    )
    op.create_table(
        "namespaces",
        _key("id"),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_namespaces"),
        sa.UniqueConstraint("name", name="uq_namespaces_name"),
    )
    op.create_table(
        "tombstones",
        sa.Column("mark", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("mark", name="pk_tombstones"),
    )


def _create_users() -> None:
    op.create_table(
        "users",
        _key("id"),
        _key("namespace_id"),
        sa.Column("mark", sa.LargeBinary, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        _owner("users", "namespace_id", "namespaces.id"),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("mark", name="uq_users_mark"),
    )
    op.create_index("ix_users_namespace_id", "users", ["namespace_id"])
    op.create_table(
        "user_states",
        _key("user_id", autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("remember", sa.Boolean),
        sa.Column("learn", sa.Boolean),
        sa.Column("lend", sa.Text),
        sa.Column("train", sa.Boolean),
        _owner("user_states", "user_id", "users.id"),
        sa.PrimaryKeyConstraint("user_id", name="pk_user_states"),
    )
    op.create_table(
        "instructions",
        _key("seq"),
        _key("user_id"),
        sa.Column("text", sa.Text, nullable=False),
        _owner("instructions", "user_id", "users.id"),
        sa.PrimaryKeyConstraint("seq", name="pk_instructions"),
    )
    op.create_index("ix_instructions_user_id", "instructions", ["user_id"])


def _create_interactions() -> None:
    table = "interactions"
    op.create_table(
        table,
        _key("seq"),
        _key("namespace_id"),
        _key("user_id"),
        sa.Column("id_hash", sa.LargeBinary, nullable=False),
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
        sa.Column("input_hash", sa.LargeBinary, nullable=False),
        sa.Column("response_hash", sa.LargeBinary, nullable=False),
        _owner(table, "namespace_id", "namespaces.id"),
        _owner(table, "user_id", "users.id"),
        sa.PrimaryKeyConstraint("seq", name="pk_interactions"),
        sa.UniqueConstraint("namespace_id", "id_hash", name="uq_interactions_namespace_id_id_hash"),
    )
    for columns in (
        ["user_id", "at"],
        ["namespace_id", "input_hash"],
        ["namespace_id", "response_hash"],
    ):
        op.create_index(f"ix_interactions_{'_'.join(columns)}", table, columns)


def _create_embeddings() -> None:
    op.create_table(
        "embeddings",
        _key("namespace_id", autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("encoder", sa.Text, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        _owner("embeddings", "namespace_id", "namespaces.id"),
        sa.PrimaryKeyConstraint("namespace_id", "hash", "encoder", name="pk_embeddings"),
    )


def _create_traces() -> None:
    op.create_table(
        "traces",
        _key("seq"),
        _key("namespace_id"),
        _key("user_id"),
        sa.Column("trace_id", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        _owner("traces", "namespace_id", "namespaces.id"),
        _owner("traces", "user_id", "users.id"),
        sa.PrimaryKeyConstraint("seq", name="pk_traces"),
        sa.UniqueConstraint("namespace_id", "trace_id", name="uq_traces_namespace_id_trace_id"),
    )
    op.create_index("ix_traces_user_id", "traces", ["user_id"])
    op.create_index("ix_traces_namespace_id_seq", "traces", ["namespace_id", "seq"])
    op.create_table(
        "trace_quotes",
        _key("trace_seq", autoincrement=False),
        _key("user_id", autoincrement=False),
        _owner("trace_quotes", "trace_seq", "traces.seq"),
        _owner("trace_quotes", "user_id", "users.id"),
        sa.PrimaryKeyConstraint("trace_seq", "user_id", name="pk_trace_quotes"),
    )
    op.create_index("ix_trace_quotes_user_id", "trace_quotes", ["user_id"])
