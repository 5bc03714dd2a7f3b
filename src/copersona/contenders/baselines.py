"""Baselines for texts: what users would do otherwise, each small, each saying where it is from.

All share the frame, the token budget, the history and the time mask of the system under test, and
none knows facets. Those named `-style` follow the idea of a paper without its trained parts; what
was left out is said in their source line. Labels and ratings have `vote_baselines`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import HDBSCAN, KMeans

from copersona.answering.retrieval import Candidate, bm25, rank
from copersona.contenders.systems import register
from copersona.contenders.world import World
from copersona.method.facets import FacetConfig, unit
from copersona.method.fitted import MethodConfig
from copersona.records import Persona
from copersona.style import tokenize
from copersona.tasks.cases import Prediction, Request

Array = NDArray[Any]

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it says what it does at every call

_SUMMARISED = 10


class _Baseline:
    """What baselines have in common."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.seed = world, seed

    def by_relevance(self, request: Request, candidates: Sequence[Candidate]) -> Prediction:
        """Candidates by relevance alone, dense and BM25."""
        config = self.world.plainly("own", "peer", "population")
        return self.world.ranked(request, candidates, config)

    @cached_property
    def user_means(self) -> Array:
        """Mean response vector of every user: (n_users, dim)."""
        return np.asarray(self.world.training.user_means)

    def mean_of(self, request: Request) -> Array:
        """Mean response vector of the history, of length 1 or 0: (dim,)."""
        said = [row.response_text for row in request.history]
        if not said:
            return np.zeros(self.user_means.shape[1])
        mean = self.world.training.vectors.vectors(said).mean(axis=0)
        return np.asarray(unit(mean[None])[0])

    def likeness(self, request: Request) -> Array:
        """Cosine of every other user with the history; the user is never its own peer."""
        found = self.user_means @ self.mean_of(request)
        own = self.world.training.rows_of_user.get(request.user)
        if own:
            found[self.world.training.corpus.users[own.start]] = -np.inf
        return np.asarray(found)

    def rows_of(self, users: Sequence[int]) -> Array:
        """Training rows of some users."""
        training = self.world.training
        names = (training.corpus.user_ids[user] for user in users)
        rows = [np.arange(r.start, r.stop) for r in map(training.rows_of_user.__getitem__, names)]
        return np.concatenate(rows) if rows else np.zeros(0, np.int64)


@register("zero_shot", family="baseline", source="the request alone")
class ZeroShot(_Baseline):
    """Nothing is added."""

    def predict(self, request: Request) -> Prediction:
        """The request alone."""
        return self.world.show(request, ())


@register("own_random", family="baseline", source="LaMP (2304.11406): random history",
          is_random=True)  # fmt: skip
class OwnRandom(_Baseline):
    """Own items by chance."""

    def predict(self, request: Request) -> Prediction:
        """The first of a shuffled history."""
        own = self.world.own(request)
        own.sort(key=lambda one: _hash(self.seed, request.id, one.interaction.id))
        return self.world.in_order(request, own)


@register("own_recent", family="baseline", source="LaMP (2304.11406): the newest of the history")
class OwnRecent(_Baseline):
    """Own items, newest first."""

    def predict(self, request: Request) -> Prediction:
        """The end of the history."""
        return self.world.in_order(request, self.world.own(request)[::-1])


@register("own_bm25", family="baseline", source="LaMP (2304.11406): BM25 over the own history")
class OwnBM25(_Baseline):
    """Own items by Okapi BM25 of their inputs."""

    def predict(self, request: Request) -> Prediction:
        """The best matches of words."""
        own = self.world.own(request)
        words = [tokenize(one.interaction.input_text) for one in own]
        scores = bm25(tokenize(request.text), words) if own else np.zeros(0)
        best_first = np.argsort(-scores, kind="stable").tolist()
        return self.world.in_order(request, [own[n] for n in best_first])


@register("own_dense", family="baseline", source="LaMP (2304.11406): dense retrieval, own history")
class OwnDense(_Baseline):
    """Own items by cosine of their inputs."""

    def predict(self, request: Request) -> Prediction:
        """The nearest inputs."""
        own = self.world.own(request)
        vector = self.world.training.vectors.of_request(request.text)
        scores = np.array([one.input_vector @ vector for one in own])
        best_first = np.argsort(-scores, kind="stable").tolist()
        return self.world.in_order(request, [own[n] for n in best_first])


@register("pag", family="baseline",
          source="PAG (2310.20081): a profile of the whole history and retrieved own items; the "
          "profile is a summary by the language model where summaries are asked for, else "
          "tendencies in words")  # fmt: skip
class ProfileAugmented(_Baseline):
    """Own profile, the same for every request, and own items by relevance."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        one = MethodConfig(facets=FacetConfig(n_facets=1))
        self._state = world.training.state(one) if world.write is None else None

    def predict(self, request: Request) -> Prediction:
        """Profile first, then what is nearest."""
        world, vector = self.world, self.world.training.vectors.of_request(request.text)
        evidence = rank(request.query, vector, np.ones(1), world.own(request), world.plainly("own"))
        profile = self._profile(request)
        return world.show(request, evidence, profile, np.ones(1), says_first=True)

    def _profile(self, request: Request) -> Persona | None:
        if not request.history:
            return None
        if self._state is None:
            return Persona(request.user, (), (self._summary(request),), len(request.history),
                           "text", "")  # fmt: skip
        desk = self.world.desk(request, self._state)
        desk = replace(desk, policy=replace(
            desk.policy, exceptions={request.user: replace(desk.policy.default, learn=False)}
        ))  # fmt: skip
        own = desk.own(request.user, before=request.at)
        return desk.persona(desk.view(request.user, own.corpus), own)

    def _summary(self, request: Request) -> str:
        newest = request.history[-_SUMMARISED:]
        said = "\n".join(f"- {' '.join(row.response_text.split()[:40])}" for row in newest)
        asked = (
            f"Messages of one person:\n{said}\n\nIn one or two sentences, how does this person "
            "write and what do they care about?"
        )
        assert self.world.write is not None
        return self.world.write(({"role": "user", "content": asked},))


@register("population", family="baseline",
          source="method.md: the most relevant items of anyone else; dense and BM25")  # fmt: skip
class Population(_Baseline):
    """What anyone said to the most similar inputs."""

    def predict(self, request: Request) -> Prediction:
        """Dense candidates, ranked by both."""
        rows = self.world.nearest(request, 40)
        return self.by_relevance(request, self.world.others(request, rows))


@register("population_bm25", family="baseline", source="the same by BM25 over everybody (bm25s)")
class PopulationBM25(_Baseline):
    """What anyone said to inputs of the same words."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        inputs = [tokenize(row.input_text) for row in world.training.interactions]
        self._index = bm25s.BM25()
        self._index.index(inputs, show_progress=False)

    def predict(self, request: Request) -> Prediction:
        """The best matches among all."""
        known = [word for word in tokenize(request.text) if word in self._index.vocab_dict]
        if not known:  # the library refuses words it has never seen
            return self.world.in_order(request, [])
        k = min(40, len(self.world.training.interactions))
        rows = self._index.retrieve([known], k=k, show_progress=False).documents[0]
        return self.world.in_order(request, self.world.others(request, rows.tolist()))


@register(
    "global_peers",
    family="baseline",
    source="global-peer RAG: users of the nearest mean response, their most relevant items",
)
class GlobalPeers(_Baseline):
    """Peers by one vector a user, and what they said to the most similar inputs."""

    n_peers = 20

    def predict(self, request: Request) -> Prediction:
        """Peers' items by relevance."""
        return self.by_relevance(request, self.world.own(request) + self._theirs(request))

    def _theirs(self, request: Request) -> list[Candidate]:
        likeness = self.likeness(request)
        peers = np.argsort(-likeness, kind="stable")[: self.n_peers]
        peers = peers[likeness[peers] > 0]
        rows = self.rows_of(peers.tolist())
        chosen = self.world.nearest(request, 40, rows) if len(rows) else []
        return self.world.others(request, chosen, "peer")


@register(
    "cfrag_style",
    family="baseline",
    source="CFRAG (2504.05731): 6 similar users, 5 items of each by (1 − w)·relevance + "
    "w·likeness of the user; without its contrastive user encoder and LLM feedback",
)
class CfragStyle(_Baseline):
    """Collaborative retrieval: own history and that of a few similar users."""

    n_users, n_items, weight = 6, 5, 0.3

    def predict(self, request: Request) -> Prediction:
        """Own and theirs under one score."""
        training = self.world.training
        vector, likeness = training.vectors.of_request(request.text), self.likeness(request)
        scored = [
            (self._score(float(c.input_vector @ vector), 1.0), c) for c in self.world.own(request)
        ]
        for user in np.argsort(-likeness, kind="stable")[: self.n_users].tolist():
            if likeness[user] <= 0:
                continue
            rows = self.world.nearest(request, self.n_items, self.rows_of([user]))
            for one in self.world.others(request, rows, "peer"):
                scored.append(
                    (self._score(float(one.input_vector @ vector), float(likeness[user])), one)
                )
        scored.sort(key=lambda pair: -pair[0])
        return self.world.in_order(request, [one for _, one in scored])

    def _score(self, relevance: float, likeness: float) -> float:
        return float((1 - self.weight) * relevance + self.weight * likeness)


@register("logo_style", family="baseline", is_random=True,
          source="LoGo (2509.23767): own memory and that of the user's community (k-means of "
          "users), half each; without its mediator LLM")  # fmt: skip
class LogoStyle(_Baseline):
    """Local and community memory."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        n_users = len(self.user_means)
        n_clusters = int(np.clip(np.sqrt(n_users / 2), 2, 50))
        self._clusters = KMeans(min(n_clusters, n_users), n_init=1, random_state=seed)
        self._label = self._clusters.fit_predict(self.user_means)

    def predict(self, request: Request) -> Prediction:
        """Own and community items in turn, each by relevance."""
        mean = self.mean_of(request).astype(self._clusters.cluster_centers_.dtype)
        label = int(self._clusters.predict(mean[None])[0])
        rows = self.rows_of(np.flatnonzero(self._label == label).tolist())
        theirs = self.world.others(request, self.world.nearest(request, 20, rows), "peer")
        own = _by_cosine(self.world, request, self.world.own(request))
        return self.world.in_order(request, _in_turn(own, theirs))


@register(
    "cluster_rag_style",
    family="baseline",
    source="ClusterRAG-H (2605.18769): HDBSCAN of users, the most similar user of the "
    "cluster, own and that user's items; without its ColBERT and topic clustering",
)
class ClusterRagStyle(_Baseline):
    """Own items and those of one peer of the same cluster."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        least = max(2, min(5, len(self.user_means)))
        self._label = HDBSCAN(min_cluster_size=least, copy=True).fit_predict(self.user_means)

    def predict(self, request: Request) -> Prediction:
        """Both by relevance."""
        likeness = self.likeness(request)
        own = self.world.own(request)
        nearest = int(likeness.argmax())
        if not request.history or likeness[nearest] <= 0:
            return self.by_relevance(request, own)
        together = np.flatnonzero(self._label == self._label[nearest])
        peer = int(together[likeness[together].argmax()])
        rows = self.world.nearest(request, 20, self.rows_of([peer]))
        return self.by_relevance(request, own + self.world.others(request, rows, "peer"))


@register(
    "persona_db_style",
    family="baseline",
    source="Persona-DB (2402.11060): join with the histories of the nearest users at a "
    "fixed ratio of own to theirs; without its LLM refinement of the history",
)
class PersonaDbStyle(_Baseline):
    """Own items and those of near users, two to one."""

    n_peers, own_for_each = 5, 2

    def predict(self, request: Request) -> Prediction:
        """Two own items, then one of a peer, and so on."""
        likeness = self.likeness(request)
        peers = [
            user
            for user in np.argsort(-likeness, kind="stable")[: self.n_peers].tolist()
            if likeness[user] > 0
        ]
        rows = self.world.nearest(request, 20, self.rows_of(peers)) if peers else []
        theirs = self.world.others(request, rows, "peer")
        own = _by_cosine(self.world, request, self.world.own(request))
        return self.world.in_order(request, _in_turn(own, theirs, self.own_for_each))


def _by_cosine(world: World, request: Request, candidates: Sequence[Candidate]) -> list[Candidate]:
    vector = world.training.vectors.of_request(request.text)
    return sorted(candidates, key=lambda one: -float(one.input_vector @ vector))


def _in_turn(
    own: Sequence[Candidate], theirs: Sequence[Candidate], own_for_each: int = 1
) -> list[Candidate]:
    """So many own ones, then one of theirs, until both are used up."""
    left, other = list(own), list(theirs)
    found: list[Candidate] = []
    while left or other:
        found += left[:own_for_each] + other[:1]
        left, other = left[own_for_each:], other[1:]
    return found


def _hash(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
