"""Answers for one user under one fitted state: persona, evidence, context.

Everything is computed from the user's own stored history and the lenders who lend now; nothing of
it is kept. `pipeline` decides which state, encoder and policy are in force and passes them in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.completion import FacetCompletion, confidence_of
from copersona.consent import Policy, pseudonym
from copersona.corpus import Corpus, build_corpus
from copersona.fitted import FittedState, UserView
from copersona.profiles import OwnEvidence
from copersona.records import FacetPersona, Interaction, Persona, Query, Tendency
from copersona.retrieval import Candidate
from copersona.store import Store
from copersona.tendencies import describe
from copersona.text_items import TextItems
from copersona.vectors import VectorCache

Array = NDArray[Any]

ITEMS_PER_PEER = 5
POPULATION = 20


@dataclass(frozen=True)
class Desk:
    """What is needed to answer for anybody: the state in force and who allows what now."""

    namespace: str
    version: str
    state: FittedState
    items: TextItems
    store: Store
    cache: VectorCache
    policy: Policy
    secret: bytes

    def own_corpus(self, history: Sequence[Interaction]) -> Corpus:
        """A user's own history as a corpus of one."""
        inputs = self.cache.vectors([i.input_text for i in history])
        responses = self.cache.vectors([i.response_text for i in history])
        return build_corpus(history, inputs, responses)

    def view(self, user: str, corpus: Corpus) -> UserView:
        """One user's completed facets."""
        state = self.state
        if len(corpus):
            evidence = state.evidence_of(corpus)
        else:
            shape = (1, state.n_facets)
            evidence = OwnEvidence(
                np.zeros((*shape, len(state.models)), np.float32),
                np.zeros((*shape, state.residuals.n_columns), np.float32),
            )
        return state.view(
            user, evidence, learns=self.policy.learns(user),
            may_lend=lambda peer: peer != user and self.policy.lends(peer),
        )  # fmt: skip

    def persona(self, view: UserView, instructions: Sequence[str], n_interactions: int) -> Persona:
        """A view as a record, with what can be said in words."""
        facets = tuple(self._facet(view, f, done) for f, done in enumerate(view.facets))
        mode = "own"
        if self.policy.learns(view.user):
            mode = "text" if len(self.items.ids) else "aggregate"
        return Persona(view.user, facets, tuple(instructions), n_interactions, mode, self.version)

    def _facet(self, view: UserView, f: int, done: FacetCompletion) -> FacetPersona:
        state, views = self.state, self.state.residuals.views
        support = view.support[f]
        said = [v.name for n, v in enumerate(views) if view.evidence.support[0, f, n] > 0]
        own = describe(done.own, views, said, contributors=0) if support > 0 else ()
        n_contributors = max(done.borrowed_views.values(), default=0)
        borrowed: tuple[Tendency, ...] = ()
        for view_name, n in done.borrowed_views.items():
            borrowed += describe(done.completed, views, [view_name], contributors=n)
        models = state.models
        own_confidence = confidence_of(done.own_confidence, models)
        confidence = confidence_of(done.confidence, models)
        return FacetPersona(
            f, state.facets.names[f], round(float(support), 3), own_confidence,
            max(confidence, own_confidence), n_contributors,
            0.0 if done.abstained else done.peers.alignment, done.abstained, own + borrowed,
        )  # fmt: skip

    def candidates(
        self,
        query: Query,
        vector: Array,
        routed: Array,
        view: UserView,
        history: Sequence[Interaction],
        corpus: Corpus,
    ) -> list[Candidate]:
        """Own history, and where text may be lent, items of peers and of the population."""
        facets = self.state.facets.assign(corpus.inputs, corpus.declared)
        own = [
            Candidate("own", "you", interaction, corpus.inputs[n], int(facets[n]))
            for n, interaction in enumerate(history)
        ]
        if not len(self.items.ids) or not self.policy.learns(query.user):
            return own
        alignment: dict[int, tuple[str, float]] = {}
        for f in np.flatnonzero(routed > 0).tolist():
            done = view.facets[f]
            if not done.abstained:
                self._peer_rows(vector, f, done, alignment)
        for row in self.items.nearest(vector, POPULATION).tolist():
            alignment.setdefault(row, ("population", 0.0))
        return own + self._quoted(query, alignment)

    def _peer_rows(
        self, vector: Array, f: int, done: FacetCompletion, found: dict[int, tuple[str, float]]
    ) -> None:
        for lender, score in zip(done.peers.rows.tolist(), done.peers.alignments.tolist(),
                                 strict=True):  # fmt: skip
            rows = self.items.of_lender(lender, f)
            for row in self.items.nearest(vector, ITEMS_PER_PEER, rows).tolist():
                found[row] = ("peer", score)

    def _quoted(self, query: Query, rows: dict[int, tuple[str, float]]) -> list[Candidate]:
        """Items read from the store, of authors who lend text at this moment."""
        ids = {self.items.ids[row]: row for row in rows}
        stored = self.store.interactions(self.namespace, list(ids))
        found = []
        for interaction_id, interaction in sorted(stored.items()):
            row = ids[interaction_id]
            author = interaction.user
            if author == query.user or not self.policy.lends_text(author):
                continue
            origin, score = rows[row]
            found.append(Candidate(
                "peer" if origin == "peer" else "population",
                pseudonym(self.secret, query.user, author), interaction,
                self.items.vectors[row].astype(np.float32), int(self.items.facets[row]), score,
            ))  # fmt: skip
        return found

    def expected_length(self, routed: Array, view: UserView) -> float | None:
        """Log of the number of words this user is expected to write, by the completed habits."""
        model = self.state.residuals
        style = next((v for v in model.views if v.name == "style"), None)
        if style is None:
            return None
        column = style.start  # the first habit is the length
        standard = sum(
            weight * (model.facet_means[f, column] + view.facets[f].completed[column])
            for f, weight in enumerate(routed.tolist())
        )
        return float(standard * model.scale[column] + model.location[column])
