"""The audit log: who asked or did what to whom, for as long as it is kept.

Users are named by a part of their keyed mark, never by name, and lines outlive a user who was
forgotten: they then say that somebody was asked about, and only who holds the database and the name
can tell who. A line is not waited for until the disk has it, and yet no change outlives its line:
both databases write one log in order, so that the flush of the change takes along whatever was
committed before it. This module decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from copersona.storage.database import Database, insert_many
from copersona.storage.schema import audit_lines, audit_marks, namespaces
from copersona.storage.user_registry import UserRegistry

MARK_DIGITS = 16


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One thing that was asked or done, or refused.

    Attributes:
        at: seconds since 1970-01-01 UTC.
        key_id: of the key that was shown.
        marks: of the users it was about, as `AuditLog.mark` gives them.
    """

    at: float
    namespace: str
    key_id: str
    action: str
    marks: tuple[str, ...]
    is_allowed: bool


class AuditLog:
    """The audit lines of one database."""

    def __init__(self, database: Database, registry: UserRegistry) -> None:
        self._database, self._registry = database, registry

    def mark(self, namespace: str, user: str) -> str:
        """What stands for a user in a line."""
        return mark_text(self._registry.mark(namespace, user))

    def append(self, lines: Sequence[AuditLine]) -> None:
        """Keep lines, in order; a crash of the process loses none, a power cut the very last.

        Of namespaces that are not there, which no key can be of, nothing is kept.
        """
        names = {line.namespace for line in lines}
        query = sa.select(namespaces.c.name, namespaces.c.id).where(namespaces.c.name.in_(names))
        insert = sa.insert(audit_lines).returning(audit_lines.c.seq)
        with self._database.writing(durable=False) as connection:
            ids = {row.name: row.id for row in connection.execute(query)}
            marks = []
            for line in (line for line in lines if line.namespace in ids):
                row = {"namespace_id": ids[line.namespace], "at": line.at, "action": line.action,
                       "key_id": line.key_id, "is_allowed": line.is_allowed}  # fmt: skip
                seq = connection.scalar(insert, row)
                marks += [{"line_seq": seq, "mark": mark} for mark in dict.fromkeys(line.marks)]
            if marks:
                insert_many(connection, audit_marks, marks)

    def lines(
        self, namespace: str, *, user: str | None = None, since: float = 0.0, limit: int = 1_000
    ) -> list[AuditLine]:
        """The newest lines of a namespace, newest first; of one user where one is named."""
        query = sa.select(audit_lines).where(audit_lines.c.at >= since)
        if user is not None:
            about = sa.select(audit_marks.c.line_seq)
            about = about.where(audit_marks.c.mark == self.mark(namespace, user))
            query = query.where(audit_lines.c.seq.in_(about))
        with self._database.viewing(namespace) as scope:
            query = query.where(audit_lines.c.namespace_id == scope.id)
            query = query.order_by(audit_lines.c.at.desc(), audit_lines.c.seq.desc()).limit(limit)
            rows = scope.connection.execute(query).all()
            marks: dict[int, list[str]] = {row.seq: [] for row in rows}
            chosen = sa.select(audit_marks).where(audit_marks.c.line_seq.in_(list(marks)))
            for seq, mark in scope.connection.execute(chosen):
                marks[seq].append(mark)
        return [
            AuditLine(row.at, namespace, row.key_id, row.action, tuple(sorted(marks[row.seq])),
                      row.is_allowed)
            for row in rows
        ]  # fmt: skip

    def expire(self, older_than: float) -> int:
        """Let go of all lines from before a time; returns how many."""
        with self._database.writing(durable=False) as connection:
            old = sa.delete(audit_lines).where(audit_lines.c.at < older_than)
            return connection.execute(old).rowcount


def mark_text(mark: bytes) -> str:
    """The part of a user's mark by which audit lines name the user."""
    return mark.hex()[:MARK_DIGITS]
