"""A user leaves: tombstone first, then rows, then every kept fitted state, then a second look.

Joins what erases in the store, what takes a row out of a state and what looks for remains; decides
nothing about who may ask for it. A process that dies on the way leaves a departure in the store:
the user is served to nobody from the tombstone on, and `complete` does the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from copersona.backups import noted_in
from copersona.erasing.forgetting import counted, reach, scan
from copersona.erasing.unlearn import NOT_UNLEARNT, without_user
from copersona.errors import ArtifactError, DataError
from copersona.method.corpus import Corpus
from copersona.published import Published, States
from copersona.records import Interaction
from copersona.reports import HeldBackup, Receipt
from copersona.storage.store import ForgetCounts, Store

_DAY_S = 86_400


@dataclass(frozen=True)
class Departed:
    """A user who was taken out.

    Attributes:
        history, said: what was theirs, read before it was erased.
        gone: fitted states that were deleted.
        was_lender: whether the state in force was fitted on the user.
    """

    user: str
    history: Sequence[Interaction]
    said: Sequence[str]
    counts: ForgetCounts
    gone: tuple[str, ...]
    was_lender: bool


def take_out(
    store: Store,
    namespace: str,
    states: States,
    user: str,
    corpus_of: Callable[[Published, Sequence[Interaction]], Corpus],
    *,
    strict: bool,
) -> Departed:
    """Erase a user everywhere, at once; whatever replaces the state in force waits meanwhile.

    Args:
        corpus_of: a history as a corpus, under the encoder of the published state.
        strict: what was trained on the user is served no more.

    Source: product rule: tombstone first, then rows, then every kept fitted state.
    """
    with states.replacing():
        names = (user, *store.aliases.of(namespace, user))
        marks = [store.departures.mark(namespace, name) for name in names]
        cut_off = store.departures.under_way(namespace)
        history, said = store.history(namespace, user), _said(store, namespace, user)
        published = _in_force(states)
        was_cut_off = marks[0] in cut_off
        is_lender = not was_cut_off and bool(published and user in published.state.row_of)
        # Read before it is erased: its part in the item means is subtracted.
        corpus = corpus_of(published, history) if published and is_lender else None
        counts = store.forget(namespace, user)
        kept, version = states.versions(), ""
        if published:
            version = published.version
            if corpus is not None:
                published = _without(published, user, corpus, strict=strict)
                states.drop_checkpoints()
            if corpus is not None or states.degraded:
                version = states.publish(*published[1:])
        gone = tuple(old for old in kept if old != version)
        for old in gone:
            states.remove(old)
        noted_in(store, marks)
        if not was_cut_off:  # else `complete` takes them out
            store.departures.finish(namespace, marks)
    return Departed(user, history, said, counts, gone, is_lender)


def _said(store: Store, namespace: str, user: str) -> tuple[str, ...]:
    """Everything that is kept of a user's own words beside the history."""
    notes = [given.note for given in store.feedback.of(namespace, user) if given.note]
    return (*store.instructions(namespace, user), *store.aliases.of(namespace, user), *notes)


def complete(store: Store, namespace: str, states: States, fit_anew: Callable[[], object]) -> int:
    """Finish what killed processes left undone; how many users it was about.

    Their rows are gone, so that their part in the state in force can no longer be subtracted: it is
    fitted anew.

    Args:
        fit_anew: fits and publishes; a `DataError` where nobody lends any more.
    """
    if not store.departures.under_way(namespace):
        return 0
    with states.replacing():  # whoever is leaving just now is done before this begins
        marks = store.departures.under_way(namespace)
        if not marks:
            return 0
        published = _in_force(states)
        version = published.version if published else ""
        if published and store.departures.among(namespace, published.state.lenders):
            states.drop_checkpoints()
            version = _fitted_anew(states, fit_anew)
        for old in states.versions():
            if old != version:
                states.remove(old)
        noted_in(store, marks)
        store.departures.finish(namespace, marks)
    return len(marks)


def receipt_of(store: Store, namespace: str, states: States, departed: Departed) -> Receipt:
    """What went, what stays, and what an independent scan still finds."""
    found, scanned = scan(
        store, states.root, departed.user, departed.history, said=departed.said,
        namespace=namespace,
    )  # fmt: skip
    published = _in_force(states)
    searched, unsearched = reach(store)
    return Receipt(
        counted(departed.counts), published.version if published else "", departed.gone,
        NOT_UNLEARNT if departed.was_lender else (), found, scanned, searched, unsearched,
        _backups(store, store.departures.mark(namespace, departed.user)),
    )  # fmt: skip


def _backups(store: Store, mark: bytes) -> tuple[HeldBackup, ...]:
    now, noted = time.time(), noted_in(store, [mark])
    return tuple(
        HeldBackup(one.id, one.place, round((now - one.at) / _DAY_S, 2), one.id in noted)
        for one in store.backups.all()
    )


def _in_force(states: States) -> Published | None:
    try:
        return states.in_force()
    except ArtifactError:  # damaged: nothing to rewrite, and deleted like any other
        return None


def _fitted_anew(states: States, fit_anew: Callable[[], object]) -> str:
    try:
        fit_anew()
    except DataError:  # nobody lends any more: nothing is fitted
        return ""
    published = _in_force(states)
    return published.version if published else ""


def _without(published: Published, user: str, corpus: Corpus, *, strict: bool) -> Published:
    version, state, items, words, learnt = published
    row = state.row_of[user]
    left = {
        name: part.without(row) for name, part in learnt.items() if not (strict and part.saw(row))
    }
    state = without_user(state, user, corpus)
    return Published(version, state, items.without(row), words.without(row), left)
