"""Answers for one user under one fitted state: persona, evidence, context.

Everything is computed from the user's own stored history and the lenders who lend now; nothing of
it is kept. `pipeline` decides which state, encoder and policy are in force and passes them in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.answering.blocks import CountTokens
from copersona.answering.gate import Choice, Gate, GateFeatures
from copersona.answering.gating import gate_features, let_in
from copersona.answering.graph_branch import EVERY_WAY, GraphBranchConfig
from copersona.answering.prompting import PromptConfig, render
from copersona.answering.retrieval import Candidate, RetrievalConfig, rank
from copersona.answering.sources import Prompter, Reasoner, Records, Vectors
from copersona.answering.tendencies import describe, told_words
from copersona.answering.text_items import TextItems, best
from copersona.answering.trust import shifts
from copersona.answering.words import WordCounts, own_words, peer_words, wording
from copersona.consent import Policy, pseudonym
from copersona.method.completion import FacetCompletion, confidence_of
from copersona.method.corpus import Corpus, build_corpus
from copersona.method.fitted import FittedState, UserView
from copersona.method.profiles import OwnEvidence
from copersona.records import (
    BOTH,
    Branches,
    Context,
    FacetPersona,
    Interaction,
    Origin,
    Peer,
    Persona,
    Query,
    Tendency,
)

Array = NDArray[Any]

ITEMS_PER_PEER = 5
PEERS_ITEMS = 40
POPULATION = 20
"""Most items of any one peer in a facet, of all peers, and of the population, that are read."""
HINT = 0.2
"""Confidence from the user's other facets above which they are taken as a hint for an empty one."""
TAUGHT = 0.05
"""Gain in confidence from which on the words of peers are said."""
_SPARE = 3


@dataclass(frozen=True)
class Own:
    """What is stored of one user, ready to be answered from."""

    history: Sequence[Interaction]
    instructions: tuple[str, ...]
    corpus: Corpus
    verdicts: Mapping[str, tuple[int, int]]

    def take(self, rows: Sequence[int]) -> Own:
        """The same with some of the history only."""
        some = np.array(rows, np.int64)
        history = [self.history[row] for row in rows]
        return Own(history, self.instructions, self.corpus.take(some), self.verdicts)


@dataclass(frozen=True)
class Look:
    """What is there to answer a request from: the user's view of the routed facets, and candidates.

    Shapes:
        vector (dim,): of the request · routed (n_facets,)
    """

    query: Query
    own: Own
    vector: Array
    routed: Array
    view: UserView
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Answered:
    """A context and what it rests on.

    Attributes:
        persona: of the routed facets only.
        peers: who stands in for the user there, where they allow being told apart.
        quoted: ids of the other users whose words the context holds.
        reasoned: views in which graph reasoning corrected the persona.

    Shapes:
        routed (n_facets,)
    """

    persona: Persona
    routed: Array
    context: Context
    peers: tuple[Peer, ...]
    quoted: frozenset[str]
    reasoned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Desk:
    """What is needed to answer for anybody: the state in force and who allows what now.

    Attributes:
        secret: key of the pseudonyms.
        fence: marks what is quoted; drawn for each request where None, which is the safe way.
        searches_anew: peers are searched by the evidence of this moment, also for somebody whose
            neighbours the fitted state lists; an evaluation that cuts histories needs it.
        reasoner: corrects what completion says; None leaves it as it is.
        prompter: makes soft prompts; None makes none.
        gate: chooses what may enter; None lets everything in.
        ways: in which ways the graph branch may speak.
    """

    namespace: str
    version: str
    state: FittedState
    items: TextItems
    words: WordCounts
    store: Records
    cache: Vectors
    policy: Policy
    secret: bytes
    fence: str | None = None
    searches_anew: bool = False
    reasoner: Reasoner | None = None
    prompter: Prompter | None = None
    gate: Gate | None = None
    ways: GraphBranchConfig = EVERY_WAY

    def own(self, user: str, before: float | None = None) -> Own:
        """All that is stored of a user; texts that are not encoded yet are encoded now.

        Args:
            before: only what is older, or has no time.
        """
        kept = self.store.remembered(self.namespace, user, encoder=self.cache.name, before=before)
        inputs = self.cache.completed([i.input_text for i in kept.history], kept.inputs)
        responses = self.cache.completed([i.response_text for i in kept.history], kept.responses)
        corpus = build_corpus(kept.history, inputs, responses)
        return Own(kept.history, kept.instructions, corpus, kept.verdicts)

    def own_corpus(self, history: Sequence[Interaction]) -> Corpus:
        """A user's own history as a corpus of one."""
        inputs = self.cache.vectors([i.input_text for i in history])
        responses = self.cache.vectors([i.response_text for i in history])
        return build_corpus(history, inputs, responses)

    def look(self, query: Query, own: Own | None = None) -> Look:
        """What is there to answer a request from, before anything is chosen.

        Args:
            own: what is known of the user; all that is stored from before the request where None.
        """
        own = own or self.own(query.user, before=query.at)
        vector = self.cache.of_request(query.text)
        routed = self.state.facets.route(vector)
        view = self.view(query.user, own.corpus, np.flatnonzero(routed > 0).tolist())
        found = self.candidates(query, vector, routed, view, own.history, own.corpus)
        return Look(query, own, vector, routed, view, tuple(_trusted(found, own)))

    def answer(
        self,
        query: Query,
        retrieval: RetrievalConfig,
        prompt: PromptConfig,
        count_tokens: CountTokens,
        branches: Branches = BOTH,
    ) -> Answered:
        """The context of one request, and everything an explanation needs."""
        look = self.look(query)
        choice = None
        if self.gate and (branches.text or branches.graph):
            has_soft = self._soft(look, branches) is not None
            choice = self.gate.choose(self.features(look), has_soft=has_soft)
        return self.answer_from(look, retrieval, prompt, count_tokens, branches, choice)

    def features(self, look: Look) -> GateFeatures:
        """What the gate is told."""
        return gate_features(
            self.state, look.view, look.routed, look.vector, look.own.corpus, look.candidates
        )

    def answer_from(
        self,
        look: Look,
        retrieval: RetrievalConfig,
        prompt: PromptConfig,
        count_tokens: CountTokens,
        branches: Branches = BOTH,
        choice: Choice | None = None,
    ) -> Answered:
        """The same from what was looked up.

        Args:
            choice: what the gate lets in; everything where None.
        """
        query, view, routed = look.query, look.view, look.routed
        persona = self.persona(view, look.own)
        if choice is not None:
            persona = let_in(persona, choice)
            retrieval = retrieval.model_copy(update={"origins": retrieval.origins & choice.origins})
        if not (branches.graph and self.ways.says_text):
            persona = unsaid(persona)
        length = expected_length(self.state, routed, view) if retrieval.beta_length else None
        weighed = retrieval.preferring_own(self.state.own_preference)
        found = look.candidates if branches.text else ()
        evidence = rank(query, look.vector, routed, found, weighed, expected_length=length)
        is_anything = branches.text or branches.graph
        context = render(
            query, persona if is_anything else None, evidence, routed, prompt, count_tokens,
            rng_fence=self.fence,
        )  # fmt: skip
        soft = self._soft(look, branches) if choice is None or choice.has_soft else None
        context = replace(
            context, branches=branches, soft=soft, choice=choice.name if choice else "",
            is_personalised=context.is_personalised or soft is not None,
        )  # fmt: skip
        shown = {e.interaction_id for e in context.evidence if e.origin != "own"}
        quoted = frozenset(c.interaction.user for c in found if c.interaction.id in shown)
        reasoned = dict.fromkeys(v for done in view.facets.values() for v in done.reasoned_views)
        return Answered(
            persona, routed, context, tuple(self._peers(persona, view)), quoted, tuple(reasoned)
        )  # fmt: skip

    def _soft(self, look: Look, branches: Branches) -> Array | None:
        """Soft tokens, where they may be sent and something is known of the user.

        Whoever does not learn from others gets none: others taught what they say.
        """
        may_send = branches.graph and self.ways.sends_soft and self.policy.learns(look.query.user)
        if self.prompter is None or not may_send:
            return None
        return self.prompter.soft(look.view, look.routed, look.vector)

    def view(self, user: str, corpus: Corpus, facets: Sequence[int] | None = None) -> UserView:
        """One user's completed facets; all of them where none are named."""
        state, learns = self.state, self.policy.learns(user)
        if len(corpus):
            evidence = state.evidence_of(corpus)
        else:
            shape = (1, state.n_facets)
            evidence = OwnEvidence(
                np.zeros((*shape, len(state.models)), np.float32),
                np.zeros((*shape, state.residuals.n_columns), np.float32),
            )

        def may_lend(peer: str) -> bool:
            return peer != user and self.policy.lends(peer)

        view = state.view(
            user, evidence, learns=learns, facets=facets, searches_anew=self.searches_anew,
            may_lend=may_lend,
        )  # fmt: skip
        return self.reasoner.corrected(view, may_lend) if self.reasoner and learns else view

    def persona(self, view: UserView, own: Own) -> Persona:
        """A view as a record, with what can be said in words."""
        assigned = self.state.facets.assign(own.corpus.inputs, own.corpus.declared).tolist()
        described = []
        for f in view.facets:
            texts = [wording(i) for i, at in zip(own.history, assigned, strict=True) if at == f]
            described.append(self._facet(view, f, texts))
        return Persona(
            view.user, tuple(described), own.instructions, len(own.history),
            self._mode(view.user), self.version,
        )  # fmt: skip

    def _mode(self, user: str) -> str:
        if not self.policy.learns(user):
            return "own"
        authors = (self.state.lenders[row] for row in self.items.authors.tolist())
        may_quote = any(a != user and self.policy.lends_text(a) for a in authors)
        return "text" if may_quote else "aggregate"

    def _facet(self, view: UserView, f: int, texts: Sequence[Sequence[str]]) -> FacetPersona:
        state, models, done = self.state, self.state.models, view.facets[f]
        n_contributors = max(done.borrowed_views.values(), default=0)
        own_confidence = confidence_of(done.own_confidence, models)
        confidence = confidence_of(done.confidence, models)
        return FacetPersona(
            f, state.facets.names[f], round(float(view.support[f]), 3), own_confidence,
            max(confidence, own_confidence), n_contributors,
            done.peers.alignment if done.borrowed_views else 0.0,
            "" if done.borrowed_views else done.abstained,
            (*self._own_tendencies(view, f, done), *self._own_words(view.user, f, texts),
             *self._borrowed_tendencies(f, done), *self._peers_words(view.user, f, done)),
        )  # fmt: skip

    def _own_tendencies(
        self, view: UserView, f: int, done: FacetCompletion
    ) -> tuple[Tendency, ...]:
        """What own evidence says: in the facet, or for an empty one what the others hint at."""
        views = self.state.residuals.views
        if view.support[f] > 0:
            is_said = view.evidence.support[0, f] > 0
        else:
            is_said = done.own_confidence >= HINT
        said = [v.name for v, is_known in zip(views, is_said.tolist(), strict=True) if is_known]
        n_words = _n_words(self.state, f, done.own)
        return describe(done.own, views, said, contributors=0, n_words=n_words)

    def _borrowed_tendencies(self, f: int, done: FacetCompletion) -> tuple[Tendency, ...]:
        found: tuple[Tendency, ...] = ()
        views = self.state.residuals.views
        n_words = _n_words(self.state, f, done.completed) if done.borrowed_views else None
        for name, n in done.borrowed_views.items():
            found += describe(done.completed, views, [name], contributors=n, n_words=n_words)
        return found

    def _own_words(self, user: str, f: int, texts: Sequence[Sequence[str]]) -> tuple[Tendency, ...]:
        row = self.state.row_of.get(user)
        found = own_words(texts, f, self.words, lender=row)
        return (told_words(found, contributors=0),) if found else ()

    def _peers_words(self, user: str, f: int, done: FacetCompletion) -> tuple[Tendency, ...]:
        """Words of the peers who lend now; each was used by at least `min_donors` of them.

        They are not calibrated as estimates are: they are said only where peers taught something.
        """
        models = self.state.models
        gain = confidence_of(done.confidence, models) - confidence_of(done.own_confidence, models)
        if done.abstained or gain < TAUGHT:
            return ()
        names = [self.state.lenders[row] for row in done.peers.rows.tolist()]
        lends = np.array([name != user and self.policy.lends(name) for name in names], bool)
        found = peer_words(
            done.peers.rows, done.peers.weights, lends, f, self.words,
            self.state.config.completion.min_donors,
        )  # fmt: skip
        if not found:
            return ()
        return (told_words([w for w, _ in found], contributors=min(n for _, n in found)),)

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
        likeness = self.items.likeness(vector, query.at)
        chosen: dict[int, tuple[Origin, float]] = {
            row: ("population", 0.0) for row in self._allowed(query.user, likeness, POPULATION)
        }
        alignments = self._peers_items(view, routed, likeness)
        rows = np.array(sorted(alignments), np.int64)
        for row in self._allowed(query.user, likeness, PEERS_ITEMS, rows):
            chosen[row] = ("peer", alignments[row])
        return own + self._quoted(query, chosen)

    def _peers_items(self, view: UserView, routed: Array, likeness: Array) -> dict[int, float]:
        """Items of the peers of the routed facets, with the alignment of their authors."""
        found: dict[int, float] = {}
        for f in np.flatnonzero(routed > 0).tolist():
            done = view.facets[f]
            if done.abstained:
                continue
            rows = self.items.of_lenders(done.peers.rows, f)
            rows = self.items.best_of_each(likeness, rows, ITEMS_PER_PEER)
            peers = zip(done.peers.rows.tolist(), done.peers.alignments.tolist(), strict=True)
            alignment = dict(peers)
            lenders = self.items.lenders[rows].tolist()
            found.update(zip(rows.tolist(), (alignment[n] for n in lenders), strict=True))
        return found

    def _allowed(
        self, user: str, likeness: Array, most: int, rows: Array | None = None
    ) -> list[int]:
        """The likest rows of other authors who lend text at this moment, best first."""
        found: list[int] = []
        for row in best(likeness, _SPARE * most, rows).tolist():
            author = self.state.lenders[self.items.lenders[row]]
            if author != user and self.policy.lends_text(author):
                found.append(row)
        return found[:most]

    def _quoted(self, query: Query, rows: dict[int, tuple[Origin, float]]) -> list[Candidate]:
        """Items read from the store, if they are still by who lends text."""
        ids = {self.items.ids[row]: row for row in rows}
        stored = self.store.interactions(self.namespace, list(ids))
        found = []
        for interaction_id, interaction in sorted(stored.items()):
            row, author = ids[interaction_id], interaction.user
            if author == query.user or not self.policy.lends_text(author):
                continue
            origin, alignment = rows[row]
            found.append(Candidate(
                origin, pseudonym(self.secret, query.user, author), interaction,
                self.items.vectors[row].astype(np.float32), int(self.items.facets[row]), alignment,
            ))  # fmt: skip
        return found

    def _peers(self, persona: Persona, view: UserView) -> Iterator[Peer]:
        """Peers behind what was borrowed, of those who lend text; of others there are counts only.

        A peer who lends statistics is never told apart: differences would give it away.
        """
        alias_of: dict[int, str] = {}
        for facet in persona.facets:
            if persona.mode != "text" or facet.abstained:
                continue
            peers = view.facets[facet.facet].peers
            parts = (peers.rows.tolist(), peers.alignments.tolist(), peers.weights.tolist())
            for row, alignment, weight in zip(*parts, strict=True):
                name = self.state.lenders[row]
                if weight <= 0 or not self.policy.lends_text(name):
                    continue
                if row not in alias_of:
                    alias_of[row] = pseudonym(self.secret, view.user, name)
                yield Peer(alias_of[row], facet.facet, alignment, weight)


def _trusted(found: Sequence[Candidate], own: Own) -> Iterator[Candidate]:
    """Candidates with what the user's verdicts on earlier answers add to their scores."""
    moved = shifts(own.verdicts)
    for candidate in found:
        shift = moved.get(candidate.interaction.id)
        yield replace(candidate, trust=shift) if shift else candidate


def unsaid(persona: Persona) -> Persona:
    """A persona of which nothing is told but what the user said outright."""
    return replace(persona, facets=tuple(replace(facet, tendencies=()) for facet in persona.facets))


def expected_length(state: FittedState, routed: Array, view: UserView) -> float | None:
    """Log of 1 + the number of words this user is expected to write, by completed habits."""
    expected = 0.0
    for f in np.flatnonzero(routed > 0).tolist():
        log_words = _log_words(state, f, view.facets[f].completed)
        if log_words is None:
            return None
        expected += float(routed[f]) * log_words
    return expected


def _n_words(state: FittedState, f: int, estimate: Array) -> float | None:
    log_words = _log_words(state, f, estimate)
    return None if log_words is None else float(np.expm1(log_words))


def _log_words(state: FittedState, f: int, estimate: Array) -> float | None:
    """Log of 1 + the words of a message in a facet by someone of this tendency."""
    model = state.residuals
    style = next((m for m in state.models if m.view.name == "style"), None)
    if style is None:
        return None
    column = style.view.start  # the first habit is the length
    usual = model.facet_means[f, column] + style.center[f, 0]
    return float((usual + estimate[column]) * model.scale[column] + model.location[column])
