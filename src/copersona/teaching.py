"""What a store teaches soft prompts and the gate: what users said, after what was known of them.

Only lenders who allow training are learnt from: a few of their newest interactions, each with the
history before it; no answer of a user twice, and none that holds a link, an address or a long
number. Soft prompts are learnt from histories cut short at random, the gate from whole ones of
users whom nothing else was trained on. A language model in this process judges; work that was
killed goes on where it was. Publishes nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from copersona.answering.gate import CHOICES, Choice
from copersona.answering.gate_config import GateConfig
from copersona.answering.gate_data import check_enough
from copersona.answering.gate_fitting import fit_gate
from copersona.answering.prompting import PromptConfig
from copersona.answering.retrieval import RetrievalConfig
from copersona.answering.serving import Desk
from copersona.consent import may_be_learnt_from
from copersona.fitting import trainers
from copersona.language.softened import SoftScorer
from copersona.learnt import GATE, SOFT, TRAINED_ON, Weights
from copersona.method.corpus import id_hash
from copersona.reasoning.training import part_of
from copersona.records import Interaction, Query
from copersona.softprompts import training
from copersona.softprompts.config import SoftPromptConfig
from copersona.softprompts.lessons import (
    Frame,
    Judged,
    Lesson,
    example_of,
    judge_choices,
    shortened,
)
from copersona.softprompts.prompter import to_weights

Progress = Callable[[str, int, int], None]
Said = tuple[str, ...]

PER_USER, MOST = 4, 2_000
"""Lessons for soft prompts: of any one user, and of all."""
JUDGED_PER_USER, MOST_JUDGED = 8, 300
"""Lessons for the gate, which cost one look of the language model for every choice."""

_TOGETHER = 16
"""Lessons that are judged between one checkpoint and the next."""
_SPARE = 256
"""Tokens that the frame of a chat, and soft tokens, may take beside budget, request and answer."""
_FENCE, _SECRET = "vqhmzkwt", b"lessons"
"""The same each time, so that a killed training finds its lessons again; nothing of it is shown."""


@dataclass(frozen=True)
class Classroom:
    """Who teaches whom: a desk to answer at, a language model to judge, and where work is kept.

    Attributes:
        desk: with what was trained before, and no gate.
        folder: of checkpoints.
    """

    desk: Desk
    scorer: SoftScorer
    retrieval: RetrievalConfig
    prompt: PromptConfig
    folder: Path
    progress: Progress | None = None

    @property
    def frame(self) -> Frame:
        """How contexts are made."""
        return Frame(self.retrieval, self.prompt, self.scorer.count_tokens)

    def report(self, stage: str, done: int, total: int) -> None:
        """Say how far it is."""
        if self.progress:
            self.progress(stage, done, total)

    def lessons(self, users: Sequence[str], *, per_user: int, most: int) -> list[Lesson]:
        """What users said, the newest first: one lesson of everybody, then a second, and so on.

        Which users come first depends on a hash of their ids alone.
        """
        of_each: list[list[Lesson]] = []
        for user in sorted(users, key=id_hash):
            if found := list(islice(self._of_user(user), per_user)):
                of_each.append(found)
            if len(of_each) == most:
                break
        turns = zip_longest(*of_each)
        return [one for turn in turns for one in turn if one is not None][:most]

    def _of_user(self, user: str) -> Iterator[Lesson]:
        own = self.desk.own(user)
        for n in learnable(own.history):
            said = own.history[n]
            if said.is_single_text or not self._has_room(said):
                continue
            query = Query(user, said.input, at=said.at, item=said.item)
            known = own.take(_known_before(own.history, n))
            yield Lesson(self.desk, query, known, said.response)

    def _has_room(self, said: Interaction) -> bool:
        """Whether the language model can hold it beside the largest context."""
        count = self.scorer.count_tokens
        room = self.scorer.context_tokens - self.prompt.budget_tokens - _SPARE
        return count(said.input) + count(said.response) <= room


def classroom(
    desk: Desk,
    scorer: SoftScorer,
    retrieval: RetrievalConfig,
    prompt: PromptConfig,
    folder: Path,
    progress: Progress | None,
) -> Classroom:
    """Where lessons are given.

    Args:
        desk: as it serves; a lender's peers are searched by what was known at the lesson.
        folder: of checkpoints.
    """
    desk = replace(desk, searches_anew=True, fence=_FENCE, secret=_SECRET, gate=None)
    return Classroom(desk, scorer, retrieval, prompt, folder, progress)


def learnable(history: Sequence[Interaction]) -> list[int]:
    """Rows that may be learnt from, the newest first: no answer twice, none that may not be."""
    newest = {said.response: n for n, said in enumerate(history)}
    return sorted((n for text, n in newest.items() if may_be_learnt_from(text)), reverse=True)


def _known_before(history: Sequence[Interaction], n: int) -> list[int]:
    """Rows of a history that were known when one was said, without its repeats."""
    said = history[n]

    def is_known(other: Interaction) -> bool:
        is_earlier = said.at is None or other.at is None or other.at < said.at
        is_repeat = (other.input, other.response) == (said.input, said.response)
        return is_earlier and not is_repeat

    return [row for row, other in enumerate(history[:n]) if is_known(other)]


# ---- soft prompts ------------------------------------------------------------------------------


def teach_soft_prompt(room: Classroom, config: SoftPromptConfig) -> tuple[Weights | None, Said]:
    """Train soft prompts; None where they gained nothing on users who were not learnt from.

    Raises:
        DataError: too few people allow it, or said enough.

    Source: method step 12 (2).
    """
    start, desk = time.perf_counter(), replace(room.desk, prompter=None)
    examples = soft_examples(replace(room, desk=desk), config.seed)
    trained = training.train(
        room.scorer, examples, config, checkpoint=room.folder / SOFT,
        progress=lambda done, total, _: room.report("soft prompts: training", done, total),
    )  # fmt: skip
    shutil.rmtree(room.folder / SOFT)
    seen = {example.user for example in examples}
    weights = to_weights(trained, [user in seen for user in desk.state.lenders])
    unlike = [] if trained.after < trained.without else ["no better than without soft tokens"]
    unlike += [] if trained.after < trained.before else ["training gained nothing"]
    said = (
        f"soft prompts: {trained.without:.4f} nats a token without, {trained.before:.4f} before "
        f"training, {trained.after:.4f} after, on {trained.n_stopping:,} users not learnt from",
        f"soft prompts: learnt from {trained.n_users:,} users in {len(trained.losses) - 1} rounds "
        f"of {config.round_steps} steps, {time.perf_counter() - start:.0f} s",
        f"soft prompts: {'not used: ' + ', and '.join(unlike) if unlike else 'used'}",
    )
    return (None if unlike else weights), said


def soft_examples(room: Classroom, seed: int) -> list[training.Example]:
    """Lessons of all who may be trained on, their histories cut short at random."""
    users = _trainers(room.desk)
    lessons = room.lessons(users, per_user=PER_USER, most=MOST)
    rng, examples = np.random.default_rng(seed), []
    for lesson in lessons:
        examples.append(example_of(shortened(lesson, rng), room.frame))
        room.report("soft prompts: reading", len(examples), len(lessons))
    return examples


def _trainers(desk: Desk) -> list[str]:
    """Who lends, and may be trained on.

    Raises:
        DataError: nobody.
    """
    may_train = trainers(desk.state, desk.policy)
    named = zip(desk.state.lenders, may_train, strict=True)
    return [user for user, may in named if may and desk.policy.lends(user)]


# ---- the gate ----------------------------------------------------------------------------------


def gate_lessons(room: Classroom, seeds: Iterable[int]) -> list[Lesson]:
    """Lessons of users whom nothing else was trained on.

    Args:
        seeds: of the splits of users by which all else is trained.

    Raises:
        DataError: too few people allow it, or said enough.
    """
    users = [u for u in _trainers(room.desk) if all(part_of(u, seed) != "learn" for seed in seeds)]
    lessons = room.lessons(users, per_user=JUDGED_PER_USER, most=MOST_JUDGED)
    check_enough([lesson.query.user for lesson in lessons])
    return lessons


def teach_gate(
    room: Classroom, config: GateConfig, lessons: Sequence[Lesson]
) -> tuple[Weights, Said]:
    """Fit the gate to what each choice costs on lessons, see `gate_lessons`.

    Source: method step 12 (3).
    """
    start, desk = time.perf_counter(), room.desk
    has_soft = desk.prompter is not None and desk.ways.sends_soft
    choices = [choice for choice in CHOICES if has_soft or not choice.has_soft]
    judged = _judged(room, lessons, choices)
    gate, report = fit_gate(*judged, config, choices=choices)
    shutil.rmtree(room.folder / GATE)
    found, facts = gate.to_arrays()
    arrays = {name: array.astype(np.float32) for name, array in found.items()}
    seen = set(judged.users)
    trained_on = np.array([user in seen for user in desk.state.lenders], bool)
    weights = Weights(
        {**arrays, TRAINED_ON: trained_on},
        {**facts, "language_model": room.scorer.identity}, (TRAINED_ON,),
    )  # fmt: skip
    took = f"gate: {len(lessons):,} requests judged, {time.perf_counter() - start:.0f} s"
    return weights, (*report.lines(), took)


def _judged(room: Classroom, lessons: Sequence[Lesson], choices: Sequence[Choice]) -> Judged:
    """What every choice cost, some lessons at a time; what was judged before is kept."""
    parts = []
    for start in range(0, len(lessons), _TOGETHER):
        some = lessons[start : start + _TOGETHER]
        parts.append(_judged_once(room, some, choices))
        room.report("gate: judging", start + len(some), len(lessons))
    return Judged(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.losses for part in parts]),
        np.concatenate([part.tokens for part in parts]),
        tuple(lesson.query.user for lesson in lessons),
    )


def _judged_once(room: Classroom, lessons: Sequence[Lesson], choices: Sequence[Choice]) -> Judged:
    path = room.folder / GATE / f"{_mark(room, lessons, choices)}.npz"
    users = tuple(lesson.query.user for lesson in lessons)
    if path.exists():
        with np.load(path) as kept:
            return Judged(kept["features"], kept["losses"], kept["tokens"], users)
    judged = judge_choices(lessons, choices, room.frame, room.scorer)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, features=judged.features, losses=judged.losses, tokens=judged.tokens)
    partial.replace(path)
    return judged


def _mark(room: Classroom, lessons: Sequence[Lesson], choices: Sequence[Choice]) -> str:
    """What has the same mark is judged the same."""
    how: list[Any] = [
        room.desk.version, room.scorer.identity, [choice.name for choice in choices],
        room.prompt.model_dump_json(), repr(room.retrieval), room.desk.ways.model_dump_json(),
    ]  # fmt: skip
    asked = [
        [lesson.query.user, lesson.query.text, lesson.reference, [i.id for i in lesson.own.history]]
        for lesson in lessons
    ]
    return hashlib.sha256(json.dumps([how, asked]).encode()).hexdigest()
