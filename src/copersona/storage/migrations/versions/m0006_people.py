"""Aliases of users, and feedback on answers.

Revision: 0006, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Take this step."""
    op.create_table(
        "aliases",
        sa.Column("seq", _KEY, nullable=False),
        sa.Column("user_id", _KEY, nullable=False),
        sa.Column("mark", sa.LargeBinary, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        _owner("aliases", "user_id", "users.id"),
        sa.PrimaryKeyConstraint("seq", name="pk_aliases"),
        sa.UniqueConstraint("mark", name="uq_aliases_mark"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_aliases_user_id", "aliases", ["user_id"])
    op.create_table(
        "feedback",
        sa.Column("seq", _KEY, nullable=False),
        sa.Column("user_id", _KEY, nullable=False),
        sa.Column("trace_id", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        _owner("feedback", "user_id", "users.id"),
        sa.PrimaryKeyConstraint("seq", name="pk_feedback"),
        sa.UniqueConstraint("user_id", "trace_id", name="uq_feedback_user_id_trace_id"),
    )
    for table, owner, target in (
        ("trace_items", "trace_seq", "traces.seq"),
        ("feedback_items", "feedback_seq", "feedback.seq"),
    ):
        op.create_table(
            table,
            sa.Column(owner, _KEY, nullable=False),
            sa.Column("interaction_seq", _KEY, nullable=False),
            _owner(table, owner, target),
            _owner(table, "interaction_seq", "interactions.seq"),
            sa.PrimaryKeyConstraint(owner, "interaction_seq", name=f"pk_{table}"),
        )
        op.create_index(f"ix_{table}_interaction_seq", table, ["interaction_seq"])


def _owner(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [target], name=f"fk_{table}_{column}", ondelete="CASCADE"
    )
