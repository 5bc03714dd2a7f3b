"""What systems may see: everything known before the cut, and the frame all their contexts share.

`Training` holds what was said before the cut, its vectors and the states fitted on it, each fitted
once. `World` is one setting of one task – lending mode, same items allowed or barred, token
budget – and answers with the library's own desk, whose records for a request are that request's
history and nothing that gives its target away.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from copersona.answering.blocks import CountTokens
from copersona.answering.prompting import PromptConfig, render
from copersona.answering.retrieval import Candidate, RetrievalConfig, population_only, rank
from copersona.answering.serving import Desk
from copersona.answering.sources import Vector
from copersona.answering.text_items import TextItems, best, build_text_items
from copersona.answering.words import WordCounts, count_words, wording
from copersona.consent import Policy, pseudonym
from copersona.contenders.tutoring import Tutor
from copersona.ingestion import nameable
from copersona.method.corpus import Corpus, build_corpus
from copersona.method.facets import unit
from copersona.method.fitted import FittedState, MethodConfig, fit_state
from copersona.records import Consent, Context, Evidence, Interaction, Origin, Persona
from copersona.storage.store import Remembered, content_hash
from copersona.tasks.cases import Prediction, Request, Task
from copersona.tasks.splits import Split

Array = NDArray[Any]
Mode = Literal["text", "aggregate"]
Write = Callable[[tuple[dict[str, str], ...]], str]

MOST_SHOWN = 8
"""Items offered to a context; the token budget decides how many fit."""
_SECRET = b"evaluation"


class TextVectors:
    """Vectors of texts in memory, each encoded once.

    Args:
        name: of the encoder.
        encode: texts to vectors of length 1, or 0 for an empty text: n texts -> (n, dim).
    """

    def __init__(self, name: str, encode: Callable[[Sequence[str]], Array]) -> None:
        self.name, self._encode = name, encode
        self._known: dict[bytes, NDArray[np.float16]] = {}

    def add(self, texts: Iterable[str]) -> None:
        """Encode those that are not known, in one call."""
        missing = {content_hash(text): text for text in texts}
        missing = {key: text for key, text in missing.items() if key not in self._known}
        if missing:
            rows = np.asarray(self._encode(list(missing.values())), np.float16)
            self._known.update(zip(missing, rows, strict=True))

    def vectors(self, texts: Sequence[str]) -> Array:
        """One row per text: (n, dim)."""
        keys = [content_hash(text) for text in texts]
        if any(key not in self._known for key in keys):
            self.add(texts)
        if not keys:
            return np.zeros((0, self.dim), np.float32)
        return np.stack([self._known[key] for key in keys]).astype(np.float32)

    def completed(self, texts: Sequence[str], known: Sequence[Vector | None]) -> Array:
        """See `Vectors`; what is known already is in memory here."""
        del known
        return self.vectors(texts)

    def of_request(self, text: str) -> Array:
        """The vector of one text: (dim,)."""
        return np.asarray(self.vectors([text])[0])

    @cached_property
    def dim(self) -> int:
        """Length of a vector."""
        return len(self.vectors(["dimension"])[0])

    def known(self, hashes: Sequence[bytes]) -> dict[bytes, NDArray[np.float16]]:
        """Vectors of texts by content hash, of those that were ever asked for."""
        return {key: self._known[key] for key in hashes if key in self._known}


@dataclass(frozen=True, eq=False)
class Training:
    """What was said before the cut by those who may be learnt from.

    Attributes:
        interactions: by user and time.
        cut: time of the split, which dates the states; None without times.
        warnings: what the fits said, such as that something could not be estimated.
        reasoners: graph reasoning trained on its states, see `tutoring`.
    """

    interactions: tuple[Interaction, ...]
    vectors: TextVectors
    cut: float | None = None
    warnings: list[str] = field(default_factory=list)
    reasoners: dict[int, Any] = field(default_factory=dict)
    _states: dict[str, FittedState] = field(default_factory=dict)
    _items: dict[int, tuple[FittedState, TextItems, WordCounts]] = field(default_factory=dict)

    @classmethod
    def of(cls, split: Split, vectors: TextVectors) -> Training:
        """What a split allows to be fitted on; encodes all its texts."""
        rows = [*split.fitted, *(i for case in split.cases for i in case.request.history)]
        vectors.add(text for row in rows for text in (row.input_text, row.response_text))
        vectors.add(case.request.text for case in split.cases)
        return cls(split.fitted, vectors, split.cut)

    @cached_property
    def corpus(self) -> Corpus:
        """The same as arrays, row by row."""
        rows = self.interactions
        inputs = self.vectors.vectors([row.input_text for row in rows])
        responses = self.vectors.vectors([row.response_text for row in rows])
        return build_corpus(rows, inputs, responses)

    @cached_property
    def row_of_id(self) -> dict[str, int]:
        """The row of every interaction."""
        return {interaction.id: row for row, interaction in enumerate(self.interactions)}

    @cached_property
    def rows_of_user(self) -> dict[str, range]:
        """The rows of every user, which stand together."""
        users = self.corpus.users
        bounds = np.searchsorted(users, np.arange(self.corpus.n_users + 1)).tolist()
        return {
            name: range(bounds[number], bounds[number + 1])
            for number, name in enumerate(self.corpus.user_ids)
        }

    @cached_property
    def user_means(self) -> Array:
        """Mean response vector of every user, of length 1: (n_users, dim)."""
        corpus = self.corpus
        sums = np.zeros((corpus.n_users, corpus.responses.shape[1]))
        np.add.at(sums, corpus.users, corpus.responses)
        return unit(sums)

    def state(self, config: MethodConfig | None = None) -> FittedState:
        """The state fitted with a configuration; fitted once."""
        config = config or MethodConfig()
        key = config.model_dump_json()
        if key not in self._states:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self._states[key] = fit_state(
                    self.corpus, encoder=self.vectors.name, config=config,
                    cut=float("inf") if self.cut is None else self.cut,
                    words_of_item=self._nameable, encode_words=self.vectors.vectors,
                )  # fmt: skip
            self.warnings.extend(str(one.message) for one in caught)
        return self._states[key]

    @cached_property
    def _nameable(self) -> list[list[str]]:
        return nameable(self.interactions)

    def quotable(self, state: FittedState) -> tuple[TextItems, WordCounts]:
        """All items, and the words of all users, under the facets of a state."""
        found = self._items.get(id(state.facets))
        if found is None:
            corpus = self.corpus
            facets = state.facets.assign(corpus.inputs, corpus.declared)
            ids = [row.id for row in self.interactions]
            items = build_text_items(ids, corpus, facets, np.ones(len(corpus), bool))
            words = count_words([wording(row) for row in self.interactions], corpus.users, facets,
                                n_lenders=corpus.n_users, n_facets=state.n_facets)  # fmt: skip
            found = self._items[id(state.facets)] = (state, items, words)
        return found[1:]


class Shelf:
    """The records of one request: its history, and of others what does not repeat its target.

    What `serving.Desk` reads; see `sources.Records`.
    """

    def __init__(self, training: Training, request: Request) -> None:
        self._training, self._request = training, request

    def remembered(
        self, namespace: str, user: str, *, encoder: str, before: float | None = None
    ) -> Remembered:
        """The history of the request; of anybody else nothing is asked."""
        history = self.history(namespace, user, before=before)
        nothing = (None,) * len(history)
        return Remembered(tuple(history), nothing, nothing)

    def history(
        self, namespace: str, user: str, *, before: float | None = None, limit: int | None = None
    ) -> list[Interaction]:
        """The newest interactions of a user that may be seen."""
        training = self._training
        if user == self._request.user:
            rows = list(self._request.history)
        else:
            places = training.rows_of_user.get(user, range(0))
            rows = [training.interactions[row] for row in places]
        rows = [r for r in rows if self._may_be_seen(r) and (before is None or _before(r, before))]
        return rows if limit is None else rows[max(len(rows) - limit, 0) :]

    def interactions(self, namespace: str, ids: Sequence[str]) -> dict[str, Interaction]:
        """Those of these interactions that may be seen; the user's own are in the history."""
        training, user = self._training, self._request.user
        places = (training.row_of_id[one] for one in ids if one in training.row_of_id)
        rows = (training.interactions[place] for place in places)
        return {row.id: row for row in rows if row.user != user and self._may_be_seen(row)}

    def _may_be_seen(self, row: Interaction) -> bool:
        at = self._request.at
        return row.id not in self._request.barred and (at is None or _before(row, at))

    def embeddings(
        self, namespace: str, encoder: str, hashes: Sequence[bytes]
    ) -> dict[bytes, NDArray[np.float16]]:
        """Vectors of the texts."""
        return self._training.vectors.known(hashes)


def _before(row: Interaction, at: float) -> bool:
    return row.at is None or row.at < at


@dataclass(frozen=True, eq=False)
class World:
    """One setting of one task: what a system is made with.

    Attributes:
        mode: whether other users' words may be quoted, or lend statistics only.
        allow_same_item: whether others' interactions with the item of the request count.
        budget_tokens: most that any system adds to a request.
        write: asks a language model, where one is named; None else.
        tutor: trains soft prompts and the gate, where a local language model is named.
    """

    task: Task
    training: Training
    count_tokens: CountTokens
    mode: Mode = "text"
    allow_same_item: bool = True
    budget_tokens: int = 350
    write: Write | None = None
    tutor: Tutor | None = None

    @property
    def prompt(self) -> PromptConfig:
        """The frame of every context."""
        return PromptConfig(
            budget_tokens=self.budget_tokens, max_item_tokens=max(16, self.budget_tokens // 4)
        )

    @property
    def retrieval(self) -> RetrievalConfig:
        """The library's defaults under this world's rule for same items."""
        return RetrievalConfig(allow_same_item=self.allow_same_item)

    def desk(self, request: Request, state: FittedState) -> Desk:
        """The library's own desk, for one request."""
        items, words = self.training.quotable(state)
        if self.mode == "aggregate":
            items = _nothing_quotable(items)
        return Desk(
            "evaluation", "evaluation", state, items, words, Shelf(self.training, request),
            self.training.vectors, self.policy, _SECRET, fence=fence_of(request),
            searches_anew=True,
        )  # fmt: skip

    @property
    def policy(self) -> Policy:
        """Everybody allows what the lending mode says."""
        return Policy(Consent(lend=self.mode, train=True), {})

    # ---- what baselines are made of ------------------------------------------------------------

    def own(self, request: Request) -> list[Candidate]:
        """The history as candidates of one facet."""
        vectors = self.training.vectors.vectors([i.input_text for i in request.history])
        return [
            Candidate("own", "you", interaction, vector, 0)
            for interaction, vector in zip(request.history, vectors, strict=True)
        ]

    def others(
        self, request: Request, rows: Iterable[int], origin: Origin = "population"
    ) -> list[Candidate]:
        """Rows of the training that may be shown for a request, as candidates of one facet."""
        if self.mode == "aggregate":
            return []
        training = self.training
        found = []
        for row in rows:
            said = training.interactions[row]
            if said.user == request.user or said.id in request.barred:
                continue
            vector = training.corpus.inputs[row]
            author = pseudonym(_SECRET, request.user, said.user)
            found.append(Candidate(origin, author, said, vector, 0))
        return found

    def nearest(self, request: Request, n: int, rows: Array | None = None) -> list[int]:
        """Rows of others whose inputs are most like the request, best first."""
        training = self.training
        likeness = training.corpus.inputs @ training.vectors.of_request(request.text)
        own = training.rows_of_user.get(request.user, range(0))
        likeness[own.start : own.stop] = -np.inf
        return list(best(likeness, n, rows).tolist())

    def plainly(self, *origins: Origin, most: int | None = MOST_SHOWN) -> RetrievalConfig:
        """Retrieval by relevance alone, of these origins, under the rule for same items."""
        config = population_only(most)
        return config.model_copy(
            update={"origins": frozenset(origins), "allow_same_item": self.allow_same_item}
        )

    def in_order(self, request: Request, candidates: Sequence[Candidate]) -> Prediction:
        """Candidates in the order given, the first ones best; as many as the budget holds.

        What is barred for the request, repeats it or repeats another candidate is left out.
        """
        config = self.plainly("own", "peer", "population", most=None)
        place = {one.interaction.id: n for n, one in enumerate(candidates)}
        vector = self.training.vectors.of_request(request.text)
        evidence = rank(request.query, vector, np.ones(1), candidates, config)
        evidence.sort(key=lambda one: place[one.interaction_id])
        return self.show(request, evidence[:MOST_SHOWN])

    def ranked(
        self, request: Request, candidates: Sequence[Candidate], config: RetrievalConfig
    ) -> Prediction:
        """Candidates of one facet, ranked and shown."""
        vector = self.training.vectors.of_request(request.text)
        return self.show(request, rank(request.query, vector, np.ones(1), candidates, config))

    def show(
        self,
        request: Request,
        evidence: Sequence[Evidence],
        persona: Persona | None = None,
        routed: Array | None = None,
        *,
        says_first: bool = False,
    ) -> Prediction:
        """Evidence, best first, in the frame that all systems share.

        Args:
            says_first: what is said of the user may take half of the budget before any example.
        """
        said = {"examples_first": 0, "tendency_share": 0.5} if says_first else {}
        prompt = self.prompt.model_copy(update=said)
        context = render(
            request.query, persona, evidence, np.ones(1) if routed is None else routed,
            prompt, self.count_tokens, rng_fence=fence_of(request),
        )  # fmt: skip
        return shown(context)


def shown(context: Context) -> Prediction:
    """A context as a prediction."""
    return Prediction(context.messages, context.evidence, tokens=context.tokens)


@lru_cache(maxsize=4)
def everybody(world: World) -> Prediction:
    """What people say on the whole: the share of every label, or the mean and median rating."""
    rows = world.training.interactions
    labels = Counter(row.label for row in rows if row.label is not None)
    ratings = [row.rating for row in rows if row.rating is not None]
    if world.task.kind == "label":
        return Prediction(labels={name: n / labels.total() for name, n in labels.items()})
    if not ratings:
        return Prediction()
    return Prediction(rating=float(np.mean(ratings)), rating_median=float(np.median(ratings)))


def fence_of(request: Request) -> str:
    """The mark around quotes: the same for all systems, so that contexts can be compared.

    Of letters, as one that is drawn, since digits take a model more tokens.
    """
    return "".join(chr(ord("a") + int(digit, 16)) for digit in request.id[:8])


def _nothing_quotable(items: TextItems) -> TextItems:
    none = np.zeros(0, np.int64)
    return replace(
        items, ids=(), lenders=items.lenders[none], facets=items.facets[none], at=items.at[none],
        vectors=items.vectors[none],
    )  # fmt: skip
