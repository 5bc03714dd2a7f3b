"""From rows to the store, and from the store to a corpus: what happens around the numerical core.

One outcome for every row, in order; a rejected row never stops the others. What a file repeats is
told apart from what was ingested before by counting repeats over the whole file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from copersona.answering.vectors import VectorCache
from copersona.consent import MIN_DONORS, crossable_words, shared_words
from copersona.errors import DataError
from copersona.interactions import check, with_ids
from copersona.method.corpus import Corpus, build_corpus
from copersona.records import Consent, Interaction, RowOutcome
from copersona.storage.store import Store

Progress = Callable[[str, int, int], None]

CHUNK = 5_000
"""Rows stored in one transaction."""

PUBLIC = Consent(lend="text", train=True)
"""What authors of public data sets allow, unless they say otherwise."""


def add_rows(
    store: Store,
    namespace: str,
    rows: Sequence[Interaction | RowOutcome],
    seen: Counter[bytes],
) -> list[RowOutcome]:
    """Check and store rows in one transaction; rows rejected before come through as they are.

    Args:
        seen: repeats counted so far in this file; grows.
    """
    outcomes: dict[int, RowOutcome] = {}
    good: list[tuple[int, Interaction]] = []
    for index, row in enumerate(rows):
        checked = _checked(index, row)
        if isinstance(checked, RowOutcome):
            outcomes[index] = checked
        else:
            good.append((index, checked))
    ready = with_ids(namespace, [row for _, row in good], seen)
    for (index, row), outcome in zip(good, store.add(namespace, ready), strict=True):
        outcomes[index] = replace(outcome, index=index, source=row.source)
    return [outcomes[index] for index in range(len(rows))]


def ingest_rows(
    store: Store,
    namespace: str,
    rows: Iterator[Interaction | RowOutcome],
    *,
    dry_run: bool,
    progress: Callable[[int], None] | None,
    before: Callable[[Iterable[str]], None] | None = None,
) -> tuple[int, int, int, tuple[RowOutcome, ...]]:
    """Store a stream of rows chunk by chunk: read, stored, duplicates, rejected.

    Args:
        before: called with the users of a chunk just before it is stored; not in a dry run.
    """
    counts: Counter[str] = Counter()
    rejected: list[RowOutcome] = []
    seen: Counter[bytes] = Counter()
    n_read = 0
    while chunk := list(islice(rows, CHUNK)):
        if dry_run:
            outcomes = [_outcome(index, row) for index, row in enumerate(chunk)]
        else:
            if before:
                before(dict.fromkeys(row.user for row in chunk if isinstance(row, Interaction)))
            outcomes = add_rows(store, namespace, chunk, seen)
        counts.update(outcome.status for outcome in outcomes)
        rejected += [
            replace(outcome, index=n_read + outcome.index)
            for outcome in outcomes
            if outcome.status == "rejected"
        ]
        n_read += len(chunk)
        if progress:
            progress(n_read)
    return n_read, counts["stored"], counts["duplicate"], tuple(rejected)


class Authors:
    """Users of a public data set: what they allow is noted before their first row is stored.

    Attributes:
        n_set: for how many it was noted; whoever was in the store before keeps what they allow.
    """

    def __init__(self, store: Store, namespace: str, consent: Consent | None) -> None:
        self._store, self._namespace, self._consent = store, namespace, consent
        self.n_set = 0

    def admit(self, users: Iterable[str]) -> None:
        """Note the consent of those whom the store has never seen."""
        if self._consent is not None:
            self.n_set += self._store.introduce(self._namespace, users, self._consent)


def _checked(index: int, row: Interaction | RowOutcome) -> Interaction | RowOutcome:
    if isinstance(row, RowOutcome):
        return replace(row, index=index)
    try:
        return check(row)
    except DataError as error:
        source = error.source or row.source
        return RowOutcome(index, "rejected", row.id, error.reason, error.field, source, error.line)


def _outcome(index: int, row: Interaction | RowOutcome) -> RowOutcome:
    checked = _checked(index, row)
    return checked if isinstance(checked, RowOutcome) else RowOutcome(index, "stored", checked.id)


def encoded(rows: Sequence[Interaction], cache: VectorCache, progress: Progress | None) -> Corpus:
    """Interactions as a corpus; what is not in the embedding cache is encoded and kept."""

    def report(stage: str) -> Callable[[int, int], None] | None:
        return (lambda done, total: progress(stage, done, total)) if progress else None

    inputs = cache.vectors([i.input_text for i in rows], report("encoding inputs"))
    responses = cache.vectors([i.response_text for i in rows], report("encoding responses"))
    return build_corpus(rows, inputs, responses)


def everything(store: Store, namespace: str) -> Iterator[Interaction]:
    """All interactions of a namespace, by user and time, without what only the store needs."""
    for batch in store.columns(namespace):
        for row in batch.to_pylist():
            del row["input_hash"], row["response_hash"]
            yield Interaction(**row)


def nameable(rows: Sequence[Interaction]) -> list[list[str]]:
    """Words of every input that may name a facet: used by enough different users."""
    words = [crossable_words(i.input_text) for i in rows]
    of_user: dict[str, set[str]] = {}
    for interaction, found in zip(rows, words, strict=True):
        of_user.setdefault(interaction.user, set()).update(found)
    allowed = shared_words(of_user, MIN_DONORS)
    limit = 0.2 * max(len(of_user), 1)
    common = {word for word, n in allowed.items() if n > limit and n > 10}
    return [[word for word in found if word in allowed and word not in common] for found in words]
