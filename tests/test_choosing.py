"""Choice among answers: planted tendencies, and the invented people through the front door."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from copersona import CoPersona, Interaction
from copersona.answering.choosing import TEMPERATURE, answer_scores, sampled
from copersona.errors import BackendError, ConfigError
from copersona.language.generation import EchoGenerator, Messages
from copersona.method.facets import FacetConfig
from copersona.method.fitted import MethodConfig, fit_state
from copersona.method.residuals import ResidualConfig
from copersona.records import Context, Query
from copersona.testing import WorldSpec, planted_world
from demo_people import DINNER, copied, fitted

METRIC = "200 °C, 35 min. 300 g rice, 6 g salt. Rest 10 min. Done."
SPICE = "Chilli, cumin, whatever is left! Taste, throw in more! Never the same twice!!"
STORY = (
    "My grandmother stirred the pot in silence, and we children knew by the smell of the bay leaf "
    "that it was Sunday and that nobody would hurry."
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(tmp_path_factory.mktemp("people") / "template")


@pytest.fixture
def cp(template: Path, tmp_path: Path) -> Iterator[CoPersona]:
    with copied(template, tmp_path / "copy") as opened_copy:
        yield opened_copy


class Scripted(EchoGenerator):
    """Says what it was told to say, one answer a call, and notes the temperatures."""

    def __init__(self, *answers: str) -> None:
        super().__init__()
        self.answers, self.temperatures = list(answers), []

    def generate(
        self,
        messages: Messages,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> str:
        self.temperatures.append(temperature)
        if not self.answers:
            raise BackendError("nothing left to say")
        return self.answers.pop(0)


def context(trace_id: str = "") -> Context:
    return Context(Query("ann", "rake"), (), (), (), 0, 100, True, trace_id)


# ---- planted tendencies -----------------------------------------------------------------------


def test_answers_of_ones_own_kind_win_on_a_planted_world() -> None:
    world = planted_world(WorldSpec(n_users=200, n_facets=3, per_facet=6, strength=0.8, seed=4))
    config = MethodConfig(facets=FacetConfig(n_facets=3), residuals=ResidualConfig(dim=12))
    corpus, rng = world.corpus, np.random.default_rng(0)
    last = np.r_[corpus.users[1:] != corpus.users[:-1], True]
    state = fit_state(corpus.take(~last), encoder="planted", cut=np.inf, config=config)
    residuals = state.observe(corpus).residuals
    wins = []
    for row in np.flatnonzero(last).tolist():
        user, facet = int(corpus.users[row]), world.facets[row]
        others = last & (world.facets == facet)
        others &= world.groups[corpus.users, facet] != world.groups[user, facet]
        view = state.view("someone", state.evidence.take(np.array([user])), may_lend=lambda _: True)
        pair = residuals[[row, rng.choice(np.flatnonzero(others))]]
        mine, theirs = answer_scores(state, view, state.facets.route(corpus.inputs[row]), pair)
        wins.append(mine > theirs)
    assert np.mean(wins) > 0.85


# ---- the front door ---------------------------------------------------------------------------


@pytest.mark.parametrize(("user", "expected"), [("ines", METRIC), ("kofi", SPICE)])
def test_an_answer_of_the_users_kind_wins(cp: CoPersona, user: str, expected: str) -> None:
    answers = [STORY, SPICE, METRIC]
    ranked = cp.choose(user, DINNER, answers)
    assert answers[ranked[0][0]] == expected
    scores = [score for _, score in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(-1 <= score <= 1 for score in scores)
    backwards = cp.choose(user, DINNER, answers[::-1])
    assert [(2 - place, pytest.approx(score)) for place, score in backwards] == ranked


def test_where_nothing_is_known_the_order_is_kept(cp: CoPersona) -> None:
    assert cp.choose("nobody", DINNER, [STORY, "", METRIC]) == [(0, 0.0), (1, 0.0), (2, 0.0)]
    assert cp.choose("ines", DINNER, []) == []


def test_a_blank_answer_is_never_preferred(cp: CoPersona) -> None:
    ranked = cp.choose("ines", DINNER, ["  ", STORY, METRIC])
    assert ranked[-1] == (0, -1.0)


def test_chat_gives_back_the_best_of_several(cp: CoPersona) -> None:
    model = Scripted(STORY, METRIC, SPICE)
    cp._backends._generator = model
    answer = cp.chat("ines", DINNER, n=3)
    assert answer.text == METRIC
    assert len(answer.scores) == 3
    assert answer.scores[0] == max(answer.scores)
    assert model.temperatures == [TEMPERATURE] * 3
    assert cp.explain(answer.context.trace_id).detail["text"] == DINNER


def test_one_answer_has_no_scores_and_several_equal_ones_are_one(cp: CoPersona) -> None:
    one, several = cp.chat("ines", DINNER), cp.chat("ines", DINNER, n=2)
    assert one.scores == ()
    assert one.text.startswith("system:")
    assert several.text.startswith("system:")
    assert several.scores[0] == several.scores[1] != 0
    rows = cp.store.n_interactions("default")
    cp.choose("ines", DINNER, [METRIC])
    assert cp.store.n_interactions("default") == rows


def test_a_named_temperature_stands_and_a_failure_names_the_trace() -> None:
    model = Scripted("a", "b", "c")
    sampled(model, context(), 2, max_tokens=9, temperature=0.3)
    sampled(model, context(), 1, max_tokens=9, temperature=None)
    assert model.temperatures == [0.3, 0.3, 0.0]
    with pytest.raises(BackendError, match="trace 1234"):
        sampled(model, context("1234"), 2, max_tokens=9, temperature=None)
    with pytest.raises(ConfigError, match="at least 1"):
        sampled(model, context(), 0, max_tokens=9, temperature=None)


def test_peers_help_to_choose_where_own_words_are_few(cp: CoPersona) -> None:
    cp.add([Interaction("newcomer", "Which dish do you cook?", "Rice 1:1.5, 12 min, lid on.")])
    helped = dict(cp.choose("newcomer", DINNER, [STORY, METRIC]))
    cp.set_consent("newcomer", learn=False)
    alone = dict(cp.choose("newcomer", DINNER, [STORY, METRIC]))
    assert helped[1] - helped[0] > 0
    assert alone != helped
