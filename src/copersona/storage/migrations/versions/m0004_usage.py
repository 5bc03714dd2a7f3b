"""Tokens that went through the gateway.

Revision: 0004, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Take this step."""
    op.create_table(
        "usage",
        sa.Column("seq", _KEY, nullable=False),
        sa.Column("namespace_id", _KEY, nullable=False),
        sa.Column("user_id", _KEY),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("day", sa.Text, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("estimated", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("added_tokens", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"],
            name="fk_usage_namespace_id", ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_usage_user_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("seq", name="pk_usage"),
    )  # fmt: skip
    op.create_index("ix_usage_namespace_id_day", "usage", ["namespace_id", "day"])
    op.create_index("ix_usage_user_id", "usage", ["user_id"])
