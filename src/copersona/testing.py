"""Planted worlds: made-up populations whose facets, groups and tendencies are known exactly.

For tests of this package and of code built on it. A world draws a group for every user and facet
(facets that are linked share it), a tendency for every group, and answers that are what the input
predicts, plus the user's tendency, plus noise; which facets a user is seen in, and how often, is
drawn apart. The same spec gives the same world, to the bit. Arrays only: no texts, no store, no
encoder, and nothing here knows how the method estimates what was planted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.method.corpus import Corpus, fold_of, id_hash
from copersona.style import HABITS

Array = NDArray[Any]

DAY = 86_400.0
START = 1.7e9
"""Time of the first interaction of every user; one more a day."""


@dataclass(frozen=True, slots=True)
class WorldSpec:
    """What a world is like.

    Attributes:
        links: one number per facet; facets with the same number share a user's group. Empty: every
            facet stands alone.
        shared: share of a tendency's variance that is the same in all facets of a user.
        strength: length of a tendency · noise: standard deviation of an answer, per column.
        per_facet: mean number of interactions in a facet that a user is seen in, at least 1.
        missing: chance that a user is not seen in a facet; everyone is seen in one.
        skew: standard deviation of the logarithm of a user's activity across facets.
        n_items: items per facet, each with an effect of its own on the rating; 0 for no items and
            no ratings.
    """

    n_users: int = 200
    n_facets: int = 4
    n_groups: int = 3
    dim: int = 16
    links: tuple[int, ...] = ()
    shared: float = 0.0
    strength: float = 1.0
    noise: float = 0.3
    per_facet: float = 5.0
    missing: float = 0.0
    skew: float = 0.0
    n_items: int = 0
    seed: int = 0


@dataclass(frozen=True)
class World:
    """A made-up population and everything that is true of it.

    Shapes:
        facets (n,): true facet of every interaction · groups (n_users, n_facets) · tendencies
        (n_users, n_facets, dim): what a user adds to an answer, also where never seen · counts
        (n_users, n_facets): interactions · item_effects (n_facets, n_items), in rating points
    """

    spec: WorldSpec
    corpus: Corpus
    facets: Array
    groups: Array
    tendencies: Array
    counts: Array
    item_effects: Array


def planted_world(spec: WorldSpec) -> World:
    """The world of a spec. Ratings are 3 + the effect of the item + noise.

    Shapes:
        inputs and responses of the corpus (n, dim) float32; inputs have length 1. Facet f lies
        around axis f of the inputs, so dim is at least n_facets.
    """
    rng = np.random.default_rng(spec.seed)
    groups = _groups(rng, spec)
    tendencies = _tendencies(rng, spec, groups)
    counts = _counts(rng, spec)
    users = np.repeat(np.arange(spec.n_users, dtype=np.int32), counts.sum(axis=1))
    facets = np.concatenate([
        rng.permutation(np.repeat(np.arange(spec.n_facets, dtype=np.int32), row)) for row in counts
    ])  # fmt: skip
    effects = rng.normal(0, 1, (spec.n_facets, spec.n_items))
    corpus = _corpus(rng, spec, users, facets, tendencies[users, facets])
    if spec.n_items:
        corpus = _with_items(rng, spec, corpus, facets, effects)
    return World(spec, corpus, facets, groups, tendencies, counts, effects)


def reorder_users(corpus: Corpus, order: Array) -> Corpus:
    """The same corpus with its users in another order, rows of a user as they were.

    Shapes:
        order (n_users,): a permutation of the old user rows
    """
    place = np.empty(corpus.n_users, np.int32)
    place[order] = np.arange(corpus.n_users)
    moved = corpus.take(np.argsort(place[corpus.users], kind="stable"))
    names = tuple(corpus.user_ids[o] for o in order.tolist())
    return replace(moved, user_ids=names, users=place[moved.users])


def _groups(rng: np.random.Generator, spec: WorldSpec) -> Array:
    links = np.array(spec.links or range(spec.n_facets))
    drawn = rng.integers(spec.n_groups, size=(spec.n_users, int(links.max()) + 1))
    return np.asarray(drawn[:, links])


def _tendencies(rng: np.random.Generator, spec: WorldSpec, groups: Array) -> Array:
    """Of every user and facet; the directions of different facets are drawn apart."""
    own = _directions(rng, (spec.n_facets, spec.n_groups, spec.dim))
    common = _directions(rng, (spec.n_groups, spec.dim))
    part = own[np.arange(spec.n_facets), groups] * np.sqrt(1 - spec.shared)
    everywhere = common[groups[:, :1]] * np.sqrt(spec.shared)
    return np.asarray(spec.strength * (part + everywhere))


def _directions(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Directions of length 1 that average to 0 over the groups, but for rounding of length."""
    drawn = rng.normal(size=shape)
    if shape[-2] > 1:
        drawn -= drawn.mean(axis=-2, keepdims=True)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=-1, keepdims=True))


def _counts(rng: np.random.Generator, spec: WorldSpec) -> Array:
    shape = (spec.n_users, spec.n_facets)
    rate = (spec.per_facet - 1) * np.exp(spec.skew * rng.normal(size=shape) - spec.skew**2 / 2)
    seen = rng.random(shape) >= spec.missing
    seen[np.arange(spec.n_users), rng.integers(spec.n_facets, size=spec.n_users)] = True
    return np.asarray(np.where(seen, 1 + rng.poisson(rate), 0))


def _corpus(
    rng: np.random.Generator, spec: WorldSpec, users: Array, facets: Array, added: Array
) -> Corpus:
    n = len(users)
    inputs = np.eye(spec.dim)[facets] + rng.normal(0, 0.3 / np.sqrt(spec.dim), (n, spec.dim))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    mixing = rng.normal(0, 0.5 / np.sqrt(spec.dim), (spec.dim, spec.dim))
    answers = inputs @ mixing + added + rng.normal(0, spec.noise, (n, spec.dim))
    styles = added @ rng.normal(size=(spec.dim, len(HABITS))) / np.sqrt(spec.dim)
    styles += rng.normal(0, spec.noise, styles.shape)
    names = tuple(f"user-{u:05d}" for u in range(spec.n_users))
    rank = np.arange(n) - np.searchsorted(users, users)
    return Corpus(
        user_ids=names,
        users=users,
        folds=np.array([fold_of(name) for name in names], np.int8)[users],
        inputs=inputs.astype(np.float32),
        responses=answers.astype(np.float32),
        styles=styles.astype(np.float32),
        is_single=np.zeros(n, bool),
        has_own_words=np.ones(n, bool),
        ratings=np.full(n, np.nan),
        at=START + DAY * rank,
        id_hashes=np.array(
            [id_hash(f"{u}/{r}") for u, r in zip(users.tolist(), rank.tolist(), strict=True)],
            np.int64,
        ),
        items=[None] * n,
        labels=[None] * n,
        declared=[None] * n,
    )


def _with_items(
    rng: np.random.Generator, spec: WorldSpec, corpus: Corpus, facets: Array, effects: Array
) -> Corpus:
    """The same corpus, each interaction about an item of its facet, with a rating."""
    item = rng.integers(spec.n_items, size=len(corpus))
    rating = 3 + effects[facets, item] + rng.normal(0, spec.noise, len(corpus))
    pairs = zip(facets.tolist(), item.tolist(), strict=True)
    return replace(corpus, items=[f"item-{f}-{i}" for f, i in pairs], ratings=rating)
