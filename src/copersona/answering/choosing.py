"""Choice among sampled answers: the one that is most of this user's kind.

What an answer adds to what anyone would have answered, ψ(ŷ) − b(x), is compared with the user's
completed tendency in the facets the request falls into. That needs neither soft tokens nor the
inside of the language model, only several answers of it. Where nothing is known of the user all
scores are 0 and the order is kept.

Knows a desk, texts and a language model. Nothing of an answer is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copersona.answering.serving import Desk
from copersona.errors import BackendError, ConfigError
from copersona.language.generation import Generator, LocalGenerator
from copersona.method.corpus import build_corpus
from copersona.method.facets import unit
from copersona.method.fitted import FittedState, UserView
from copersona.records import Context, Interaction, Query

Array = NDArray[Any]

VIEWS = ("text", "style")
"""What answers are compared in; a sampled answer has no rating and no label."""

TEMPERATURE = 0.8
"""Of several answers, where none is named: at 0 they would all be the same."""


def sampled(
    model: Generator, context: Context, n: int, *, max_tokens: int, temperature: float | None
) -> list[str]:
    """Answers of a language model to one context.

    Args:
        n: how many.
        temperature: where None, 0 for one answer and `TEMPERATURE` for several.

    Raises:
        ConfigError: n is below 1; the context holds soft tokens and the model takes none.
        BackendError: the model failed; the message names the trace of the context, which stays.
    """
    if n < 1:
        raise ConfigError(f"{n} answers; at least 1 is needed")
    if temperature is None:
        temperature = TEMPERATURE if n > 1 else 0.0
    messages = list(context.messages)
    asked: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    if context.soft is not None:
        if not isinstance(model, LocalGenerator):
            raise ConfigError(f"the context holds soft tokens, which {model.name} cannot take")
        asked["soft"] = context.soft
    try:
        return [model.generate(messages, **asked) for _ in range(n)]
    except BackendError as error:
        kept = f" (the request is kept: trace {context.trace_id})" if context.trace_id else ""
        raise BackendError(f"{error}{kept}") from error


def rank_answers(desk: Desk, query: Query, answers: Sequence[str]) -> list[tuple[int, float]]:
    """Places of the answers with their scores, best first; ties in the order given.

    Blank answers have the least score, -1, if anything is known of the user.

    Source: method step 13 (ii).
    """
    own = desk.own(query.user, before=query.at)
    vector = desk.cache.of_request(query.text)
    routed = desk.state.facets.route(vector)
    view = desk.view(query.user, own.corpus, np.flatnonzero(routed > 0).tolist())
    said = [n for n, answer in enumerate(answers) if answer.strip()]
    scores = np.full(len(answers), -1.0)
    if said:
        rows = [
            Interaction(query.user, query.text, answers[n], query.item, at=query.at) for n in said
        ]
        vectors = np.stack([desk.cache.of_request(answers[n]) for n in said])
        corpus = build_corpus(rows, np.tile(vector, (len(said), 1)), vectors)
        scores[said] = answer_scores(desk.state, view, routed, desk.state.observe(corpus).residuals)
    if not scores[said].any():  # nothing is known of the user
        scores[:] = 0
    order = np.argsort(-scores, kind="stable").tolist()
    return [(n, float(scores[n])) for n in order]


def answer_scores(state: FittedState, view: UserView, routed: Array, residuals: Array) -> Array:
    """Cosine of each answer's residual with the user's routed tendency: in [-1, 1].

    Shapes:
        routed (n_facets,) · residuals (n, n_columns) -> (n,)

    Source: method step 13 (ii). Deviates: style stands beside the text, each over its noise, so
    that the view in which single answers say more about a person weighs more. With four answers,
    one of them the user's own, that finds the own one more often than text alone on six of seven
    made-up and real populations, and hardly less often on the other.
    """
    answers, tendency = [], []
    for model in state.models:
        if model.view.name not in VIEWS:
            continue
        part = model.view.slice
        wanted = sum(routed[f] * done.completed[part] for f, done in view.facets.items())
        usual = sum(routed[f] * model.center[f] for f in view.facets)
        noise = float(sum(routed[f] * model.noise[f] for f in view.facets))
        answers.append((residuals[:, part] - usual) / np.sqrt(noise))
        tendency.append(np.asarray(wanted) / np.sqrt(noise))
    given, asked = np.concatenate(answers, axis=1), np.concatenate(tendency)
    return np.asarray(unit(given.astype(np.float64)) @ unit(asked.astype(np.float64)))
