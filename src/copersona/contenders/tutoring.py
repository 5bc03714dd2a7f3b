"""What systems learn from before they are asked: requests answered before the cut, and a model.

A tutor holds the local language model of a run, the lessons of one task and where trainings are
kept. Each kind of soft prompt is trained once, on the same lessons, with the same number of steps;
the gate is fitted on users that no soft prompt was learnt from. Knows a world and its desk; what a
system tells of a user is the system's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from copersona.answering.gate import CHOICES, Choice, Gate
from copersona.answering.gate_config import GateConfig
from copersona.answering.gate_fitting import fit_gate
from copersona.answering.gate_report import GateReport
from copersona.softprompts.config import SoftPromptConfig
from copersona.tasks.cases import Case, Request

if TYPE_CHECKING:
    from copersona.answering.serving import Desk, Look
    from copersona.language.softened import SoftScorer
    from copersona.softprompts.lessons import Frame, Lesson
    from copersona.softprompts.projector import PersonaVectors
    from copersona.softprompts.training import Example
    from copersona.softprompts.training import Trained as TrainedProjector

DeskOf = Callable[[Request], "Desk"]
Tell = Callable[["Desk", "Look"], "PersonaVectors"]

GATE_LESSONS = 200
ROUND = 50
STOPPING = 64
"""Lessons that say when a soft prompt has learnt enough."""


@dataclass(eq=False)
class Tutor:
    """Trains what a run compares, each once.

    Attributes:
        open: gives the language model.
        lessons: requests with their answers, all from before the cut.
        folder: where trainings are kept.
        steps: of every soft prompt.
    """

    open: Callable[[], SoftScorer]
    lessons: Callable[[], Sequence[Case]]
    folder: Path
    steps: int
    seed: int = 0
    _soft: dict[str, TrainedProjector] = field(default_factory=dict)
    _gates: dict[str, tuple[Gate, GateReport]] = field(default_factory=dict)

    @cached_property
    def scorer(self) -> SoftScorer:
        """The language model, opened when first asked for."""
        return self.open()

    def soft(
        self, name: str, desk_of: DeskOf, tell: Tell, frame: Frame, **settings: Any
    ) -> TrainedProjector:
        """The projector of one kind of soft prompt.

        Args:
            name: of the kind; what has the same name is trained once.
            tell: what the soft tokens are made of.
            settings: of its training.
        """
        if name not in self._soft:
            from copersona.softprompts.lessons import example_of, shortened  # noqa: PLC0415
            from copersona.softprompts.training import train  # noqa: PLC0415  they need torch

            config = SoftPromptConfig(
                steps=self.steps,
                round_steps=min(ROUND, self.steps),
                seed=self.seed,
                stop_examples=STOPPING,
                **settings,
            )
            rng = np.random.default_rng(self.seed)
            has_text = config.branch_dropout < 1
            examples = [example_of(shortened(one, rng), frame, tell, has_text=has_text)
                        for one in self._lessons(desk_of)]  # fmt: skip
            kept = self.folder / _name(name, config, examples)
            self._soft[name] = train(self.scorer, examples, config, checkpoint=kept)
        return self._soft[name]

    def _lessons(self, desk_of: DeskOf) -> list[Lesson]:
        from copersona.softprompts.lessons import Lesson  # noqa: PLC0415  needs torch

        found = []
        for case in self.lessons():
            desk = desk_of(case.request)
            own = desk.own(case.request.user, before=case.request.at)
            found.append(Lesson(desk, case.request.query, own, case.target.text))
        return found

    def gate(
        self, name: str, desk_of: DeskOf, frame: Frame, choices: Sequence[Choice] = CHOICES
    ) -> tuple[Gate, GateReport]:
        """A gate over the choices, and how good it was on users it did not see."""
        if name not in self._gates:
            from copersona.reasoning.training import part_of  # noqa: PLC0415  needs torch
            from copersona.softprompts.lessons import judge_choices, shortened  # noqa: PLC0415

            unseen = [one for one in self._lessons(desk_of)
                      if part_of(one.query.user, self.seed) != "learn"][:GATE_LESSONS]  # fmt: skip
            rng = np.random.default_rng(self.seed)
            # Every second one with a shorter history, so that thin ones are met too.
            lessons = [shortened(one, rng) if n % 2 else one for n, one in enumerate(unseen)]
            judged = judge_choices(lessons, choices, frame, self.scorer)
            self._gates[name] = fit_gate(
                judged.features, judged.losses, judged.tokens, judged.users, GateConfig(),
                choices=tuple(choices),
            )  # fmt: skip
        return self._gates[name]


def _name(name: str, config: SoftPromptConfig, examples: Sequence[Example]) -> str:
    """The same in every process, so that a killed training is found again."""
    digest = hashlib.sha256(f"{name} {config.model_dump_json()}".encode())
    for one in examples:
        digest.update(repr((one.user, one.messages, one.reference)).encode())
        digest.update(one.vectors.slots.tobytes() + one.vectors.pool.tobytes())
    return digest.hexdigest()[:16]
