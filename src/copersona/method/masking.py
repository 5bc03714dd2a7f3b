"""Hiding facets of people and cutting their histories short, to see what can be told of them.

The hidden interactions leave every sum and every search vector of the user; so do those that a
shorter history would not have had. What is left is treated as the history of somebody new.
Used to calibrate completion on lenders and to score it on people who were not fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.method.calibration import CompletionConfig, MaskedFacets
from copersona.method.graph import LayerStates, layer_states
from copersona.method.lending import Lenders, Offers
from copersona.method.profiles import Observed, OwnEvidence, ViewModel

Array = NDArray[Any]

CAPS = (1, 2, 4, 8, 16, None)
"""Interactions left of a history outside the hidden facet; None leaves all."""


@dataclass(frozen=True)
class Hiding:
    """Which facets are hidden, and what is left of them and around them.

    Attributes:
        min_support: interactions that a facet needs.
        caps: one is drawn for every case; where there are few cases, each is used with several.
        kept: in every second case so many interactions of the facet, by chance one of these
            numbers and at most half of them, are not hidden; all are where this is empty.
        among: whose facets may be hidden; everybody's where None.

    Shapes:
        among (n_users,) bool
    """

    min_support: float = 4.0
    caps: Sequence[int | None] = CAPS
    kept: Sequence[int] = ()
    among: Array | None = None


def mask_facets(
    observed: Observed,
    models: Sequence[ViewModel],
    lenders: Lenders,
    floor: Array,
    config: CompletionConfig,
    *,
    are_lenders: bool,
    hiding: Hiding | None = None,
) -> MaskedFacets:
    """Hide well-supported facets in turn and look what own and borrowed evidence say of them.

    With one facet there is nothing outside it: half of a history is hidden instead.

    Args:
        floor: agreement below which peers of a facet are not believed, see `agreement_floor`.
        are_lenders: users are the lenders themselves, row by row; nobody is its own peer.

    Shapes:
        floor (n_facets,)
    """
    hiding = hiding or Hiding()
    rng = np.random.default_rng(config.seed)
    users, facets, places = _cases(observed, hiding, config.tested, rng)
    cuts = [hiding.caps[place] for place in places.tolist()]
    stay = np.zeros(len(users), int)
    if hiding.kept:
        stay = rng.choice(hiding.kept, len(users)) * rng.integers(2, size=len(users))
    left, owners, hidden, hidden_owners = _split(observed, users, facets, cuts, stay, rng)
    evidence = observed.average(left, owners)
    truth = observed.average(hidden, hidden_owners)
    states = layer_states(evidence, models)
    found = lenders.search(states, np.arange(len(users)), users if are_lenders else None)
    at = np.arange(len(users)), facets
    center = np.concatenate([model.center for model in models], axis=1)
    offers = [
        lenders.offers(states, row, candidates, np.ones(len(candidates), bool), [f])[0]
        for row, (f, candidates) in enumerate(zip(facets.tolist(), found, strict=True))
    ]
    own = np.concatenate([p.theta for p in states.posteriors], axis=2)[at]
    unknown, room = _uncertainty(evidence, states, models, at)
    wide = np.concatenate(
        [np.repeat(room[:, [v]], m.view.stop - m.view.start, axis=1) for v, m in enumerate(models)],
        axis=1,
    )
    believable, agreeing = _believable(offers, facets, floor, config, len(models))
    return MaskedFacets(
        users=users,
        facets=facets,
        truth=truth.means[at] - center[facets],
        support=truth.support[at],
        own=own,
        shared=wide * (_rows([o.shared.offered for o in offers], own.shape) - own),
        specific=wide * _rows([o.specific.offered for o in offers], own.shape),
        unknown=np.where(believable, unknown, 0),
        alignment=agreeing,
        evidence=evidence,
        states=states,
        candidates=found,
    )


def _rows(rows: Sequence[Array], shape: tuple[int, ...]) -> Array:
    return np.array(rows).reshape(shape)


def _cases(
    observed: Observed, hiding: Hiding, most: int, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Users and facets to hide, and a cap for each: enough to compare with, and something left."""
    min_support, n_caps = hiding.min_support, len(hiding.caps)
    counts = np.zeros((observed.n_users, observed.n_facets))
    np.add.at(counts, (observed.users, observed.facets), 1)
    has_rest = counts.sum(axis=1, keepdims=True) > counts
    if observed.n_facets == 1:  # half of it is hidden
        has_rest, min_support = counts >= 2, max(2, min_support)
    if hiding.among is not None:
        has_rest &= hiding.among[:, None]
    users, facets = np.nonzero((counts >= min_support) & has_rest)
    limit = max(30, most // observed.n_facets)
    chosen = np.sort(np.concatenate([
        rng.permutation(np.flatnonzero(facets == f))[:limit] for f in range(observed.n_facets)
    ]))  # fmt: skip
    users, facets = users[chosen], facets[chosen]
    repeats = int(np.clip(most // max(len(users), 1), 1, n_caps))
    first = rng.integers(n_caps, size=len(users))
    caps = (first[:, None] + np.arange(repeats)) % n_caps
    return np.repeat(users, repeats), np.repeat(facets, repeats), caps.ravel()


def _split(
    observed: Observed,
    users: Array,
    facets: Array,
    cuts: Sequence[int | None],
    stay: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array, Array, Array]:
    """Interactions that are left and those hidden, each with the case they belong to.

    Shapes:
        users, facets, stay (n,): interactions of the facet itself that are left
    """
    order = np.argsort(observed.users, kind="stable")
    bounds = np.searchsorted(observed.users[order], np.arange(observed.n_users + 1))
    left, hidden = [], []
    cases = zip(users.tolist(), facets.tolist(), cuts, stay.tolist(), strict=True)
    for user, f, cap, n_stay in cases:
        rows = order[bounds[user] : bounds[user + 1]]
        is_hidden = observed.facets[rows] == f
        if observed.n_facets == 1:
            is_hidden = rng.permutation(len(rows)) % 2 == 0
        rest = rows[~is_hidden]
        if cap is not None and len(rest) > cap:
            rest = rng.choice(rest, cap, replace=False)
        inside = rows[is_hidden]
        if n_stay:
            inside = rng.permutation(inside)
            n_stay = min(n_stay, len(inside) // 2)
            rest = np.concatenate([rest, inside[:n_stay]])
        left.append(rest)
        hidden.append(inside[n_stay:])
    return *_owned(left), *_owned(hidden)


def _owned(parts: Sequence[Array]) -> tuple[Array, Array]:
    if not parts:
        return np.zeros(0, int), np.zeros(0, int)
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(p) for p in parts])


def _uncertainty(
    evidence: OwnEvidence, states: LayerStates, models: Sequence[ViewModel], at: tuple[Array, Array]
) -> tuple[Array, Array]:
    """V^(−f)/Σ_ff, and how much of a prior is left after own evidence in the facet itself."""
    unknown, room = [], []
    for v, (model, posterior) in enumerate(zip(models, states.posteriors, strict=True)):
        variance = posterior.others_variance[at]
        unknown.append(variance / np.diag(model.signal)[at[1]])
        noise = model.noise[at[1]]
        room.append(noise / (noise + evidence.support[..., v][at] * variance))
    return np.stack(unknown, axis=1), np.stack(room, axis=1)


def _believable(
    offers: Sequence[Offers],
    facets: Array,
    floor: Array,
    config: CompletionConfig,
    n_views: int,
) -> tuple[Array, Array]:
    """Where whole-user peers are enough, and ā where facet peers are enough and agree."""
    enough = [o.shared.is_enough(config.min_donors) for o in offers]
    aligned = [
        o.specific.is_enough(config.min_donors)
        * (o.specific.agreement > floor[f])
        * o.specific.peers.alignment
        for o, f in zip(offers, facets.tolist(), strict=True)
    ]
    shape = (len(offers), n_views)
    return np.array(enough, bool).reshape(shape), np.array(aligned, float).reshape(shape)
