"""Fitting and training on a store: from stored rows to a state, and to what is learnt on it.

Only lenders are fitted on, and only those of them who allow it are trained on. What is learnt holds
for the one state it was trained on. Publishes nothing; opens torch only where something is trained.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from copersona.answering.text_items import TextItems, build_text_items
from copersona.answering.vectors import VectorCache
from copersona.answering.words import WordCounts, count_words, wording
from copersona.consent import Policy
from copersona.errors import DataError
from copersona.ingestion import encoded, everything, nameable
from copersona.language.models import require_torch
from copersona.learnt import Weights
from copersona.method.corpus import Corpus
from copersona.method.fitted import FittedState, MethodConfig, fit_state
from copersona.reasoning.config import TrainingConfig
from copersona.records import Interaction
from copersona.storage.store import Store

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Fitted:
    """A state and what is published with it."""

    state: FittedState
    items: TextItems
    words: WordCounts
    n_interactions: int
    warnings: tuple[str, ...]


def lent(store: Store, namespace: str, policy: Policy) -> list[Interaction]:
    """Interactions of all who lend, by user and time.

    Raises:
        DataError: nobody lends anything.
    """
    rows = [i for i in everything(store, namespace) if policy.lends(i.user)]
    if not rows:
        raise DataError("no interactions of users who lend: add some, or let users lend")
    return rows


def is_still_lent(rows: Iterable[Interaction], now: Iterable[Interaction]) -> bool:
    """Whether all that was read is lent now too, word for word; more may have come."""
    lent_now = {row.id: row for row in now}
    return all(lent_now.get(row.id) == row for row in rows)


def fit_rows(
    rows: Sequence[Interaction],
    cache: VectorCache,
    encoder: str,
    policy: Policy,
    config: MethodConfig,
    cut: float,
    progress: Progress | None,
) -> Fitted:
    """Fit the interactions of lenders.

    Args:
        encoder: what the cache encodes with, as `open_encoder` takes it.
    """
    corpus = encoded(rows, cache, progress)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = fit_state(
            corpus, encoder=encoder, cut=cut, config=config, words_of_item=nameable(rows),
            encode_words=cache.encoder.encode, progress=progress,
        )  # fmt: skip
    assigned = state.facets.assign(corpus.inputs, corpus.declared)
    may_quote = np.array([policy.lends_text(i.user) for i in rows])
    items = build_text_items([i.id for i in rows], corpus, assigned, may_quote)
    words = count_words([wording(i) for i in rows], corpus.users, assigned,
                        n_lenders=corpus.n_users, n_facets=state.n_facets)  # fmt: skip
    return Fitted(state, items, words, len(corpus), tuple(str(w.message) for w in caught))


def train_graph(
    state: FittedState,
    corpus: Corpus,
    policy: Policy,
    config: TrainingConfig,
    *,
    checkpoint: Path,
    device: str,
    progress: Progress | None,
) -> tuple[Weights, tuple[str, ...]]:
    """Train graph reasoning on a state; sentences say in which views it will be used.

    Args:
        corpus: of the lenders, see `aligned`.
        checkpoint: folder that a killed training goes on from; deleted at the end.

    Raises:
        MissingExtraError: torch is not installed.
        DataError: too few people allow it, or have enough to learn from.
    """
    require_torch()
    from copersona.reasoning import checkpoints, reasoner, training  # noqa: PLC0415  need torch

    start = time.perf_counter()
    may_train = trainers(state, policy)

    def report(done: int, total: int, said: str) -> None:
        if progress:
            progress(f"graph reasoning: {said}", done, total)

    trained = training.train(
        state, corpus, config, may_train=may_train, checkpoint=checkpoint,
        device=device, progress=report,
    )  # fmt: skip
    weights = reasoner.to_weights(trained, state, may_train)
    (checkpoint / checkpoints.FILE).unlink(missing_ok=True)
    spent = time.perf_counter() - start
    said = [f"graph reasoning: trained on {sum(may_train):,} of {len(may_train):,} lenders in "
            f"{spent:.0f} s, {len(trained.losses) - 1} passes"]  # fmt: skip
    said += [one.sentence for one in trained.decisions]
    return weights, tuple(said)


def trainers(state: FittedState, policy: Policy) -> list[bool]:
    """Which of the lenders may be trained on.

    Raises:
        DataError: none.
    """
    found = [policy.trains(user) for user in state.lenders]
    if not any(found):
        raise DataError("no lender allows training: `consent USER --train` says they do")
    return found


def aligned(corpus: Corpus, state: FittedState) -> Corpus:
    """Of a corpus what the state was fitted on, its users by the state's rows.

    Who lends no more has no interactions in it.
    """
    known = np.array([state.row_of.get(user, -1) for user in corpus.user_ids], np.int32)
    rows = np.flatnonzero(np.isin(corpus.id_hashes, state.fitted_ids) & (known[corpus.users] >= 0))
    part = corpus.take(rows)
    place = known[part.users]
    part = replace(part, user_ids=state.lenders, users=place)
    return part.take(np.argsort(place, kind="stable"))
