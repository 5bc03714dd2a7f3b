"""The order of training: graph reasoning, then soft prompts over it, then the gate over both.

Each part is published with the state once it is trained. What was trained on top of a part before
that part is trained anew is dropped, since it no longer fits. Decides the order, not how anything
is trained. Needs torch.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from copersona.answering.serving import Desk
from copersona.config import CoPersonaConfig
from copersona.errors import ArtifactError, ConfigError
from copersona.fitting import train_graph
from copersona.language.softened import SoftScorer
from copersona.learnt import GATE, GRAPH, SOFT, Weights
from copersona.method.corpus import Corpus
from copersona.method.fitted import FittedState
from copersona.published import Published, States
from copersona.reports import TrainReport
from copersona.softprompts.lessons import Lesson
from copersona.teaching import (
    Classroom,
    classroom,
    gate_lessons,
    teach_gate,
    teach_soft_prompt,
)

Progress = Callable[[str, int, int], None]
Said = tuple[str, ...]

ORDER = (GRAPH, SOFT, GATE)
_TRIES = 3


@dataclass(frozen=True)
class Curriculum:
    """What training needs of a deployment.

    Attributes:
        in_force: the published state, as it is now.
        corpus_of: interactions of the lenders, by the rows of a state.
        desk_of: answers under a published state.
        scorer: the language model; None where neither soft prompts nor the gate are trained.
        device: of graph reasoning.
    """

    states: States
    config: CoPersonaConfig
    in_force: Callable[[], Published]
    corpus_of: Callable[[FittedState], Corpus]
    desk_of: Callable[[Published], Desk]
    scorer: SoftScorer | None
    device: str
    progress: Progress | None

    def train(self, parts: Sequence[str]) -> TrainReport:
        """Train and publish some of `ORDER`, in this order.

        Raises:
            DataError: too few lenders allow training, or have enough to learn from.
            ArtifactError: the state was replaced again and again while it was trained on.

        Source: method step 12.
        """
        start, version, said = time.perf_counter(), "", list[str]()
        with self.states.training():
            if GATE in parts:  # too few lessons for it are told before anything is trained
                self._gate_lessons(self.in_force(), parts)
            for part in sorted(parts, key=ORDER.index):
                version, told = self._trained(part, parts)
                said += told
        return TrainReport(version, tuple(said), time.perf_counter() - start)

    def _trained(self, part: str, parts: Sequence[str]) -> tuple[str, Said]:
        """Train and publish one part: anew where the state it was trained on was replaced."""
        for _ in range(_TRIES):
            published = self.in_force()
            weights, told = self._taught(part, published)
            with self.states.replacing():
                if self._is_in_force(published, weights):
                    version, dropped = self._publish(part, parts, published, weights)
                    return version, (*told, *dropped)
            shutil.rmtree(self.states.training_folder, ignore_errors=True)
        raise ArtifactError(
            f"{part}: not published, since the fitted state was replaced, or a lender left, "
            f"{_TRIES} times while it was trained; train again when less happens"
        )

    def _is_in_force(self, published: Published, weights: Weights | None) -> bool:
        """Whether nothing replaced the state meanwhile, and all who taught still allow it."""
        now = self.in_force()
        policy, lenders = self.desk_of(now).policy, enumerate(now.state.lenders)
        return now.version == published.version and all(
            policy.trains(user) for row, user in lenders if weights and weights.saw(row)
        )

    def _publish(
        self, part: str, parts: Sequence[str], published: Published, weights: Weights | None
    ) -> tuple[str, Said]:
        below = ORDER[: ORDER.index(part)]
        learnt = {name: one for name, one in published.learnt.items() if name in below}
        dropped = set(published.learnt) - {*below, *parts}
        if weights:
            learnt[part] = weights
        version = self.states.publish(*published[1:4], learnt)
        self.states.prune()
        return version, tuple(f"{name}: dropped, train it anew" for name in sorted(dropped))

    def _taught(self, part: str, published: Published) -> tuple[Weights | None, Said]:
        if part == GRAPH:
            return train_graph(
                published.state, self.corpus_of(published.state), self.desk_of(published).policy,
                self.config.reasoning, checkpoint=self.states.training_folder,
                device=self.device, progress=self.progress,
            )  # fmt: skip
        if part == SOFT:
            return teach_soft_prompt(self._room(published), self.config.soft_prompt)
        lessons = self._gate_lessons(published, ())
        return teach_gate(self._room(published), self.config.gate, lessons)

    def _gate_lessons(self, published: Published, parts: Sequence[str]) -> list[Lesson]:
        """Of users whom nothing that is there, and no part still to come, is trained on."""
        learnt, config = published.learnt, self.config
        asked = {GRAPH: config.reasoning.seed, SOFT: config.soft_prompt.seed}
        seeds = {name: learnt[name].facts["config"]["seed"] for name in asked if name in learnt}
        seeds |= {name: seed for name, seed in asked.items() if name in parts}
        return gate_lessons(self._room(published), seeds.values())

    def _room(self, published: Published) -> Classroom:
        if self.scorer is None:
            raise ConfigError("soft prompts and the gate need a language model to be learnt with")
        return classroom(
            self.desk_of(published), self.scorer, self.config.retrieval, self.config.prompt,
            self.states.training_folder, self.progress,
        )  # fmt: skip
