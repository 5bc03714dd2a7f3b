"""Jobs of the HTTP service, and its audit log.

Revision: 0005, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Take this step."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("namespace_id", _KEY, nullable=False),
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
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"], name="fk_jobs_namespace_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_namespace_id_created_at", "jobs", ["namespace_id", "created_at"])
    op.create_index("ix_jobs_state", "jobs", ["state"])
    op.create_table(
        "audit_lines",
        sa.Column("seq", _KEY, nullable=False),
        sa.Column("namespace_id", _KEY, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("is_allowed", sa.Boolean, nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"],
            name="fk_audit_lines_namespace_id", ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("seq", name="pk_audit_lines"),
    )  # fmt: skip
    op.create_index("ix_audit_lines_namespace_id_at", "audit_lines", ["namespace_id", "at"])
    op.create_index("ix_audit_lines_at", "audit_lines", ["at"])
    op.create_table(
        "audit_marks",
        sa.Column("line_seq", _KEY, nullable=False, autoincrement=False),
        sa.Column("mark", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["line_seq"], ["audit_lines.seq"], name="fk_audit_marks_line_seq", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("line_seq", "mark", name="pk_audit_marks"),
    )
    op.create_index("ix_audit_marks_mark", "audit_marks", ["mark"])
