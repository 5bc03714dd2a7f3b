"""Departures that are not over, and which backups were taken.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Take this step."""
    op.create_table(
        "departures",
        sa.Column("mark", sa.LargeBinary, nullable=False),
        sa.Column("namespace_id", _KEY, nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"],
            name="fk_departures_namespace_id", ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("mark", name="pk_departures"),
    )  # fmt: skip
    op.create_index("ix_departures_namespace_id", "departures", ["namespace_id"])
    op.create_table(
        "backups",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_backups"),
    )
