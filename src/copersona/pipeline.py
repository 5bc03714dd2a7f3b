"""The front door: interactions in, a personalised answer out.

    cp = copersona.open("people.db")
    cp.add([...]); cp.fit(); cp.chat("ana", "…")

Holds a store, an encoder and the fitted state in force, notices when another process publishes a
newer one, and asks `consent` before anything of another user is read. All the method's arithmetic
lives in the modules it calls; nothing is computed here.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from copersona.answering.ballots import vote
from copersona.answering.choosing import rank_answers, sampled
from copersona.answering.explain import nameless, trace_of
from copersona.answering.prompting import PromptConfig
from copersona.answering.serving import Answered, Desk
from copersona.answering.vectors import VectorCache
from copersona.backups import back_up
from copersona.config import CoPersonaConfig
from copersona.consent import Policy
from copersona.departure import complete, receipt_of, take_out
from copersona.errors import NotFittedError
from copersona.fitting import Fitted, aligned, fit_rows, is_still_lent, lent
from copersona.histories import Histories
from copersona.ingestion import encoded
from copersona.language.backends import Backends
from copersona.language.generation import Generator
from copersona.language.models import require_torch
from copersona.learnt import GATE, GRAPH, SOFT
from copersona.method.corpus import Corpus
from copersona.method.fitted import FittedState
from copersona.parametric import Parametric
from copersona.policies import Policies
from copersona.published import Published, States, state_folder
from copersona.records import (
    BOTH,
    Branches,
    Context,
    Interaction,
    Persona,
    Query,
    Vote,
)
from copersona.reports import (
    Answer,
    Explanation,
    FitReport,
    Receipt,
    TrainReport,
)
from copersona.softprompts.config import SoftPromptConfig
from copersona.storage.backup_log import TakenBackup
from copersona.storage.store import Store

Progress = Callable[[str, int, int], None]


class CoPersona(Histories):
    """One namespace of one store, with its encoder, fitted state and language model."""

    def __init__(
        self,
        store: Store,
        *,
        namespace: str,
        state_root: Path,
        encoder: str | None,
        generator: str | None,
        config: CoPersonaConfig,
        api_key: str | None = None,
        encoder_api_key: str | None = None,
    ) -> None:
        super().__init__(store, namespace)
        self.config = config
        self._root = state_root
        self._backends = Backends(
            encoder, generator, api_key=api_key, encoder_api_key=encoder_api_key
        )
        self._states = States(state_root, namespace)
        self._policies = Policies(store, namespace, self._states)
        self._parametric = Parametric(self._backends)
        self._secret = store.pseudonym_key(namespace)

    @classmethod
    def open(
        cls,
        store: str | Path,
        *,
        namespace: str = "default",
        encoder: str | None = None,
        generator: str | None = None,
        state_dir: Path | None = None,
        config: CoPersonaConfig | None = None,
        api_key: str | None = None,
        encoder_api_key: str | None = None,
    ) -> Self:
        """Open, and create where it is not there, a store and what was fitted on it.

        Args:
            store: a file (SQLite) or a database URL.
            encoder: `hashing`, `static`, `minilm`, `st:NAME`, `openai:MODEL@URL`; chosen at the
                first fit where None.
            generator: `openai:MODEL@URL`, `local:NAME` or `echo`; only `chat` needs one. None means
                `local:smollm2`, where it is installed.
            state_dir: folder of fitted states; beside the file where None.
            api_key: for `openai:`; goes to the language model, and to an encoder at its address.
            encoder_api_key: for an `openai:` encoder at another address.

        Raises:
            StoreError: the store cannot be opened.
            ConfigError: a database URL without `state_dir`.
        """
        root = state_folder(store, state_dir)
        return cls(
            Store.open(store), namespace=namespace, encoder=encoder, generator=generator,
            state_root=root, config=config or CoPersonaConfig(),
            api_key=api_key, encoder_api_key=encoder_api_key,
        )  # fmt: skip

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- consent and erasure -------------------------------------------------------------------

    def policy(self) -> Policy:
        """Everybody's consent as it is now; read again only when something changed."""
        return self._policies.now()

    def forget(self, user: str, *, strict: bool = False) -> Receipt:
        """Erase a user everywhere, at once, and say what an independent scan still finds.

        Args:
            strict: what was trained on the user is served no more, until it is trained anew.

        """
        departed = take_out(
            self.store, self.namespace, self._states, self.name(user),
            lambda published, history: self._desk(published).own_corpus(history), strict=strict,
        )  # fmt: skip
        self.repair()
        return receipt_of(self.store, self.namespace, self._states, departed)

    def repair(self) -> int:
        """Complete what processes that were killed left of forgetting; how many users it was about.

        Cheap where there is nothing to do; else it may fit anew.
        """
        return complete(self.store, self.namespace, self._states, self._fit_again)

    # ---- fitting -------------------------------------------------------------------------------

    def fit(self, *, progress: Progress | None = None) -> FitReport:
        """Learn from everybody who lends and publish the new state.

        Raises:
            DataError: nobody lends anything.
        """
        start = time.perf_counter()
        revision, rows = self._lent()
        spec, why = self._backends.encoder_for(2 * len(rows))
        done = self._fitted(rows, revision, spec, progress)
        with self._states.replacing():
            if self.store.revision(self.namespace) != revision:
                revision, now = self._lent()
                if not is_still_lent(rows, now):  # somebody left, or took something back
                    done = self._fitted(now, revision, spec, progress)
            version, state = self._publish(done), done.state
        self.repair()
        return FitReport(
            version, why, self.store.n_users(self.namespace), len(state.lenders),
            done.n_interactions, state.facets.names, "" if state.calibration.believes else
            "on masked facets peers added nothing measurable: completion will borrow nothing",
            done.warnings, time.perf_counter() - start,
        )  # fmt: skip

    def _lent(self) -> tuple[int, list[Interaction]]:
        """What is lent, and a revision of the store in which all of it was there."""
        revision = self.store.revision(self.namespace)  # before the rows: none is missed later
        return revision, lent(self.store, self.namespace, self.policy())

    def _fitted(
        self, rows: list[Interaction], revision: int, spec: str, progress: Progress | None
    ) -> Fitted:
        done = fit_rows(
            rows, self._cache(spec), spec, self.policy(), self.config.method, time.time(), progress
        )  # fmt: skip
        return replace(done, state=replace(done.state, revision=revision))

    def _publish(self, done: Fitted) -> str:
        version = self._states.publish(done.state, done.items, done.words)
        self._states.prune()
        return version

    def _fit_again(self) -> None:
        """Fit what is lent now, for whoever has seen to it that nobody else publishes."""
        revision, rows = self._lent()
        spec, _ = self._backends.encoder_for(2 * len(rows))
        self._publish(self._fitted(rows, revision, spec, None))

    def train(
        self,
        *,
        graph: bool = False,
        soft_prompt: bool = False,
        gate: bool = False,
        steps: int | None = None,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> TrainReport:
        """Train parts on the fitted state, and publish each of them with it as soon as it is done.

        A training that was killed goes on where it was. Until the next `fit`, which starts anew,
        what was trained is used where it was found to help on users it has not seen.

        Args:
            graph, soft_prompt, gate: what is trained, in this order; graph reasoning where nothing
                is named. What was trained on top of it before is dropped.
            steps: most steps of the soft prompts, in the place of the configured ones.
            device: `cpu`, or `cuda` where there is one.

        Raises:
            NotFittedError: nothing was fitted yet.
            ConfigError: soft prompts or the gate, and the language model is not in this process.
            MissingExtraError: torch, or the language model, is not installed.
            DataError: too few lenders allow training, or have enough to learn from.
        """
        self._required()
        scorer = self._backends.scorer(device) if soft_prompt or gate else None
        require_torch()
        from copersona.curriculum import Curriculum  # noqa: PLC0415  it needs torch

        config = self.config
        if steps is not None:
            soft = SoftPromptConfig(**{**config.soft_prompt.model_dump(), "steps": steps})
            config = config.model_copy(update={"soft_prompt": soft})

        def corpus_of(state: FittedState) -> Corpus:
            return aligned(encoded(self._lent()[1], self._cache(state.encoder), progress), state)

        named = {GRAPH: graph, SOFT: soft_prompt, GATE: gate}
        return Curriculum(
            self._states, config, self._required, corpus_of, self._desk, scorer, device, progress
        ).train([part for part, is_named in named.items() if is_named] or [GRAPH])

    def _cache(self, spec: str) -> VectorCache:
        return VectorCache(self.store, self.namespace, self._backends.encoder(spec))

    def state(self) -> FittedState:
        """The fitted state in force.

        Raises:
            NotFittedError: nothing was fitted yet.
        """
        return self._required().state

    def state_version(self) -> str:
        """Version of the fitted state in force.

        Raises:
            NotFittedError: nothing was fitted yet.
        """
        return self._required().version

    # ---- answers -------------------------------------------------------------------------------

    def persona(self, user: str) -> Persona:
        """A user's completed profile; the population prior with confidence 0 for a stranger.

        Raises:
            NotFittedError: nothing was fitted yet.
        """
        desk, user = self._desk(self._required()), self.name(user)
        own = desk.own(user)
        return desk.persona(desk.view(user, own.corpus), own)

    def prompt(
        self,
        user: str,
        text: str,
        *,
        instruction: str = "",
        item: str | None = None,
        at: float | None = None,
        budget_tokens: int | None = None,
        branches: Branches = BOTH,
    ) -> Context:
        """The context for one request, within the token budget, and a trace of how it came about.

        Args:
            branches: which may speak; with none the request goes out unchanged.

        Raises:
            NotFittedError: nothing was fitted yet.
        """
        asked_at = time.time() if at is None else at
        query = Query(self.name(user), text, instruction, asked_at, item)
        done, detail = self._answer_for(query, budget_tokens, branches)
        context = done.context
        trace_id = secrets.token_hex(8)
        detail["text"] = self.masked(query.text)
        shown = [one.interaction_id for one in context.evidence]
        is_kept = self.store.put_trace(
            self.namespace, query.user, trace_id, detail, quotes=done.quoted, items=shown
        )
        if not is_kept:
            trace_id = ""  # of a user who is not to be remembered
        evidence = tuple(nameless(one, query.user, self._secret) for one in context.evidence)
        degraded = (self._states.degraded,) if self._states.degraded else ()
        missing = self._parametric.parts(self._required()).missing.values()
        return replace(context, trace_id=trace_id, evidence=evidence,
                       warnings=(*degraded, *missing, *context.warnings))  # fmt: skip

    def _answer_for(
        self, query: Query, budget: int | None, branches: Branches
    ) -> tuple[Answered, dict[str, Any]]:
        settings = self.config.prompt
        if budget is not None:
            settings = PromptConfig(**{**settings.model_dump(), "budget_tokens": budget})
        published, count = self._required(), self._backends.count_tokens
        done = self._desk(published).answer(
            query, self.config.retrieval, settings, count, branches
        )  # fmt: skip
        unsent = self._parametric.parts(published).missing.get(SOFT, "")
        return done, trace_of(
            query, done.persona, done.routed, done.context, done.peers, done.reasoned, unsent
        )

    def vote(
        self,
        user: str,
        text: str,
        *,
        item: str | None = None,
        at: float | None = None,
        branches: Branches = BOTH,
    ) -> Vote:
        """How the user would label and rate what a text describes; no language model is called.

        Args:
            branches: `text` are ballots of own and peers' interactions, `graph` is what the state
                expects; without both a poll of lenders is left.

        Raises:
            NotFittedError: nothing was fitted yet.
        """
        asked_at = time.time() if at is None else at
        query = Query(self.name(user), text, at=asked_at, item=item)
        desk, is_allowed = self._desk(self._required()), self.config.retrieval.allow_same_item
        return vote(desk, query, self.config.vote, allow_same_item=is_allowed, branches=branches)

    def choose(self, user: str, text: str, answers: Sequence[str]) -> list[tuple[int, float]]:
        """Places of answers to a text, with how much each is of this user's kind, best first.

        Scores are in [-1, 1]; all are 0, and the order is kept, where nothing is known of the user.

        Raises:
            NotFittedError: nothing was fitted yet.
        """
        return rank_answers(
            self._desk(self._required()), Query(self.name(user), text, at=time.time()), answers
        )

    def chat(
        self,
        user: str,
        text: str,
        *,
        max_tokens: int = 256,
        temperature: float | None = None,
        n: int = 1,
        **options: Any,
    ) -> Answer:
        """A personalised answer of the language model.

        Args:
            temperature, n: as for `answer`.
            options: as for `prompt`.

        Raises:
            ConfigError: no language model is configured; nothing was computed or stored.
            BackendError: it failed; the message names the trace, which stays.
        """
        self.language_model()
        context = self.prompt(user, text, **options)
        return self.answer(context, max_tokens=max_tokens, temperature=temperature, n=n)

    def answer(
        self,
        context: Context,
        *,
        max_tokens: int = 256,
        temperature: float | None = None,
        n: int = 1,
    ) -> Answer:
        """What the language model makes of a context at hand.

        Args:
            temperature: where None, 0 for one answer and .8 for several.
            n: answers to sample; the one that is most of the user's kind is given back.

        Raises:
            ConfigError: no language model is configured, or the context holds soft tokens for
                another one.
            BackendError: it failed; the message names the trace of the context, which stays.
        """
        model = self.language_model()
        texts = sampled(model, context, n, max_tokens=max_tokens, temperature=temperature)
        if n == 1 or not (context.branches.graph and self.config.graph.chooses):
            return Answer(texts[0], context)
        ranked = rank_answers(self._desk(self._required()), context.query, texts)
        return Answer(texts[ranked[0][0]], context, tuple(score for _, score in ranked))

    def language_model(self) -> Generator:
        """What `chat` answers with; opened on first use.

        Raises:
            ConfigError: no language model is configured.
            BackendError: it cannot be opened.
        """
        return self._backends.generator()

    def explain(self, trace_id: str) -> Explanation:
        """Why the context of a kept trace was as it was.

        Raises:
            UnknownUserError: no such trace.
        """
        _, detail = self.store.trace(self.namespace, trace_id)
        return Explanation(trace_id, detail)

    def explain_query(
        self,
        user: str,
        text: str,
        *,
        budget_tokens: int | None = None,
        branches: Branches = BOTH,
        **options: Any,
    ) -> Explanation:
        """Why a request would get the context it would get; nothing is kept."""
        query = Query(self.name(user), text, at=time.time(), **options)
        return Explanation("", self._answer_for(query, budget_tokens, branches)[1])

    def _required(self) -> Published:
        published = self._states.in_force()
        if published is None:
            raise NotFittedError(
                f"nothing is fitted in namespace {self.namespace!r}; "
                "call fit(), or `copersona fit`, first"
            )
        return published

    def _desk(self, published: Published) -> Desk:
        cache, parts = self._cache(published.state.encoder), self._parametric.parts(published)
        version, state, items, words, _ = published
        return Desk(
            self.namespace, version, state, items, words, self.store, cache, self.policy(),
            self._secret, reasoner=parts.reasoner, prompter=parts.prompter, gate=parts.gate,
            ways=self.config.graph,
        )  # fmt: skip

    # ---- operations ----------------------------------------------------------------------------

    def back_up(self, directory: Path) -> TakenBackup:
        """Write the store, with all its namespaces, and its fitted states to a folder.

        Raises:
            ConfigError: the folder holds something.
        """
        return back_up(self.store, self._root, directory)

    def doctor(self) -> list[str]:
        """Problems of the store and the fitted states; empty when all is sound."""
        return [*self.store.integrity(), *self._cut_off(), *self._states.problems()]

    def _cut_off(self) -> list[str]:
        count = len(self.store.departures.under_way(self.namespace))
        return [f"{count} users are forgotten and not yet out of every fitted state; "
                "`copersona repair` completes it"] if count else []  # fmt: skip
