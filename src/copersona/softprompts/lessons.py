"""Requests that were answered, as lessons: for soft prompts, and for the gate.

A lesson is what somebody said to something, with their history before it. For soft prompts some of
the history is left out at random, and sometimes the very facet of the request, so that thin
histories are learnt from too. For the gate every choice is rendered and judged by the language
model. Nothing here decides who may be learnt from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from copersona.answering.blocks import CountTokens
from copersona.answering.gate import Choice
from copersona.answering.prompting import PromptConfig, request_text
from copersona.answering.retrieval import RetrievalConfig
from copersona.answering.serving import Desk, Look, Own
from copersona.language.generation import Messages
from copersona.language.softened import SoftScorer
from copersona.method.masking import CAPS
from copersona.records import Query
from copersona.softprompts.persona import persona_vectors
from copersona.softprompts.projector import PersonaVectors
from copersona.softprompts.training import Example

Array = NDArray[Any]
Progress = Callable[[int, int], None]
Tell = Callable[[Desk, Look], PersonaVectors]

DELETED = 0.3
"""Share of lessons from which the facet of the request is deleted."""
_TOGETHER = 32


@dataclass(frozen=True)
class Lesson:
    """A request, what was known then, and what was said.

    Attributes:
        own: without what was said.
    """

    desk: Desk
    query: Query
    own: Own
    reference: str


class Frame(NamedTuple):
    """How contexts are made."""

    retrieval: RetrievalConfig
    prompt: PromptConfig
    count_tokens: CountTokens


def shortened(lesson: Lesson, rng: np.random.Generator) -> Lesson:
    """The same with a shorter history: some newest interactions, perhaps none of the facet.

    Source: method step 12.
    """
    own, state = lesson.own, lesson.desk.state
    cap = CAPS[int(rng.integers(len(CAPS)))]
    is_deleted = rng.random() < DELETED
    rows = np.arange(len(own.history))
    if is_deleted and len(rows):
        main = int(state.facets.route(lesson.desk.cache.of_request(lesson.query.text)).argmax())
        rows = rows[state.facets.assign(own.corpus.inputs, own.corpus.declared) != main]
    if cap is not None:
        rows = rows[max(len(rows) - cap, 0) :]
    return replace(lesson, own=own.take(rows.tolist()))


def told_by_persona(desk: Desk, look: Look) -> PersonaVectors:
    """What our soft tokens are made of."""
    return persona_vectors(desk.state, look.view, look.routed, look.vector)


def example_of(
    lesson: Lesson, frame: Frame, tell: Tell = told_by_persona, *, has_text: bool = True
) -> Example:
    """A lesson for a soft prompt.

    Args:
        tell: what the soft tokens are made of.
        has_text: the text branch speaks as well.
    """
    look, plain = lesson.desk.look(lesson.query, lesson.own), bare(lesson.query)
    messages: Messages = plain
    if has_text:
        messages = lesson.desk.answer_from(look, *frame).context.messages
    return Example(lesson.query.user, messages, plain, lesson.reference, tell(lesson.desk, look))


def bare(query: Query) -> tuple[dict[str, str], ...]:
    """The request as it is, without anything of anybody."""
    return ({"role": "user", "content": request_text(query)},)


class Judged(NamedTuple):
    """What every choice cost on some lessons.

    Shapes:
        features (n, n_features) · losses (n, n_choices): nats per token of what was said · tokens
        (n, n_choices): of the context
    """

    features: Array
    losses: Array
    tokens: Array
    users: tuple[str, ...]


def judge_choices(
    lessons: Sequence[Lesson],
    choices: Sequence[Choice],
    frame: Frame,
    scorer: SoftScorer,
    progress: Progress | None = None,
) -> Judged:
    """Let the language model judge what each choice would have put into its context."""
    features, losses, tokens = [], [], []
    for start in range(0, len(lessons), _TOGETHER):
        asked: dict[Any, int] = {}
        places = []
        for lesson in lessons[start : start + _TOGETHER]:
            look = lesson.desk.look(lesson.query, lesson.own)
            features.append(lesson.desk.features(look).as_array())
            for choice in choices:
                context = lesson.desk.answer_from(look, *frame, choice=choice).context
                soft = None if context.soft is None else context.soft.tobytes()
                told = tuple((one["role"], one["content"]) for one in context.messages)
                places.append(asked.setdefault((told, lesson.reference, soft), len(asked)))
                tokens.append(context.tokens + (0 if context.soft is None else len(context.soft)))
        found = _judged(list(asked), scorer)
        losses += [found[place] for place in places]
        if progress:
            progress(min(start + _TOGETHER, len(lessons)), len(lessons))
    shape = (len(lessons), len(choices))
    return Judged(
        np.array(features).reshape(len(lessons), -1), np.array(losses).reshape(shape),
        np.array(tokens, float).reshape(shape), tuple(lesson.query.user for lesson in lessons),
    )  # fmt: skip


def _judged(asked: Sequence[tuple[Any, str, bytes | None]], scorer: SoftScorer) -> list[float]:
    """Nats per token of each."""
    pairs = [([{"role": r, "content": c} for r, c in told], said) for told, said, _ in asked]
    softs = [
        None if soft is None else np.frombuffer(soft, np.float32).reshape(-1, scorer.width)
        for _, _, soft in asked
    ]
    return [one.nats / max(one.n_tokens, 1) for one in scorer.soft_nll(pairs, softs)]
