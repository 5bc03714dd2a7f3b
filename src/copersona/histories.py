"""What users said and allow, in one namespace of one store: taken in, changed, let go, handed out.

The half of the front door that needs no fitted state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from copersona.errors import ConfigError, DataError
from copersona.exporting import UserExport, export_namespace
from copersona.ingestion import PUBLIC, Authors, add_rows, ingest_rows
from copersona.reading import datasets, readers
from copersona.reading.columns import ColumnMap
from copersona.records import Consent, Interaction, RowOutcome
from copersona.reports import IngestReport
from copersona.storage.store import Store

_LEAVING = "the user is still being forgotten; where that was cut off, `repair` completes it"


class Histories:
    """Interactions, instructions and consent of the users of one namespace."""

    def __init__(self, store: Store, namespace: str) -> None:
        self.store, self.namespace = store, namespace

    # ---- interactions in -----------------------------------------------------------------------

    def add(self, interactions: Iterable[Interaction | RowOutcome]) -> list[RowOutcome]:
        """Store interactions; one outcome for each, in order. What is stored is durable.

        Rows that were rejected before they got here come through as they are.
        """
        return add_rows(self.store, self.namespace, list(interactions), Counter())

    def ingest(
        self,
        path: Path,
        *,
        columns: ColumnMap | None = None,
        format: str | None = None,
        user: str | None = None,
        dry_run: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> IngestReport:
        """Add a file; see docs/formats.md.

        Args:
            user: whose words a chat export holds, where it does not say.
            dry_run: read and check everything, store nothing.

        Raises:
            DataError: the file as a whole cannot be read.
        """
        layout = readers.inspect(path, columns=columns, format=format, user=user)
        rows = readers.rows(layout)
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
        rows = datasets.load(name, directory)
        authors = Authors(self.store, self.namespace, consent)
        counts = ingest_rows(
            self.store, self.namespace, rows, dry_run=dry_run, progress=progress,
            before=authors.admit,
        )  # fmt: skip
        return IngestReport(name, "", *counts, dry_run, authors.n_set)

    def correct(self, user: str, interaction_id: str, **changes: Any) -> Interaction:
        """Change one interaction of a user; its persona follows at once."""
        return self.store.correct(self.namespace, user, interaction_id, **changes)

    def remove(self, user: str, interaction_id: str) -> None:
        """Delete one interaction of a user."""
        self.store.remove(self.namespace, user, interaction_id)

    def expire(self, older_than: float) -> int:
        """Delete interactions older than a time; gives back how many."""
        return self.store.expire(self.namespace, older_than=older_than)

    def instruct(self, user: str, text: str) -> None:
        """Keep what a user says outright; it outranks everything inferred."""
        self.store.add_instruction(self.namespace, user, text)

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
        store, namespace = self.store, self.namespace
        return UserExport(
            user, store.consent(namespace, user), store.instructions(namespace, user),
            tuple(store.history(namespace, user)), store.traces(namespace, user),
        )  # fmt: skip

    def export(self, directory: Path) -> Path:
        """Everything of this namespace as JSONL and Parquet, with consents and a manifest."""
        users = self.store.users(self.namespace)
        said = {user: self.store.instructions(self.namespace, user) for user in users}
        return export_namespace(
            directory, self.namespace, self.store.export(self.namespace),
            self.store.consents(self.namespace), {user: list(s) for user, s in said.items() if s},
        )  # fmt: skip
