"""Retrieval: which interactions, of whom, are worth showing to a language model for one request.

Own history, peers' items and the population's most relevant items compete under one score: text
relevance (dense and BM25, standardised over the candidates) plus small terms for facet, affinity,
whose it is, recency and length. Persona affinity re-weights a wide pool and never replaces it,
and however relevant others are, a few places are kept for the user's own words.
Everything newer than the request, and the request itself, is masked first; near-copies are thinned
by maximal marginal relevance. The order of the candidates never changes the result.

This module sees candidates that somebody else was allowed to fetch. It knows nothing of consent,
stores, encoders, tokens or prompts, and reads no clock.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from copersona.errors import ShapeError
from copersona.method.facets import unit
from copersona.method.preference import DEFAULT
from copersona.records import Evidence, Interaction, Origin, Query
from copersona.style import tokenize

Array = NDArray[Any]

TERMS = ("relevance", "facet", "affinity", "own", "peer", "population", "recency", "length")
"""Terms of the score, in the order of `score_terms`' columns."""

_ORIGINS: tuple[Origin, ...] = ("own", "peer", "population")
_RECENCY_SECONDS = 180 * 86_400.0
_K1, _B = 1.2, 0.75


@dataclass(frozen=True, eq=False)
class Candidate:
    """One interaction that may become evidence.

    Attributes:
        author: pseudonym for this borrower; ignored where the origin is `own`.
        facet: the facet the interaction falls into.
        alignment: how well its author may stand in for the user, in [0, 1]; 0 where unknown.
        trust: what the user's verdicts on earlier answers add to the score.

    Shapes:
        input_vector (dim,)
    """

    origin: Origin
    author: str
    interaction: Interaction
    input_vector: Array
    facet: int
    alignment: float = 0.0
    trust: float = 0.0


class RetrievalConfig(BaseModel):
    """How candidates are scored and how many are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    origins: frozenset[Origin] = frozenset(_ORIGINS)
    """Whose items may be used at all."""
    per_peer: int | None = Field(2, ge=1)
    """Items of any one other user; None is no cap."""
    n_own: int | None = Field(20, ge=0)
    """Own candidates that are scored, the most relevant ones; None is all."""
    n_peer: int | None = Field(40, ge=0)
    """Peers' candidates that are scored, the most relevant ones; None is all."""
    n_population: int | None = Field(20, ge=0)
    """Population candidates that are scored, the most relevant ones; None is all."""
    max_evidence: int | None = Field(8, ge=0)
    """Items returned; None is all."""
    reserve_own: int = Field(4, ge=0)
    """Places among them kept for the user's own items, where there are so many."""
    mmr: float | None = Field(0.7, gt=0, le=1)
    """Weight of the score against likeness to what is already chosen; None or 1 is off."""
    beta_facet: float = 0.0
    beta_affinity: float = 0.1
    beta_own: float | None = None
    """None takes what was learnt from the population, see `preference`."""
    beta_peer: float = 0.0
    beta_population: float = 0.0
    beta_recency: float = 0.0
    beta_length: float = 0.0
    allow_same_item: bool = True
    """Whether evidence on the very item of the request may be shown."""

    @property
    def weights(self) -> Array:
        """Weight of every term of `TERMS`; relevance has weight 1."""
        betas = [getattr(self, f"beta_{name}") for name in TERMS[1:]]
        return np.array([1.0, *(DEFAULT if beta is None else beta for beta in betas)])

    def preferring_own(self, by: float) -> RetrievalConfig:
        """The same with a learnt preference for own items, where none is stated."""
        return self if self.beta_own is not None else self.model_copy(update={"beta_own": by})


def own_history_only(max_evidence: int | None = None) -> RetrievalConfig:
    """Plain retrieval over the user's own history: relevance alone, no terms, no thinning."""
    return _relevance_only(frozenset({"own"}), max_evidence)


def population_only(max_evidence: int | None = None) -> RetrievalConfig:
    """Plain retrieval over everybody else's items, peers or not: relevance alone."""
    return _relevance_only(frozenset({"peer", "population"}), max_evidence)


def _relevance_only(origins: frozenset[Origin], max_evidence: int | None) -> RetrievalConfig:
    return RetrievalConfig(
        origins=origins,
        per_peer=None,
        n_own=None,
        n_peer=None,
        n_population=None,
        max_evidence=max_evidence,
        mmr=None,
        beta_affinity=0.0,
        beta_own=0.0,
    )


def rank(
    query: Query,
    query_vector: Array,
    routed: Array,
    candidates: Iterable[Candidate],
    config: RetrievalConfig,
    *,
    expected_length: float | None = None,
) -> list[Evidence]:
    """Evidence for a request: best first, but for own items in places that were kept for them.

    Args:
        query: `at` masks what is newer; without it nothing is masked by time.
        query_vector: of the request's text.
        routed: share of the request in each facet.
        candidates: in any order.
        config: weights and caps.
        expected_length: of the response, in log(1 + words); None switches the length term off.

    Shapes:
        query_vector (dim,) · routed (n_facets,)

    Raises:
        ShapeError: vectors disagree on dim, or a candidate's facet is not routed.

    Source: method step 9. Ours: the pool is standardised before the caps on candidates of each
    origin, so that the caps do not move the scores of those that stay; places kept for own items,
    since a sparse user's few would all be outscored by a large population's best.
    """
    pool = admissible(query, candidates, config)
    if not pool:
        return []
    terms = score_terms(query, query_vector, routed, pool, expected_length=expected_length)
    kept = _most_relevant(pool, terms[:, 0], config)
    pool, parts = [pool[j] for j in kept], (terms * config.weights)[kept].tolist()
    scores = np.array([sum(row) + c.trust for row, c in zip(parts, pool, strict=True)])
    return [_evidence(query, pool[j], parts[j]) for j in _choose(pool, scores, config)]


def admissible(
    query: Query, candidates: Iterable[Candidate], config: RetrievalConfig
) -> list[Candidate]:
    """Candidates that may be shown for a request at all, without duplicates, in order of id.

    Left out: origins that are switched off; what is newer than the request; another origin's copy
    of the user's own items; whatever repeats the request's text as a response, and the user's own
    earlier input of that text (in an evaluation that is the answer itself); the same item where
    that is barred. Of equal texts the user's own stays, then a peer's, then the lowest id.
    """
    asked = _plain(query.text)
    distinct: dict[tuple[str, str], Candidate] = {}
    for candidate in sorted(candidates, key=_preference):
        row = candidate.interaction
        if candidate.origin not in config.origins or _is_newer(query, row):
            continue
        texts = _plain(row.input), _plain(row.response)
        if texts in distinct or _is_the_request(query, asked, candidate, texts):
            continue
        if config.allow_same_item or not is_same_item(query, row):
            distinct[texts] = candidate
    return sorted(distinct.values(), key=lambda candidate: candidate.interaction.id)


def _preference(candidate: Candidate) -> tuple[Any, ...]:
    row = candidate.interaction
    place = _ORIGINS.index(candidate.origin)
    identity = (row.id, candidate.author, row.input, row.response, candidate.facet)
    return (place, *identity, -candidate.alignment, row.at is None, row.at or 0.0, row.user)


def _is_newer(query: Query, row: Interaction) -> bool:
    return query.at is not None and row.at is not None and row.at > query.at


def _is_the_request(query: Query, asked: str, candidate: Candidate, texts: tuple[str, str]) -> bool:
    given, said = texts
    if candidate.origin == "own":
        return answers_the_request(query, candidate.interaction)
    return asked == (said or given) or candidate.interaction.user == query.user


def answers_the_request(query: Query, own: Interaction) -> bool:
    """True of the user's own earlier answer to the very text that is asked."""
    return _plain(query.text) in (_plain(own.input_text), _plain(own.response_text))


def is_same_item(query: Query, row: Interaction) -> bool:
    """True where an interaction is about the item of the request; by text where none is named."""
    if query.item is not None and row.item is not None:
        return row.item == query.item
    return _plain(row.input_text) == _plain(query.text)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def score_terms(
    query: Query,
    query_vector: Array,
    routed: Array,
    candidates: Sequence[Candidate],
    *,
    expected_length: float | None = None,
) -> Array:
    """Unweighted terms of the score of every candidate: what the βs are fitted on.

    Without a time of the request, age is counted from the newest candidate.

    Shapes:
        n candidates -> (n, len(TERMS))

    Raises:
        ShapeError: vectors disagree on dim, or a candidate's facet is not routed.
    """
    facets = np.array([c.facet for c in candidates], dtype=np.int64)
    if len(facets) and not 0 <= facets.min() <= facets.max() < len(routed):
        raise ShapeError(f"facets {facets.min()}–{facets.max()} with {len(routed)} routed facets")
    columns = [
        relevance(query_vector, query.text, candidates),
        np.asarray(routed, dtype=np.float64)[facets],
        np.array([c.alignment for c in candidates]),
        *(np.array([c.origin == origin for c in candidates], dtype=float) for origin in _ORIGINS),
        _recency(query.at, candidates),
        _length_match(expected_length, candidates),
    ]
    return np.stack(columns, axis=1)


def relevance(query_vector: Array, query_text: str, candidates: Sequence[Candidate]) -> Array:
    """Likeness of every candidate's input to the request: dense and BM25, standardised, averaged.

    Each of the two is standardised over the candidates; one that does not vary counts 0.

    Shapes:
        query_vector (dim,), n candidates -> (n,)

    Raises:
        ShapeError: vectors disagree on dim.
    """
    if not candidates:
        return np.zeros(0)
    if any(c.input_vector.shape != query_vector.shape for c in candidates):
        raise ShapeError(f"a candidate's vector is not of the query's shape {query_vector.shape}")
    dense = _dot(_unit_rows(candidates), unit(query_vector[None].astype(np.float64))[0])
    documents = [tokenize(c.interaction.input_text) for c in candidates]
    lexical = bm25(tokenize(query_text), documents)
    return (_standardised(dense) + _standardised(lexical)) / 2


def bm25(
    query_tokens: Sequence[str],
    documents_tokens: Sequence[Sequence[str]],
    *,
    document_frequency: Mapping[str, int] | None = None,
    n_documents: int | None = None,
) -> Array:
    """Okapi BM25 (k₁ 1.2, b .75) of every document; a word asked twice counts once.

    Args:
        query_tokens: words asked for.
        documents_tokens: words of every document.
        document_frequency: documents of a corpus that hold each word; None counts these documents.
        n_documents: size of that corpus; None is the number of these documents.

    Shapes:
        n documents -> (n,)
    """
    words = sorted(set(query_tokens))
    column = {word: i for i, word in enumerate(words)}
    tf = np.zeros((len(documents_tokens), len(words)))
    for row, tokens in zip(tf, documents_tokens, strict=True):
        for token in tokens:
            if token in column:
                row[column[token]] += 1
    if document_frequency is None:
        df = (tf > 0).sum(axis=0)
    else:
        df = np.array([document_frequency.get(word, 0) for word in words], dtype=float)
    n = max(len(tf) if n_documents is None else n_documents, int(df.max(initial=0)))
    idf = np.log1p((n - df + 0.5) / (df + 0.5))
    lengths = np.array([len(tokens) for tokens in documents_tokens], dtype=float)
    norm = _K1 * (1 - _B + _B * lengths / max(lengths.mean() if len(lengths) else 0.0, 1e-9))
    return np.asarray((tf * (_K1 + 1) / (tf + norm[:, None])) @ idf)


def _standardised(values: Array) -> Array:
    spread = values.std()
    if spread <= 1e-9 * max(1.0, float(np.abs(values).max(initial=0.0))):
        return np.zeros(len(values))
    return np.asarray((values - values.mean()) / spread)


def _recency(at: float | None, candidates: Sequence[Candidate]) -> Array:
    times = [c.interaction.at for c in candidates]
    now = at if at is not None else max((t for t in times if t is not None), default=0.0)
    return np.array([0.0 if t is None else math.exp((t - now) / _RECENCY_SECONDS) for t in times])


def _length_match(expected: float | None, candidates: Sequence[Candidate]) -> Array:
    if expected is None:
        return np.zeros(len(candidates))
    n_words = [len(c.interaction.response_text.split()) for c in candidates]
    return np.asarray(-np.abs(np.log1p(np.array(n_words, dtype=float)) - expected))


def _most_relevant(pool: Sequence[Candidate], rel: Array, config: RetrievalConfig) -> list[int]:
    caps = {"own": config.n_own, "peer": config.n_peer, "population": config.n_population}
    kept: list[int] = []
    for origin in _ORIGINS:
        mine = [j for j, candidate in enumerate(pool) if candidate.origin == origin]
        mine.sort(key=lambda j: -rel[j])
        kept.extend(mine[: caps[origin]])
    return sorted(kept)


def _choose(pool: Sequence[Candidate], scores: Array, config: RetrievalConfig) -> list[int]:
    """Greedy maximal marginal relevance under the caps; the lowest id of equals goes first."""
    weight = 1.0 if config.mmr is None else config.mmr
    vectors = _unit_rows(pool)
    authors = np.array([c.author for c in pool])
    is_own = np.array([c.origin == "own" for c in pool])
    n_places = len(pool) if config.max_evidence is None else config.max_evidence
    n_kept = min(config.reserve_own, int(is_own.sum()))
    is_left, likeness = np.ones(len(pool), dtype=bool), np.zeros(len(pool))
    taken: Counter[str] = Counter()
    chosen: list[int] = []
    while is_left.any() and len(chosen) < n_places:
        is_open = is_left & is_own if n_kept >= n_places - len(chosen) else is_left
        marginal = weight * scores - (1 - weight) * likeness
        best = int(np.where(is_open, marginal, -np.inf).argmax())
        chosen.append(best)
        is_left[best] = False
        if weight < 1:
            likeness = np.maximum(likeness, _dot(vectors, vectors[best]))
        if is_own[best]:
            n_kept = max(n_kept - 1, 0)
            continue
        taken[pool[best].author] += 1
        if taken[pool[best].author] == config.per_peer:
            is_left &= is_own | (authors != pool[best].author)
    return chosen


def _unit_rows(candidates: Sequence[Candidate]) -> Array:
    return unit(np.stack([c.input_vector for c in candidates]).astype(np.float64))


def _dot(rows: Array, vector: Array) -> Array:
    # Summed row by row: a matrix product may round equal rows differently, which would break ties.
    return np.asarray((rows * vector).sum(axis=1))


def _evidence(query: Query, candidate: Candidate, parts: Sequence[float]) -> Evidence:
    row = candidate.interaction
    feedback = {"feedback": candidate.trust} if candidate.trust else {}
    return Evidence(
        origin=candidate.origin,
        author="you" if candidate.origin == "own" else candidate.author,
        interaction_id=row.id,
        input=row.input,
        response=row.response,
        facet=candidate.facet,
        score=sum(parts) + candidate.trust,
        score_parts=dict(zip(TERMS, parts, strict=True)) | feedback,
        same_item=is_same_item(query, row),
        rating=row.rating,
        label=row.label,
        at=row.at,
    )
