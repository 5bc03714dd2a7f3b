"""Who votes on a request: own interactions, peers of the routed facets, and a poll of lenders.

Peers are those completion borrows from; the poll is the same for everybody in a facet and gives the
prior. Both are read from the store when asked for, under the consent of that moment, so that who
withdraws has no vote in the very next one. Of users who lend text the likest items of the facet are
read, and count by their relevance; of those who lend statistics the newest, each counting as if it
had nothing in common with the request, which leaves plain counts of their labels in the facet and
lets nobody find out which of them is near what. What is newer than the request never counts, nor
does the user's own earlier answer to the very text that is asked; whether others' answers about the
same item do is a switch.

Weighs and reads; what the ballots come to, and whether enough stand behind each value, is `votes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.answering.estimates import estimated_labels, estimated_ratings
from copersona.answering.retrieval import answers_the_request, is_same_item
from copersona.answering.routing import borrowing_worth
from copersona.answering.serving import Desk, Own
from copersona.answering.votes import (
    Ballot,
    Estimate,
    Value,
    VoteConfig,
    count_votes,
    expected,
    median,
    polled_shares,
)
from copersona.consent import MIN_DONORS
from copersona.method.completion import confidence_of
from copersona.method.facets import centred_unit
from copersona.method.fitted import UserView
from copersona.records import BOTH, Branches, Interaction, Query, Vote, VoteShare
from copersona.storage.store import content_hash

Array = NDArray[Any]

_SPARE = 3
"""Items read for each that may vote, since some will be too new, or without label and rating."""


def vote(
    desk: Desk,
    query: Query,
    config: VoteConfig,
    *,
    allow_same_item: bool,
    branches: Branches = BOTH,
) -> Vote:
    """How a user would label and rate what a request is about.

    Args:
        branches: `text` casts the ballots of own and peers' interactions, `graph` gives the prior.

    Source: method step 9. Deviates: of those who lend statistics an item counts as much as one that
    has nothing in common with the request, since counting it fully would let it outweigh the most
    relevant items of those who lend text; the prior is a poll of lenders, so that it knows consent,
    time and the number of donors of each value.
    """
    room = _Room(desk, query, config, allow_same_item)
    own = desk.own(query.user, before=query.at)
    view = desk.view(query.user, own.corpus, room.facets)
    mine = list(room.own(own)) if branches.text else []
    worth = room.worth(view) if branches.text else 0.0
    sample = room.sample()
    peers = [view.facets[f].peers.rows for f in room.facets] if worth else []
    heard = room.hear(np.unique(np.concatenate([*sample, *peers]).astype(np.int64)))
    borrowed = list(room.borrowed(view, heard, worth)) if worth else []
    polled = list(room.polled(sample, heard))
    least = max(desk.state.config.completion.min_donors, MIN_DONORS)
    asked = desk.state, view, room.vector, room.routed, query.item if allow_same_item else None

    def counted(
        value_of: Callable[[Interaction], Value | None], prior: Mapping[Value, float] | Estimate
    ) -> tuple[VoteShare, ...]:
        votes, theirs = _on(value_of, mine), _on(value_of, borrowed)
        weight = config.prior_weight
        return count_votes(votes, theirs, prior, prior_weight=weight, min_donors=least)

    usual = polled_shares(_on(lambda i: i.rating, polled), least)
    labels = polled_shares(_on(lambda i: i.label, polled), least)
    is_estimated = branches.graph and desk.ways.votes
    likely_labels = estimated_labels(*asked, labels) if is_estimated else None
    likely_ratings = estimated_ratings(*asked, usual) if is_estimated else None
    of_labels = counted(lambda i: i.label, likely_labels or labels)
    ratings = counted(lambda i: i.rating, likely_ratings or usual)
    ratings = tuple(sorted(ratings, key=lambda share: float(share.value)))
    return Vote(
        query.user, of_labels, ratings, expected(ratings), median(ratings), len(mine), worth,
        desk.version,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Cast:
    """An interaction that votes with its label and its rating."""

    interaction: Interaction
    weight: float


def _on(value_of: Callable[[Interaction], Value | None], cast: Iterable[_Cast]) -> list[Ballot]:
    found = ((one, value_of(one.interaction)) for one in cast)
    return [Ballot(c.interaction.user, value, c.weight) for c, value in found if value is not None]


Heard = dict[tuple[int, int], list[_Cast]]
"""By row of the lender and facet; the weights are relevances."""


class _Room:
    """One request, and everybody who may vote on it."""

    def __init__(self, desk: Desk, query: Query, config: VoteConfig, allow_same_item: bool) -> None:
        self._desk, self._query, self._config = desk, query, config
        self._allow_same_item = allow_same_item
        self.vector = desk.cache.of_request(query.text)
        self.routed = desk.state.facets.route(self.vector)
        self._direction = self._centred(self.vector[None])[0]
        self.facets: list[int] = np.flatnonzero(self.routed > 0).tolist()

    def _centred(self, vectors: Array) -> Array:
        return centred_unit(vectors, self._desk.state.facets.center)

    def _relevance(self, vectors: Array) -> list[float]:
        """Of texts to the request: the centred cosine, from the floor to 1."""
        cosines = np.maximum(self._centred(vectors) @ self._direction, 0)
        return list((self._config.floor + (1 - self._config.floor) * cosines).tolist())

    def worth(self, view: UserView) -> float:
        """What all peers together weigh; 0 where nothing is borrowed."""
        models, done = self._desk.state.models, [view.facets[f] for f in self.facets]
        before = np.array([confidence_of(one.own_confidence, models) for one in done])
        after = np.array([confidence_of(one.confidence, models) for one in done])
        abstained = np.array([bool(one.abstained) for one in done])
        return borrowing_worth(self.routed[self.facets], before, after, abstained)

    def own(self, own: Own) -> Iterator[_Cast]:
        """The user's own interactions, in any facet, by relevance."""
        relevances = self._relevance(own.corpus.inputs) if own.history else []
        for interaction, relevance in zip(own.history, relevances, strict=True):
            if self._may_vote(interaction) and not answers_the_request(self._query, interaction):
                yield _Cast(interaction, relevance)

    def _may_vote(self, interaction: Interaction) -> bool:
        at, now = interaction.at, self._query.at
        is_earlier = at is None or now is None or at < now
        says = interaction.label is not None or interaction.rating is not None
        return is_earlier and says and (
            self._allow_same_item or not is_same_item(self._query, interaction)
        )  # fmt: skip

    # ---- others ------------------------------------------------------------------------------

    def sample(self) -> list[Array]:
        """Rows of lenders to be polled in each routed facet: the same for everybody there."""
        state, found = self._desk.state, []
        for f in self.facets:
            known = np.flatnonzero(state.states.support[:, f] >= state.config.graph.min_support)
            n = min(self._config.polled, len(known))
            found.append(known[np.linspace(0, len(known) - 1, n).astype(np.int64)])
        return found

    def borrowed(self, view: UserView, heard: Heard, worth: float) -> Iterator[_Cast]:
        """Peers' votes: worth · q_f · α_v · relevance."""
        for f in self.facets:
            done = view.facets[f]
            if done.abstained:
                continue
            share = worth * float(self.routed[f])
            peers = zip(done.peers.rows.tolist(), done.peers.weights.tolist(), strict=True)
            for row, weight in peers:
                cast = heard.get((row, f), [])
                # Who was read whole speaks with all they said, as loudly as with `per_peer` votes.
                scale = share * weight * min(1.0, self._config.per_peer / max(len(cast), 1))
                yield from (_Cast(one.interaction, scale * one.weight) for one in cast)

    def polled(self, sample: Sequence[Array], heard: Heard) -> Iterator[_Cast]:
        """Votes of the sample: every lender the same weight in a facet."""
        for f, rows in zip(self.facets, sample, strict=True):
            for row in rows.tolist():
                cast = heard.get((row, f), [])
                weight = float(self.routed[f]) / max(len(cast), 1)
                yield from (_Cast(one.interaction, weight) for one in cast)

    def hear(self, rows: Array) -> Heard:
        """What these lenders, as far as they lend now, said in the routed facets."""
        desk, user = self._desk, self._query.user
        names = {row: desk.state.lenders[row] for row in rows.tolist()}
        names = {row: n for row, n in names.items() if n != user and desk.policy.lends(n)}
        quotable = rows[np.isin(rows, desk.items.authors)].tolist()
        quoting = {r for r in quotable if r in names and desk.policy.lends_text(names[r])}
        counted = {row: name for row, name in names.items() if row not in quoting}
        return self._likest(np.array(sorted(quoting), np.int64)) | self._newest(counted)

    def _likest(self, rows: Array) -> Heard:
        """The items of those who lend text that are most like the request, with their relevance."""
        desk, items = self._desk, self._desk.items
        if not len(rows):
            return {}
        likeness = items.likeness(self.vector, self._query.at)
        n_each = _SPARE * self._config.per_peer
        chosen = np.concatenate([
            items.best_of_each(likeness, items.of_lenders(rows, f), n_each) for f in self.facets
        ])  # fmt: skip
        chosen = chosen[likeness[chosen] > -np.inf]
        stored = desk.store.interactions(
            desk.namespace, [items.ids[row] for row in chosen.tolist()]
        )
        relevances = self._relevance(items.vectors[chosen].astype(np.float32))
        heard: Heard = {}
        for row, relevance in sorted(zip(chosen.tolist(), relevances, strict=True),
                                     key=lambda pair: (-pair[1], pair[0])):  # fmt: skip
            said, lender = stored.get(items.ids[row]), int(items.lenders[row])
            if said is None or said.user != desk.state.lenders[lender] or not self._may_vote(said):
                continue
            cast = heard.setdefault((lender, int(items.facets[row])), [])
            if len(cast) < self._config.per_peer:
                cast.append(_Cast(said, relevance))
        return heard

    def _newest(self, names: dict[int, str]) -> Heard:
        """What those who lend statistics said last; each counts at the floor."""
        desk = self._desk
        said = [
            (row, one)
            for row, name in names.items()
            for one in desk.store.history(
                desk.namespace, name, before=self._query.at, limit=self._config.latest
            )
            if self._may_vote(one)
        ]
        hashes = [content_hash(one.input_text) for _, one in said]
        vectors = desk.store.embeddings(desk.namespace, desk.cache.name, hashes)
        seen = [n for n, key in enumerate(hashes) if key in vectors]
        if not seen:
            return {}
        inputs = np.stack([vectors[hashes[n]] for n in seen]).astype(np.float32)
        facets = desk.state.facets.assign(inputs, [said[n][1].facet for n in seen]).tolist()
        heard: Heard = {}
        for n, f in zip(seen, facets, strict=True):
            row, one = said[n]
            heard.setdefault((row, f), []).append(_Cast(one, self._config.floor))
        return heard
