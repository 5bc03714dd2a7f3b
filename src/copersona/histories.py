"""What users said and allow, in one namespace of one store: taken in, changed, let go, handed out.

The half of the front door that needs no fitted state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from copersona.errors import ConfigError, DataError
from copersona.exporting import UserExport, export_namespace
from copersona.ingestion import PUBLIC, Authors, add_rows, ingest_rows
from copersona.interactions import check
from copersona.reading import datasets, readers
from copersona.reading.columns import ColumnMap
from copersona.reading.masking import Masker
from copersona.records import Consent, Interaction, RowOutcome, Verdict
from copersona.reports import IngestReport
from copersona.storage.alias_book import Merged
from copersona.storage.feedback_log import Given
from copersona.storage.store import Store
from copersona.verdicts import words_of

_LEAVING = "the user is still being forgotten; where that was cut off, `repair` completes it"


class Histories:
    """Interactions, instructions and consent of the users of one namespace."""

    def __init__(self, store: Store, namespace: str) -> None:
        self.store, self.namespace = store, namespace
        self._masker: Masker | None = None

    def mask_with(self, masker: Masker) -> None:
        """Mask what tells a person in every text from now on, before it is stored or embedded."""
        self._masker = masker

    def masked(self, text: str) -> str:
        """A text as it may be stored."""
        return self._masker.text(text) if self._masker else text

    def _masked_row(self, row: Interaction | RowOutcome) -> Interaction | RowOutcome:
        if self._masker is None or isinstance(row, RowOutcome):
            return row
        try:
            return self._masker.interaction(check(row))
        except DataError:  # not for the masker to say
            return row

    # ---- interactions in -----------------------------------------------------------------------

    def add(self, interactions: Iterable[Interaction | RowOutcome]) -> list[RowOutcome]:
        """Store interactions; one outcome for each, in order. What is stored is durable.

        Rows that were rejected before they got here come through as they are.
        """
        rows = [self._masked_row(row) for row in interactions]
        return add_rows(self.store, self.namespace, rows, Counter())

    def ingest(
        self,
        path: Path,
        *,
        columns: ColumnMap | None = None,
        format: str | None = None,
        user: str | None = None,
        accept_derived: bool = False,
        dry_run: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> IngestReport:
        """Add a file; see docs/formats.md.

        Args:
            user: whose words a chat export holds, where it does not say.
            accept_derived: take what a memory product derived with a model as the user's own words.
            dry_run: read and check everything, store nothing.

        Raises:
            DataError: the file as a whole cannot be read.
        """
        layout = readers.inspect(
            path, columns=columns, format=format, user=user, accept_derived=accept_derived
        )
        rows = map(self._masked_row, readers.rows(layout))
        counts = ingest_rows(self.store, self.namespace, rows, dry_run=dry_run, progress=progress)
        return IngestReport(str(path), layout.describe(), *counts, dry_run)

    def ingest_dataset(
        self,
        name: str,
        directory: Path,
        *,
        consent: Consent | None = PUBLIC,
        dry_run: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> IngestReport:
        """Add one of the known data sets from a folder; see `datasets.DATASETS`.

        Args:
            consent: what its authors allow who were never seen here before; their texts are
                public. None leaves them at the default. Nobody's earlier word is changed.
        """
        rows = map(self._masked_row, datasets.load(name, directory))
        authors = Authors(self.store, self.namespace, consent)
        counts = ingest_rows(
            self.store, self.namespace, rows, dry_run=dry_run, progress=progress,
            before=authors.admit,
        )  # fmt: skip
        return IngestReport(name, "", *counts, dry_run, authors.n_set)

    def correct(self, user: str, interaction_id: str, **changes: Any) -> Interaction:
        """Change one interaction of a user; its persona follows at once."""
        for name in {"input", "response"} & changes.keys():
            changes[name] = self.masked(changes[name])
        return self.store.correct(self.namespace, user, interaction_id, **changes)

    def remove(self, user: str, interaction_id: str) -> None:
        """Delete one interaction of a user."""
        self.store.remove(self.namespace, user, interaction_id)

    def expire(self, older_than: float) -> int:
        """Delete interactions older than a time; gives back how many."""
        return self.store.expire(self.namespace, older_than=older_than)

    def instruct(self, user: str, text: str) -> None:
        """Keep what a user says outright; it outranks everything inferred."""
        self.store.add_instruction(self.namespace, user, self.masked(text))

    # ---- one person, several names -------------------------------------------------------------

    def name(self, user: str) -> str:
        """The name of the user whom an id stands for; itself where it is nobody's alias."""
        return self.store.aliases.name(self.namespace, user)

    def alias(self, user: str, alias: str) -> None:
        """Let another id stand for a user in every call from now on.

        Raises:
            DataError: it was forgotten, or stands for somebody else: `merge` joins two users.
        """
        self.store.aliases.add(self.namespace, user, alias)

    def aliases(self, user: str) -> tuple[str, ...]:
        """The ids that stand for a user, besides the user's own."""
        return self.store.aliases.of(self.namespace, user)

    def unalias(self, user: str, alias: str) -> None:
        """Let an alias stand for nobody; what was said under it stays the user's.

        Raises:
            UnknownUserError: the user has no such alias.
        """
        self.store.aliases.remove(self.namespace, user, alias)

    def merge(self, into: str, other: str) -> Merged:
        """Make two users one; the other's id becomes an alias, and the stricter consent holds.

        Others borrow nothing from the merged user's old row in the fitted state any more; the
        next fit sees one user.

        Raises:
            DataError: one of them was forgotten or does not allow `remember`, or they are the same.
        """
        return self.store.aliases.merge(self.namespace, into, other)

    # ---- feedback ------------------------------------------------------------------------------

    def feedback(
        self,
        trace_id: str,
        verdict: Verdict,
        *,
        answer: str = "",
        edited: str = "",
        note: str = "",
    ) -> bool:
        """Keep what the user of a trace says of the answer; a later word takes its place.

        Args:
            answer: with `accept`: what was accepted; becomes the user's own words.
            edited: with `edit`: what the user made of the answer; becomes the user's own words.

        Returns whether any words were stored.

        Raises:
            UnknownUserError: no such trace.
            DataError: an unknown verdict, or words that do not go with it.
        """
        user, detail = self.store.trace(self.namespace, trace_id)
        words = words_of(user, trace_id, detail, verdict, self.masked(answer), self.masked(edited))
        given = Given(trace_id, verdict, self.masked(note))
        return self.store.feedback.give(self.namespace, given, words)

    # ---- consent and erasure -------------------------------------------------------------------

    def consent(self, user: str) -> Consent:
        """What a user allows."""
        return self.store.consent(self.namespace, user)

    def set_consent(self, user: str, **changes: Any) -> Consent:
        """Change what a user allows; acts on the very next request.

        Raises:
            ConfigError: an unknown purpose or value.
        """
        unknown = set(changes) - {"remember", "learn", "lend", "train"}
        if unknown or changes.get("lend", "no") not in ("no", "aggregate", "text"):
            raise ConfigError(f"unknown consent {changes}; purposes are remember, learn, train "
                              "(true or false) and lend (no, aggregate, text)")  # fmt: skip
        consent = replace(self.consent(user), **changes)
        self.store.set_consent(self.namespace, user, consent)
        return consent

    def readmit(self, user: str) -> None:
        """Take in again what a forgotten user says; they start anew.

        Raises:
            DataError: the user is not yet out of every fitted state.
        """
        leaving = self.store.departures
        if leaving.mark(self.namespace, user) in leaving.under_way(self.namespace):
            raise DataError(_LEAVING, field="user")
        self.store.readmit(self.namespace, user)

    def export_user(self, user: str) -> UserExport:
        """Everything that is stored of one user; nothing at all of a user nobody knows."""
        user = self.name(user)
        return self._export_of(user, tuple(self.store.history(self.namespace, user)))

    def export(self, directory: Path) -> Path:
        """Everything of this namespace: interactions as JSONL and Parquet, all else as JSON."""
        return export_namespace(
            directory, self.namespace, self.store.export(self.namespace),
            self.store.consents(self.namespace),
            (self._export_of(user) for user in self.store.everybody(self.namespace)),
        )  # fmt: skip

    def _export_of(self, user: str, said: tuple[Interaction, ...] = ()) -> UserExport:
        """All that is stored of a user, beside these interactions."""
        store, namespace = self.store, self.namespace
        verdicts = store.feedback.of(namespace, user)
        return UserExport(
            user, store.consent(namespace, user), store.instructions(namespace, user), said,
            store.traces(namespace, user),
            store.aliases.of(namespace, user),
            {one.trace_id: {"verdict": one.verdict, "note": one.note} for one in verdicts},
            tuple(asdict(row) for row in store.usage.of_user(namespace, user)),
        )  # fmt: skip
