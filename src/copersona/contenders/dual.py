"""The dual branch as systems: soft prompts beside text, the gate, and soft prompts of others.

Rung 7 is graph reasoning in the place of completion in closed form; rung 8 adds soft tokens and the
gate. Beside them every kind of soft prompt speaks alone, trained on the same lessons through the
same projector with the same number of steps: ours, those of others, and one that knows no user,
since tokens that are merely tuned to a task help too. Importing this needs no torch; running it
does, and a local language model, but for rung 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from copersona.answering.gate import CHOICES, Gate
from copersona.answering.serving import Desk, Look
from copersona.answering.sources import Prompter
from copersona.contenders.ladder import Rung
from copersona.contenders.systems import ANY, TEXT, register
from copersona.contenders.tutoring import Tell, Tutor
from copersona.contenders.world import Training, World, shown
from copersona.errors import ConfigError, DataError
from copersona.method.facets import FacetConfig
from copersona.method.fitted import FittedState, MethodConfig
from copersona.reasoning.config import TrainingConfig
from copersona.records import Context
from copersona.tasks.cases import Prediction, Request

if TYPE_CHECKING:
    from copersona.reasoning.reasoner import GraphReasoner
    from copersona.softprompts.lessons import Frame
    from copersona.softprompts.projector import PersonaVectors

Array = NDArray[Any]

ALONE = 1.0
"""Branch dropout of soft prompts that speak without text."""
BESIDE = 0.5
"""… and beside it. More than method step 12 says, since text makes a step twice as slow."""


def graph_reasoner(training: Training, state: FittedState) -> GraphReasoner | None:
    """Graph reasoning on a state of a training; None where there is too little to learn from.

    Everybody in a training may be trained on.
    """
    from copersona.reasoning.reasoner import GraphReasoner  # noqa: PLC0415  it needs torch
    from copersona.reasoning.training import train  # noqa: PLC0415

    known = training.reasoners
    if id(state) not in known:
        try:
            trained = train(state, training.corpus, TrainingConfig())
        except DataError as error:
            training.warnings.append(f"graph reasoning was not trained: {error}")
            known[id(state)] = None
        else:
            training.warnings.extend(f"graph reasoning: {d.sentence}" for d in trained.decisions)
            known[id(state)] = GraphReasoner(trained, state)
    found: GraphReasoner | None = known[id(state)]
    return found


@register(
    "ladder.7", family="dual", kinds=ANY,
    source="+ graph reasoning in the views where unseen users find it better than completion",
)  # fmt: skip
class Reasoned(Rung):
    """The full system with graph reasoning."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        self._reasoner = graph_reasoner(world.training, self.state)

    def _desk(self, request: Request) -> Desk:
        return replace(super()._desk(request), reasoner=self._reasoner)


class Softened(Reasoned):
    """Soft tokens, alone or beside the text of rung 7.

    Args:
        tell: what the soft tokens are made of; the persona where None.
        knows_user: False is the control.
        is_beside: the text branch speaks as well.
    """

    def __init__(
        self,
        world: World,
        seed: int,
        *,
        name: str,
        tell: Callable[[World], Tell] | None = None,
        knows_user: bool = True,
        is_beside: bool = False,
        n_pooled: int = 2,
    ) -> None:
        super().__init__(world, seed)
        self._tutor, self._is_beside = _tutor_of(world), is_beside
        self._tell = tell(world) if tell else persona_of
        dropout = BESIDE if is_beside else ALONE
        self._projector = self._tutor.soft(
            name, self._desk, self._tell, self._frame, knows_user=knows_user, n_pooled=n_pooled,
            branch_dropout=dropout,
        ).projector  # fmt: skip

    @property
    def _frame(self) -> Frame:
        from copersona.softprompts.lessons import Frame  # noqa: PLC0415  it needs torch

        return Frame(self._retrieval, self._prompt, self.world.count_tokens)

    def predict(self, request: Request) -> Prediction:
        """A context with soft tokens; without any where nothing is known of the user."""
        desk = self._desk(request)
        look = desk.look(request.query)
        soft = self._projector.soft(self._tell(desk, look))
        if not self._is_beside:
            return replace(self.world.show(request, ()), soft=soft)
        context = desk.answer_from(look, *self._frame).context
        return replace(shown(context), soft=soft)


class Gated(Softened):
    """Both branches, and per request the choice of what may enter.

    Args:
        has_soft: soft tokens are among the choices.
    """

    def __init__(self, world: World, seed: int, *, has_soft: bool = True) -> None:
        self._prompter: Prompter | None = None
        if has_soft:
            super().__init__(world, seed, name="persona, beside", is_beside=True)
            from copersona.softprompts.prompter import SoftPrompter  # noqa: PLC0415  needs torch

            self._prompter = SoftPrompter(self._projector, self.state)
        else:
            Reasoned.__init__(self, world, seed)
            self._tutor = _tutor_of(world)
        choices = tuple(one for one in CHOICES if has_soft or not one.has_soft)
        self._gate: Gate | None = None
        self._everything = choices[-1]
        kind = "gate" if has_soft else "gate without soft tokens"
        try:
            self._gate, report = self._tutor.gate(kind, self._desk, self._frame, choices)
        except DataError as error:
            world.training.warnings.append(f"{kind}: not fitted, so that all enters: {error}")
        else:
            world.training.warnings.extend(f"{kind}: {line}" for line in report.lines())

    def _desk(self, request: Request) -> Desk:
        return replace(super()._desk(request), prompter=self._prompter)

    def predict(self, request: Request) -> Prediction:
        """What the gate lets in."""
        desk = self._desk(request)
        look = desk.look(request.query)
        choice = self._everything
        if self._gate:
            choice = self._gate.choose(desk.features(look))
        context: Context = desk.answer_from(look, *self._frame, choice=choice).context
        numbers = {"injected": float(context.is_personalised)}
        return replace(shown(context), soft=context.soft, numbers=numbers)


def _tutor_of(world: World) -> Tutor:
    if world.tutor is None:
        raise ConfigError("soft prompts and the gate need a local language model: --llm local:NAME")
    return world.tutor


# ---- what soft tokens are made of ----------------------------------------------------------------


def persona_of(desk: Desk, look: Look) -> PersonaVectors:
    """Ours: the routed persona and the facets; see `persona_vectors`."""
    from copersona.softprompts.lessons import told_by_persona  # noqa: PLC0415  it needs torch

    return told_by_persona(desk, look)


def _vectors(slots: Array, pool: Array, query: Array, *, is_known: bool) -> PersonaVectors:
    from copersona.softprompts.projector import PersonaVectors  # noqa: PLC0415  it needs torch

    return PersonaVectors(slots, pool, np.ones(len(pool)), query, float(is_known))


def _history_of(world: World) -> Tell:
    """PPlug: every past interaction, attended to from the request."""

    def tell(desk: Desk, look: Look) -> PersonaVectors:
        own = look.own.corpus
        pool = np.concatenate([own.inputs, own.responses], axis=1)
        return _vectors(np.zeros((0, 1)), pool, look.vector, is_known=len(own) > 0)

    return tell


def _mean_of(world: World) -> Tell:
    """E2P: one vector of the user, the mean of all responses."""

    def tell(desk: Desk, look: Look) -> PersonaVectors:
        own = look.own.corpus
        dim = look.vector.shape[0]
        mean = own.responses.mean(axis=0) if len(own) else np.zeros(dim)
        return _vectors(mean[None], np.zeros((0, 1)), look.vector, is_known=len(own) > 0)

    return tell


def _global_of(world: World) -> Tell:
    """A global graph: graph reasoning over one facet that holds everything."""
    training = world.training
    state = training.state(MethodConfig(facets=FacetConfig(n_facets=1)))
    reasoner = graph_reasoner(training, state)

    def tell(desk: Desk, look: Look) -> PersonaVectors:
        return persona_of(*_moved(replace(desk, reasoner=reasoner), state, look))

    return tell


def _moved(desk: Desk, state: FittedState, look: Look) -> tuple[Desk, Look]:
    """The same under another state, without candidates."""
    desk = replace(desk, state=state)
    routed = state.facets.route(look.vector)
    view = desk.view(look.query.user, look.own.corpus, np.flatnonzero(routed > 0).tolist())
    return desk, replace(look, routed=routed, view=view, candidates=())


def _propagated_of(world: World) -> Tell:
    """LightGCN: a user's vector, its neighbours' and theirs, averaged."""
    state = world.training.state(MethodConfig(facets=FacetConfig(n_facets=1)))
    from copersona.reasoning.neighbourhoods import units  # noqa: PLC0415  beside what needs torch

    unit = units(state.models)[0]
    zeroth = _tendencies(state.states.posteriors)[:, 0] / unit
    first = _averaged(zeroth, state.graph.neighbours[-1])

    def tell(desk: Desk, look: Look) -> PersonaVectors:
        view = _moved(replace(desk, reasoner=None), state, look)[1].view
        own = _tendencies(view.states.posteriors)[0, 0] / unit
        near = view.near
        hops = [own, *((zeroth[near].mean(axis=0), first[near].mean(axis=0)) if len(near) else ())]
        vector = np.mean(hops, axis=0)
        return _vectors(
            vector[None], np.zeros((0, 1)), look.vector, is_known=len(look.own.corpus) > 0
        )

    return tell


def _tendencies(posteriors: Any) -> Array:
    return np.concatenate([posterior.theta for posterior in posteriors], axis=2)


def _averaged(vectors: Array, neighbours: Array) -> Array:
    """Mean over listed neighbours; a row without any keeps its own.

    Shapes:
        vectors (n, d) · neighbours (n, k), −1 where there are fewer -> (n, d)
    """
    there = neighbours >= 0
    sums = (vectors[neighbours.clip(min=0)] * there[..., None]).sum(axis=1)
    n = there.sum(axis=1, keepdims=True)
    return np.where(n > 0, sums / np.maximum(n, 1), vectors)


def _soft(name: str, source: str, **options: Any) -> None:
    register(f"soft.{name}", family="dual", kinds=TEXT, source=source)(
        partial(Softened, name=options.pop("trained_as", name), **options)
    )


_soft("persona", "soft tokens of the routed persona alone (method step 10)")
_soft("blind", "control: as many tokens, trained the same way, that know nothing of the user",
      knows_user=False)  # fmt: skip
_soft("pplug", "PPlug (2409.11901): attention-pooled history as one token; without its encoder",
      tell=_history_of, n_pooled=1)  # fmt: skip
_soft("e2p", "E2P (2505.17051): the mean response as one token", tell=_mean_of, n_pooled=0)
_soft("global_gnn", "graph reasoning over one facet (F = 1)", tell=_global_of)
_soft("lightgcn", "LightGCN (2002.02126) on the user graph: mean of 0, 1 and 2 hops; one token",
      tell=_propagated_of, n_pooled=0)  # fmt: skip
_soft("persona+text", "both branches, no gate", trained_as="persona, beside", is_beside=True)
_soft("blind+text", "control: text beside tokens that know nothing of the user",
      trained_as="blind, beside", is_beside=True, knows_user=False)  # fmt: skip

register("gated.text", family="dual", kinds=TEXT, source="rung 7 with a gate over the text alone")(
    partial(Gated, has_soft=False)
)
register("ladder.8", family="dual", kinds=TEXT, source="+ soft tokens, gated (method step 11)")(
    Gated
)
