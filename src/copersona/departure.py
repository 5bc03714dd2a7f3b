"""A user leaves: tombstone first, then rows, then every kept fitted state, then a second look.

Joins what erases in the store, what takes a row out of a state and what looks for remains; decides
nothing about who may ask for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

from copersona.erasing.forgetting import counted, scan
from copersona.erasing.unlearn import NOT_UNLEARNT, without_user
from copersona.errors import ArtifactError
from copersona.method.corpus import Corpus
from copersona.published import Published, States
from copersona.records import Interaction
from copersona.reports import Receipt
from copersona.storage.store import Store


def forget_user(
    store: Store,
    namespace: str,
    states: States,
    user: str,
    corpus_of: Callable[[Published, Sequence[Interaction]], Corpus],
    *,
    strict: bool,
) -> Receipt:
    """Erase a user everywhere, at once, and say what an independent scan still finds.

    Args:
        corpus_of: a history as a corpus, under the encoder of the published state.
        strict: what was trained on the user is served no more.

    Source: product rule: tombstone first, then rows, then every kept fitted state.
    """
    history, said = store.history(namespace, user), store.instructions(namespace, user)
    try:
        published = states.in_force()
    except ArtifactError:  # damaged: nothing to rewrite, and deleted below like any other
        published = None
    is_lender = published is not None and user in published.state.row_of
    # Read before it is erased: its part in the item means is subtracted.
    corpus = corpus_of(published, history) if published and is_lender else None
    counts = store.forget(namespace, user)
    version, kept = "", states.versions()
    if published:
        version = published.version
        if corpus is not None:
            published = _without(published, user, corpus, strict=strict)
            shutil.rmtree(states.training_folder, ignore_errors=True)
        if corpus is not None or states.degraded:
            version = states.publish(*published[1:])
    gone = tuple(old for old in kept if old != version)
    for old in gone:
        states.remove(old)
    found, scanned = scan(store, states.root, user, history, said=said, namespace=namespace)
    left = NOT_UNLEARNT if is_lender else ()
    return Receipt(counted(counts), version, gone, left, found, scanned)


def _without(published: Published, user: str, corpus: Corpus, *, strict: bool) -> Published:
    version, state, items, words, learnt = published
    row = state.row_of[user]
    left = {
        name: part.without(row) for name, part in learnt.items() if not (strict and part.saw(row))
    }
    state = without_user(state, user, corpus)
    return Published(version, state, items.without(row), words.without(row), left)
