"""CoPersona itself as systems: the ladder, rung by rung, its controls and its ablations.

Every rung is the library's own desk with something switched off, so that the top rung answers
exactly as `CoPersona.prompt` and `CoPersona.vote` do. A control leaves all in place and breaks one
thing that the idea needs: who the peers are, what the facets are, whose history it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.answering.ballots import vote
from copersona.answering.serving import Desk, Own, unsaid
from copersona.answering.votes import VoteConfig
from copersona.contenders.other_peers import RandomLenders, RewiredLenders, with_other_peers
from copersona.contenders.systems import ANY, TEXT, register
from copersona.contenders.world import Training, World, everybody, shown
from copersona.method.alignment import AlignmentConfig
from copersona.method.calibration import Calibration, Curve
from copersona.method.facets import FacetConfig
from copersona.method.fitted import FittedState, MethodConfig, UserView, with_transfer
from copersona.records import Interaction, Origin, Persona
from copersona.tasks.cases import Prediction, Request

Array = NDArray[Any]
Prepare = Callable[[Training, int], FittedState]


# ---- states ----------------------------------------------------------------------------------


def _full(training: Training, seed: int) -> FittedState:
    return training.state()


def _with_facets(n_facets: int) -> Prepare:
    config = MethodConfig(facets=FacetConfig(n_facets=n_facets))
    return lambda training, seed: training.state(config)


def _with_peers(n_peers: int) -> Prepare:
    config = MethodConfig(alignment=AlignmentConfig(n_peers=n_peers))
    return lambda training, seed: training.state(config)


def _no_peers(training: Training, seed: int) -> FittedState:
    """Completion believes nobody, so that own evidence is all: self-completion."""
    state = training.state()
    nothing = Curve.none(len(state.models))
    floor = state.calibration.agreement_floor
    return replace(state, calibration=Calibration(nothing, nothing, floor))


def _specific_only(state: FittedState) -> FittedState:
    """Peers of the facet alone; those of the whole user lend nothing."""
    nothing = Curve.none(len(state.models))
    return replace(state, calibration=replace(state.calibration, shared=nothing))


def _own_layer(training: Training, seed: int) -> FittedState:
    """Peers of a facet are found in its own layer only.

    They are believed as far as those of all layers are at the same alignment: a masked facet has no
    own layer, so that calibrating anew would never believe anybody.
    """
    state = training.state()
    own = np.eye(state.n_facets, state.n_facets + 1, 1)
    return _specific_only(replace(state, transfer=own))


def _cross_layer(training: Training, seed: int) -> FittedState:
    return _specific_only(training.state())


def _chosen_globally(training: Training, seed: int) -> FittedState:
    """Peers are alike as whole users, and lend what they say in the facet."""
    state = training.state()
    whole = np.zeros((state.n_facets, state.n_facets + 1))
    whole[:, 0] = 1
    return _linked(training, whole.tobytes(), whole.shape)


@lru_cache(maxsize=8)
def _linked(training: Training, transfer: bytes, shape: tuple[int, int]) -> FittedState:
    links = np.frombuffer(transfer).reshape(shape)
    return with_transfer(training.state(), links, training.corpus)


def _peers_at_all_costs(training: Training, seed: int) -> FittedState:
    """Where nothing was believed, everybody's offer is taken whole."""
    state = training.state()
    n_views = len(state.models)
    whole = Curve(np.zeros((n_views, 1)), *(np.full((n_views, 1), v) for v in (1.0, 0.5, 0.5)))
    floor = np.full(state.n_facets, -1.0)
    return replace(state, calibration=Calibration(whole, whole, floor))


def _unshrunk(training: Training, seed: int) -> FittedState:
    """Own means are taken at face value: next to no noise is expected."""
    state = training.state()
    return replace(
        state, models=tuple(replace(model, noise=model.noise * 1e-3) for model in state.models)
    )


def _random_peers(training: Training, seed: int) -> FittedState:
    return with_other_peers(training.state(), RandomLenders, seed)


def _rewired(training: Training, seed: int) -> FittedState:
    return with_other_peers(training.state(), RewiredLenders, seed)


# ---- the systems -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _TrialDesk(Desk):
    """The desk, with what was borrowed left unsaid where a rung has no completion."""

    says_own: bool = True
    says_borrowed: bool = True

    def persona(self, view: UserView, own: Own) -> Persona:
        """See `Desk`."""
        persona = super().persona(view, own)
        if self.says_borrowed:
            return persona
        if not self.says_own:
            return unsaid(persona)
        return replace(persona, facets=tuple(
            replace(
                facet, confidence=facet.own_confidence, n_contributors=0,
                tendencies=tuple(t for t in facet.tendencies if not t.contributors),
            )
            for facet in persona.facets
        ))  # fmt: skip


class Rung:
    """CoPersona with some of its parts.

    Args:
        prepare: gives the fitted state.
        says_own: own tendencies stand in the context.
        says_borrowed: so do borrowed ones; else only peers' items speak.
        origins: whose items may be shown.
        learns: anything of others counts.
        prompt: settings of the frame that differ.
    """

    def __init__(
        self,
        world: World,
        seed: int,
        *,
        prepare: Prepare = _full,
        says_own: bool = True,
        says_borrowed: bool = True,
        origins: frozenset[Origin] = frozenset({"own", "peer", "population"}),
        learns: bool = True,
        prompt: Mapping[str, Any] | None = None,
    ) -> None:
        self.world, self.state = world, prepare(world.training, seed)
        self._says_own, self._says_borrowed, self._learns = says_own, says_borrowed, learns
        self._prompt = world.prompt.model_copy(update=prompt or {})
        self._retrieval = world.retrieval.model_copy(update={"origins": origins})

    def predict(self, request: Request) -> Prediction:
        """A context for a language model, or a vote."""
        desk = self._desk(request)
        if self.world.task.kind in TEXT:
            return self._context(desk, request)
        return _voted(desk, request, self.world)

    def _desk(self, request: Request) -> Desk:
        desk = self.world.desk(request, self.state)
        policy = desk.policy
        if not self._learns:
            alone = replace(policy.default, learn=False)
            policy = replace(policy, exceptions={request.user: alone})
        values = {f.name: getattr(desk, f.name) for f in fields(Desk)}
        return _TrialDesk(
            **values | {"policy": policy}, says_own=self._says_own,
            says_borrowed=self._says_borrowed,
        )  # fmt: skip

    def _context(self, desk: Desk, request: Request) -> Prediction:
        world = self.world
        done = desk.answer(request.query, self._retrieval, self._prompt, world.count_tokens)
        facets, evidence = done.persona.facets, done.context.evidence
        borrowed = sum(bool(t.contributors) for facet in facets for t in facet.tendencies)
        numbers = {
            "confidence": _routed(done.routed, {f.facet: f.confidence for f in facets}),
            "borrowed": float(borrowed > 0 or any(e.origin == "peer" for e in evidence)),
        }
        return replace(shown(done.context), numbers=numbers)


def _routed(routed: Array, values: dict[int, float]) -> float:
    return float(sum(routed[f] * value for f, value in values.items()))


def _voted(desk: Desk, request: Request, world: World) -> Prediction:
    """The library's vote; where nobody may be heard, what everybody said before the cut."""
    found = vote(desk, request.query, VoteConfig(), allow_same_item=world.allow_same_item)
    numbers = {"worth": found.worth, "borrowed": float(found.worth > 0)}
    if world.task.kind == "label" and found.labels:
        labels = {str(one.value): one.share for one in found.labels}
        return Prediction(labels=labels, numbers=numbers)
    if world.task.kind == "rating" and found.expected_rating is not None:
        return Prediction(
            rating=found.expected_rating, rating_median=found.median_rating, numbers=numbers
        )
    return replace(everybody(world), numbers=numbers | {"unheard": 1.0})


class ZeroShot:
    """The request alone; for labels and ratings what anybody would say."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self._rung = Rung(world, seed, learns=False)

    def predict(self, request: Request) -> Prediction:
        """No history, no peers."""
        if self.world.task.kind in TEXT:
            return self.world.show(request, ())
        return self._rung.predict(replace(request, history=()))


class OwnRetrieval:
    """Plain retrieval over the own history; labels and ratings by own votes over a prior."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self._rung = Rung(world, seed, learns=False, origins=frozenset({"own"}))
        self._config = world.plainly("own", most=None)

    def predict(self, request: Request) -> Prediction:
        """Own items by relevance, dense and BM25."""
        if self.world.task.kind in TEXT:
            return self.world.ranked(request, self.world.own(request), self._config)
        return self._rung.predict(request)


@register(
    "control.swap", family="control", kinds=ANY,
    source="PRIME (2507.04607): the profile of the most similar user in the place of one's own",
)  # fmt: skip
class Swapped:
    """The full system on somebody else's history, the nearest one's by mean response."""

    def __init__(self, world: World, seed: int) -> None:
        self._training, self._rung = world.training, Rung(world, seed)

    def predict(self, request: Request) -> Prediction:
        """As if the nearest user had asked."""
        return self._rung.predict(replace(request, history=self._history(request)))

    def _history(self, request: Request) -> tuple[Interaction, ...]:
        training = self._training
        said = training.vectors.vectors([row.response_text for row in request.history])
        if not len(said):
            return ()
        likeness = training.user_means @ said.mean(axis=0)
        own = training.rows_of_user.get(request.user)
        if own:
            likeness[training.corpus.users[own.start]] = -np.inf
        rows = training.rows_of_user[training.corpus.user_ids[int(likeness.argmax())]]
        found = (training.interactions[row] for row in rows)
        return tuple(row for row in found if row.id not in request.barred)


@register(
    "control.random_partition", family="control", kinds=ANY, is_random=True,
    source="ours (evaluation.md 3.4): facets of the same number, filled by chance",
)  # fmt: skip
class RandomPartition:
    """The full system with facets that mean nothing."""

    def __init__(self, world: World, seed: int) -> None:
        self._seed = seed
        self._rung = Rung(replace(world, training=_partitioned(world.training, seed)), seed)

    def predict(self, request: Request) -> Prediction:
        """The history falls into the same parts."""
        history = tuple(_parted(row, self._seed) for row in request.history)
        return self._rung.predict(replace(request, history=history))


@lru_cache(maxsize=4)
def _partitioned(training: Training, seed: int) -> Training:
    rows = tuple(_parted(row, seed) for row in training.interactions)
    return Training(rows, training.vectors, training.cut)


def _parted(row: Interaction, seed: int) -> Interaction:
    n_facets = FacetConfig().n_facets
    return replace(row, facet=f"facet {zlib.crc32(f'{seed} {row.id}'.encode()) % n_facets + 1}")


def _rung(name: str, source: str, *, is_random: bool = False, **options: Any) -> None:
    family: Any = name.partition(".")[0]
    is_frame = (
        bool({"prompt", "says_own"} & options.keys()) or options.get("origins") == frozenset()
    )
    register(
        name, source=source, family=family, kinds=TEXT if is_frame else ANY, is_random=is_random
    )(partial(Rung, **options))  # fmt: skip


OWN: frozenset[Origin] = frozenset({"own"})
OWN_AND_ALL: frozenset[Origin] = frozenset({"own", "population"})

register(
    "ladder.0", family="ladder", kinds=ANY, source="no personalisation; labels and ratings: prior"
)(ZeroShot)
register("ladder.1", family="ladder", kinds=ANY, source="retrieval over the own history")(
    OwnRetrieval
)
_rung("ladder.2", "+ shrunk own profile: self-completion through Σ", prepare=_no_peers, origins=OWN)
_rung("ladder.2p", "+ population: anyone's most relevant items compete with the own ones",
      prepare=_no_peers, origins=OWN_AND_ALL)  # fmt: skip
_rung("ladder.3", "+ global peers (F = 1), whose items may be shown",
      prepare=_with_facets(1), says_borrowed=False)  # fmt: skip
_rung("ladder.4", "facet peers instead, each found in the facet's own layer",
      prepare=_own_layer, says_borrowed=False)  # fmt: skip
_rung("ladder.5", "+ alignment across layers (T)", prepare=_cross_layer, says_borrowed=False)
_rung("ladder.6", "+ completion: what peers tend to is said, with its uncertainty")

_rung("control.random_peers", "ours (method.md, controls): the full system, peers by chance",
      is_random=True, prepare=_random_peers)  # fmt: skip
_rung("control.rewired", "ours (method.md, controls): layers of the same degrees, other people",
      is_random=True, prepare=_rewired)  # fmt: skip
_rung("control.global_facet", "peers chosen as whole users, lending what they say in the facet",
      prepare=_chosen_globally)  # fmt: skip
_rung("control.global_mean", "F = 1: chosen globally, lending the global mean",
      prepare=_with_facets(1))  # fmt: skip

_rung("ablation.no_retrieval", "tendencies alone, nothing is quoted", origins=frozenset())
_rung("ablation.no_tendencies", "examples alone, own, peers' and anyone's",
      says_own=False, says_borrowed=False)  # fmt: skip
_rung("ablation.tendencies_first", "30 % of the room is kept for tendencies, however small it is",
      prompt={"examples_first": 0})  # fmt: skip
_rung("ablation.quoted", "examples quoted in one block in the place of exchanges",
      prompt={"exchanges": "none"})  # fmt: skip
_rung("ablation.no_shrinkage", "own means at face value", prepare=_unshrunk)
_rung("ablation.never_abstains", "every offer is taken, whatever masked facets say of it",
      prepare=_peers_at_all_costs)  # fmt: skip
for _n in (3, 10):
    _rung(f"ablation.K{_n}", f"at most {_n} peers in the place of 50", prepare=_with_peers(_n))
for _n in (2, 4, 16):
    _rung(f"ablation.F{_n}", f"{_n} facets in the place of 8", prepare=_with_facets(_n))
