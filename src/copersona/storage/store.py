"""The store: what every user said and allows, in one SQL database that survives crashes.

`Store` is the one door: each call is one transaction, durable when it returns. SQLite is the
default (write-ahead log, flushed at every commit); PostgreSQL is another URL. Everything is kept
per namespace, and a user who was forgotten leaves a keyed hash and nothing else. The store does not
know what the words mean: it encodes nothing, ranks nothing and fits nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from copersona.errors import DataError, UnknownUserError
from copersona.interactions import check
from copersona.records import Consent, Interaction, RowOutcome
from copersona.storage import embedding_cache, erasure, remembered, snapshot, trace_log
from copersona.storage.alias_book import AliasBook
from copersona.storage.audit_log import AuditLog
from copersona.storage.backup_log import BackupLog
from copersona.storage.database import Database, Scope, among, rows_among
from copersona.storage.departures import Departures
from copersona.storage.erasure import ForgetCounts
from copersona.storage.feedback_log import FeedbackLog
from copersona.storage.intake import Intake
from copersona.storage.job_log import JobLog
from copersona.storage.key_ring import KeyRing
from copersona.storage.remembered import Remembered
from copersona.storage.schema import (
    INTERACTION_FIELDS,
    content_hash,
    id_hash,
    instructions,
    interaction_of,
    interactions,
    namespaces,
    row_of,
    tombstones,
    user_states,
    users,
)
from copersona.storage.usage_log import UsageLog
from copersona.storage.user_registry import UserRegistry, pseudonym_key, touch

__all__ = ["ForgetCounts", "Remembered", "Store", "content_hash"]

# Built once, since every request runs them.
_REVISION = sa.select(namespaces.c.revision).where(namespaces.c.name == sa.bindparam("namespace"))
_NAMED = among(
    sa.select(*INTERACTION_FIELDS, users.c.name)
    .join(users)
    .where(interactions.c.namespace_id == sa.bindparam("namespace")),
    interactions.c.id_hash,
)


class Store:
    """Interactions, consents, instructions, embeddings and traces of many users."""

    def __init__(self, database: Database, default_consent: Consent) -> None:
        self._database = database
        self.default_consent = default_consent
        self._registry = UserRegistry(database, default_consent)
        self.keys = KeyRing(database, self._registry)
        self.usage = UsageLog(database, self._registry)
        self.jobs, self.audit = JobLog(database), AuditLog(database, self._registry)
        self.departures = Departures(database, self._registry)
        self.backups = BackupLog(database)
        self.aliases = AliasBook(database, self._registry)
        self.feedback = FeedbackLog(database, self._registry)
        self.url = database.url
        self.dialect = database.dialect

    @classmethod
    def open(
        cls, url: str | Path, *, create: bool = True, default_consent: Consent | None = None
    ) -> Self:
        """Open, and bring up to this version, the store at a path or database URL.

        `create` makes the file where there is none; `default_consent`, `Consent()` unless given,
        is what users allow who never said.

        Raises:
            StoreError: no database, not one of ours, or out of reach; the message says which.
            MigrationError: written by a newer version of this program.
        """
        database = Database.open(url, create=create)
        try:
            return cls(database, default_consent or Consent())
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Let go of the database; using the store afterwards is a `StoreError`."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ── interactions ──────────────────────────────────────────────────────────────────────────

    def add(self, namespace: str, interactions: Sequence[Interaction]) -> list[RowOutcome]:
        """Store rows in one transaction; one outcome per row, in order.

        Rejected are rows without an id or not passing `interactions.check`, of users who do not
        allow `remember`, and of forgotten users.
        """
        with self._database.changing(namespace) as scope:
            intake = Intake(self._registry, scope)
            outcomes = intake.take(interactions)
            if intake.user_ids:
                touch(scope, intake.user_ids)
        return outcomes

    def history(
        self, namespace: str, user: str, *, before: float | None = None, limit: int | None = None
    ) -> list[Interaction]:
        """The user's interactions in time order, those without a time first.

        `before` keeps what is older than a time, in seconds since 1970, and what has no time;
        `limit` the newest so many of these.
        """
        at, seq = interactions.c.at, interactions.c.seq
        with self._database.viewing(namespace) as scope:
            user_id = self._registry.find(scope, user)
            query = sa.select(*INTERACTION_FIELDS).where(interactions.c.user_id == user_id)
            if before is not None:
                query = query.where(at.is_(None) | (at < before))
            query = query.order_by(at.desc().nulls_last(), seq.desc()).limit(limit)
            found = scope.connection.execute(query).all()
        return [interaction_of(user, row) for row in reversed(found)]

    def interactions(self, namespace: str, ids: Sequence[str]) -> dict[str, Interaction]:
        """Those of these interactions that are there, by id."""
        hashes = dict.fromkeys(id_hash(one) for one in ids)
        with self._database.viewing(namespace) as scope:
            rows = rows_among(scope.connection, _NAMED, hashes, namespace=scope.id)
            return {row.id: interaction_of(row.name, row) for row in rows}

    def remembered(
        self, namespace: str, user: str, *, encoder: str, before: float | None = None
    ) -> Remembered:
        """All there is to answer a user from, in one snapshot; `before` as in `history`."""
        with self._database.reading() as connection:
            (mark,) = self._registry.marks(connection, namespace, [user])
            return remembered.read(connection, mark, user, encoder, before)

    def users(self, namespace: str) -> list[str]:
        """Users who have interactions, sorted."""
        with self._database.viewing(namespace) as scope:
            return sorted(scope.connection.scalars(_active(scope, users.c.name)))

    def everybody(self, namespace: str) -> list[str]:
        """Users of whom anything is stored, sorted."""
        query = sa.select(users.c.name).join(namespaces).where(namespaces.c.name == namespace)
        with self._database.reading() as connection:
            return sorted(connection.scalars(query))

    def n_users(self, namespace: str) -> int:
        """How many users have interactions."""
        with self._database.viewing(namespace) as scope:
            return scope.connection.scalar(_active(scope, sa.func.count())) or 0

    def n_forgotten(self) -> int:
        """How many users were forgotten in the whole store; cheap."""
        with self._database.viewing("") as scope:
            count = sa.select(sa.func.count()).select_from(tombstones)
            return scope.connection.scalar(count) or 0

    def n_interactions(self, namespace: str) -> int:
        """How many interactions there are."""
        query = sa.select(sa.func.count()).select_from(interactions)
        with self._database.viewing(namespace) as scope:
            of_namespace = query.where(interactions.c.namespace_id == scope.id)
            return scope.connection.scalar(of_namespace) or 0

    def columns(self, namespace: str, batch_rows: int = 50_000) -> Iterator[pa.RecordBatch]:
        """All interactions for fitting, by user and time, in one snapshot.

        The columns are `snapshot.COLUMNS`. Read to the end without delay: while it is open, what
        is erased stays in the write-ahead log.
        """
        with self._database.viewing(namespace) as scope:
            yield from snapshot.batches(scope, batch_rows)

    def export(self, namespace: str) -> Iterator[Interaction]:
        """All interactions, by user and time, in one snapshot."""
        with self._database.viewing(namespace) as scope:
            for user, row in snapshot.rows_in_order(scope, INTERACTION_FIELDS):
                yield interaction_of(user, row)

    def correct(
        self, namespace: str, user: str, interaction_id: str, **changes: Any
    ) -> Interaction:
        """Change fields of one interaction of this user; returns it as it is now.

        Raises:
            UnknownUserError: the user has no such interaction, whoever else may have it.
            DataError: no such field, or the result does not pass `interactions.check`.
        """
        allowed = [column.name for column in INTERACTION_FIELDS if column.name != "id"]
        for field in changes.keys() - allowed:
            raise DataError(f"cannot be changed; these can: {', '.join(allowed)}", field=field)
        with self._database.changing(namespace) as scope:
            old, user_id, seq = self._own(scope, user, interaction_id)
            new = replace(old, **changes)
            update = sa.update(interactions).where(interactions.c.seq == seq)
            scope.connection.execute(update.values(**row_of(new)))
            erasure.erase_traces(scope, [user_id])
            embedding_cache.sweep(
                scope, {content_hash(old.input_text), content_hash(old.response_text)}
            )
            touch(scope, [user_id])
        self._database.scrub()
        return new

    def remove(self, namespace: str, user: str, interaction_id: str) -> None:
        """Erase one interaction of this user, and the traces that may quote it.

        Raises:
            UnknownUserError: the user has no such interaction, whoever else may have it.
        """
        with self._database.changing(namespace) as scope:
            _, user_id, seq = self._own(scope, user, interaction_id)
            erasure.erase_interactions(scope, interactions.c.seq == seq)
            touch(scope, [user_id])
        self._database.scrub()

    def expire(self, namespace: str, *, older_than: float) -> int:
        """Erase what is older than a time, in seconds since 1970; returns how many rows went.

        Rows without a time stay.
        """
        is_old = interactions.c.at < older_than
        with self._database.changing(namespace) as scope:
            of_namespace = sa.select(users.c.id).where(users.c.namespace_id == scope.id)
            chosen = interactions.c.user_id.in_(of_namespace) & is_old
            owners = sa.select(interactions.c.user_id).where(chosen).distinct()
            user_ids = scope.connection.scalars(owners).all()
            if not user_ids:
                return 0
            counts = erasure.erase_interactions(scope, chosen)
            touch(scope, user_ids)
        self._database.scrub()
        return counts.interactions

    # ── what users allow and say outright ─────────────────────────────────────────────────────

    def consent(self, namespace: str, user: str) -> Consent:
        """What the user allows: their word, else the default; nothing at all once forgotten."""
        with self._database.viewing(namespace) as scope:
            return self._registry.consent(scope, user)

    def consents(self, namespace: str) -> dict[str, Consent]:
        """Users who differ from the default."""
        with self._database.viewing(namespace) as scope:
            return self._registry.consents(scope)

    def set_consent(self, namespace: str, user: str, consent: Consent) -> None:
        """Note what the user allows. Without `remember`, all they said is erased with it.

        Raises:
            DataError: the user was forgotten; `readmit` first.
        """
        with self._database.changing(namespace) as scope:
            user_id = self._registry.set_consent(scope, user, consent)
            if not consent.remember:
                erasure.erase_history(scope, user_id)
            touch(scope, [user_id])
        if not consent.remember:
            self._database.scrub()

    def introduce(self, namespace: str, users: Iterable[str], consent: Consent) -> int:
        """Note what users allow who were never seen before; returns how many those are.

        Everybody else keeps what they allow; forgotten users stay forgotten.
        """
        with self._database.changing(namespace) as scope:
            made = self._registry.introduce(scope, users, consent)
            if made:
                touch(scope, made)
        return len(made)

    def instructions(self, namespace: str, user: str) -> tuple[str, ...]:
        """What the user said outright, in the order it was said."""
        with self._database.viewing(namespace) as scope:
            user_id = self._registry.find(scope, user)
            query = sa.select(instructions.c.text).where(instructions.c.user_id == user_id)
            return tuple(scope.connection.scalars(query.order_by(instructions.c.seq)))

    def add_instruction(self, namespace: str, user: str, text: str) -> None:
        """Keep what the user said outright; the same text twice is kept once.

        Raises:
            DataError: not a text that can be stored, or the user may not be remembered.
        """
        check(Interaction(user=user, response=text))
        with self._database.changing(namespace) as scope:
            rows, refused = self._registry.admit(scope, [user])
            if refused:
                raise DataError(refused[user], field="user")
            same = (instructions.c.user_id == rows[user]) & (instructions.c.text == text)
            if scope.connection.scalar(sa.select(instructions.c.seq).where(same)) is None:
                row = {"user_id": rows[user], "text": text}
                scope.connection.execute(sa.insert(instructions), row)
                touch(scope, rows.values())

    def remove_instruction(self, namespace: str, user: str, text: str) -> None:
        """Erase one instruction.

        Raises:
            UnknownUserError: the user never gave it.
        """
        with self._database.changing(namespace) as scope:
            user_id = self._registry.find(scope, user)
            same = (instructions.c.user_id == user_id) & (instructions.c.text == text)
            if not scope.connection.execute(sa.delete(instructions).where(same)).rowcount:
                raise UnknownUserError("the user gave no such instruction")
            touch(scope, [user_id])
        self._database.scrub()

    # ── embeddings and traces ─────────────────────────────────────────────────────────────────

    def embeddings(
        self, namespace: str, encoder: str, hashes: Sequence[bytes]
    ) -> dict[bytes, NDArray[np.float16]]:
        """The kept embeddings of these texts, by content hash; read-only vectors."""
        with self._database.viewing(namespace) as scope:
            return embedding_cache.read(scope, encoder, hashes)

    def put_embeddings(
        self, namespace: str, encoder: str, hashes: Sequence[bytes], matrix: NDArray[np.float16]
    ) -> int:
        """Keep embeddings of stored texts; returns how many were new.

        Texts that no interaction of the namespace has are passed over: so nothing remains of a
        request that was not to be remembered, or of a user forgotten while it was being encoded.

        Shapes:
            matrix (len(hashes), dim)

        Raises:
            ShapeError: not one row for each hash.
        """
        embedding_cache.check_shapes(hashes, matrix)
        with self._database.changing(namespace) as scope:
            return embedding_cache.write(self._database, scope, encoder, hashes, matrix)

    def put_trace(
        self,
        namespace: str,
        user: str,
        trace_id: str,
        payload: dict[str, Any],
        *,
        quotes: Collection[str] = (),
        items: Collection[str] = (),
    ) -> bool:
        """Keep what was done for a request; the newest 10,000 of a namespace stay.

        `quotes` names the other users whose words the payload holds: it goes when any of them
        goes; `items` are the interactions it shows. False, and nothing kept, where one of all these
        users may not be remembered. The disk is not waited for: a trace explains an answer, and
        may go with a power cut.
        """
        with self._database.changing(namespace, durable=False) as scope:
            rows, refused = self._registry.admit(scope, {user, *quotes})
            if refused:
                return False
            seq = trace_log.write(scope, rows.pop(user), rows.values(), trace_id, payload)
            trace_log.write_items(scope, seq, items)
        return True

    def trace(self, namespace: str, trace_id: str) -> tuple[str, dict[str, Any]]:
        """Whose request it was, and what was kept of it.

        Raises:
            UnknownUserError: no such trace in this namespace.
        """
        with self._database.viewing(namespace) as scope:
            return trace_log.read(scope, trace_id)

    def traces(self, namespace: str, user: str) -> dict[str, dict[str, Any]]:
        """What was kept of the user's own requests, by trace id, oldest first."""
        with self._database.viewing(namespace) as scope:
            return trace_log.of_user(scope, self._registry.find(scope, user))

    # ── changes, forgetting, health ───────────────────────────────────────────────────────────

    def revision(self, namespace: str) -> int:
        """A number that grows with every change of interactions, instructions or consent."""
        with self._database.asking() as connection:
            return connection.scalar(_REVISION, {"namespace": namespace}) or 0

    def user_revision(self, namespace: str, user: str) -> int:
        """The same for one user; 0 where there is none."""
        with self._database.viewing(namespace) as scope:
            user_id = self._registry.find(scope, user)
            query = sa.select(user_states.c.revision).where(user_states.c.user_id == user_id)
            return scope.connection.scalar(query) or 0

    def forget(self, namespace: str, user: str) -> ForgetCounts:
        """Leave a tombstone, then erase everything of this user, in one transaction.

        An unknown user gets a tombstone too: nothing of them is taken in until `readmit`.
        """
        with self._database.changing(namespace) as scope:
            self._registry.bury(scope, user)
            user_id = self._registry.find(scope, user)
            counts = erasure.erase_user(scope, user_id) if user_id else ForgetCounts()
            touch(scope)
        return replace(counts, is_scrubbed=self._database.scrub())

    def readmit(self, namespace: str, user: str) -> None:
        """Lift the tombstone of a forgotten user, who starts anew."""
        with self._database.changing(namespace) as scope:
            self._registry.lift(scope, user)
            touch(scope)

    def pseudonym_key(self, namespace: str) -> bytes:
        """What the pseudonyms of this namespace are made with, in every process alike."""
        return pseudonym_key(self._database, namespace)

    def scrub(self) -> bool:
        """Empty the write-ahead log; True where nothing erased can be read from it any more."""
        return self._database.scrub()

    def ask(self, sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Rows of a plain query, for whoever does not take this module's word."""
        with self._database.reading() as connection:
            return [tuple(row) for row in connection.execute(sa.text(sql), values)]

    def compact(self) -> None:
        """Write the whole database anew: the sure way to be rid of stale copies of erased rows.

        Erased rows are overwritten at once, but a database moves rows between its pages, and what
        it leaves behind in unused space is out of reach. Takes seconds per million rows.
        """
        self._database.compact()

    def integrity(self) -> list[str]:
        """What is wrong with the store; empty when sound."""
        found = self._database.damage()
        with self._database.reading() as connection:
            counts = {
                "interactions in another namespace than their user": self._registry.strays(
                    connection
                ),
                "embeddings of texts nobody has": embedding_cache.n_unused(connection),
                "users still there although forgotten": self._registry.buried_users(connection),
            }
        return found + [f"{count} {what}" for what, count in counts.items() if count]

    # ── private ───────────────────────────────────────────────────────────────────────────────

    def _own(self, scope: Scope, user: str, interaction_id: str) -> tuple[Interaction, int, int]:
        """An interaction of this user, with the rows of the user and of itself."""
        user_id = self._registry.find(scope, user)
        query = sa.select(*INTERACTION_FIELDS, interactions.c.seq).where(
            interactions.c.namespace_id == scope.id,
            interactions.c.user_id == user_id,
            interactions.c.id_hash == id_hash(interaction_id),
        )
        row = scope.connection.execute(query).one_or_none()
        if row is None:
            raise UnknownUserError("the user has no such interaction")
        return interaction_of(user, row), user_id, row.seq


def _active(scope: Scope, what: sa.ColumnElement[Any]) -> sa.Select[Any]:
    has_said = sa.exists().where(interactions.c.user_id == users.c.id)
    return sa.select(what).select_from(users).where(users.c.namespace_id == scope.id, has_said)
