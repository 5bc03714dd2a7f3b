"""Soft prompts and the gate on a store: taught by those who allow it, served where they belong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import copersona
from copersona import Branches, CoPersona, CoPersonaConfig, Interaction, curriculum, teaching
from copersona.answering.gate import CHOICES, FEATURES, Gate
from copersona.answering.graph_branch import GraphBranchConfig
from copersona.answering.prompting import PromptConfig
from copersona.commands.terminal import plain
from copersona.errors import ConfigError, DataError
from copersona.learnt import GATE, SOFT, TRAINED_ON, Weights
from copersona.method.facets import FacetConfig
from copersona.method.fitted import MethodConfig
from copersona.method.residuals import ResidualConfig
from copersona.reasoning.training import part_of
from copersona.records import Query
from copersona.softprompts.canary import Exposure, exposure
from copersona.softprompts.config import SoftPromptConfig
from copersona.softprompts.lessons import bare
from copersona.softprompts.persona import persona_vectors
from copersona.softprompts.training import train
from tiny_model import save_tiny_model

THEMES = {"soup": "pot", "rail": "train", "rust": "compiler"}
ASKED = "rail train number 7?"
CONFIG = CoPersonaConfig(
    method=MethodConfig(facets=FacetConfig(n_facets=3), residuals=ResidualConfig(dim=6)),
    prompt=PromptConfig(budget_tokens=800),
    soft_prompt=SoftPromptConfig(hidden=16, learning_rate=1e-2, batch=4, steps=24, round_steps=6,
                                 stop_examples=16),
)  # fmt: skip
TRAINING = 50
"""Users who allow training; as many again do not."""


def people() -> list[Interaction]:
    """Users of two groups, each with a manner of its own, about three themes."""
    rng = np.random.default_rng(0)
    manners = ["ok ok", "Well, all in all, rather splendid!!!"]
    return [
        Interaction(f"user {u:03d}", f"{theme} {word} number {rng.integers(50)}?",
                    f"{manners[u % 2]} {rng.integers(99)} {word}", at=1e9 + 100 * u + n)
        for u in range(2 * TRAINING)
        for n, (theme, word) in enumerate(2 * list(THEMES.items()))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local:{save_tiny_model(tmp_path_factory.mktemp('tiny'), context=4096)}"


def opened(
    folder: Path, llm: str, config: CoPersonaConfig = CONFIG, rows: list[Interaction] | None = None
) -> CoPersona:
    """A fitted store, with half of its users to be trained on."""
    cp = copersona.open(folder / "p.db", encoder="hashing", generator=llm, config=config)
    cp.add(people() if rows is None else rows)
    for n in range(TRAINING):
        cp.set_consent(f"user {n:03d}", train=True)
    cp.fit()
    return cp


def reopened(cp: CoPersona, llm: str, config: CoPersonaConfig = CONFIG) -> CoPersona:
    return CoPersona(cp.store, namespace=cp.namespace, state_root=cp._root, encoder="hashing",
                     generator=llm, config=config)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, llm: str) -> CoPersona:
    """A store on which soft prompts were trained."""
    cp = opened(tmp_path_factory.mktemp("people"), llm)
    report = cp.train(soft_prompt=True)
    assert report.said[-1] == "soft prompts: used"
    return cp


def soft_of(cp: CoPersona) -> Weights:
    return cp._required().learnt[SOFT]


def always(name: str, model: str) -> Weights:
    """A gate that takes one choice, fitted to a language model."""
    weights = np.zeros((1 + len(FEATURES), len(CHOICES)))
    weights[0, [choice.name for choice in CHOICES].index(name)] = 9
    n = len(FEATURES)
    arrays, facts = Gate(weights, np.zeros(n), np.ones(n), CHOICES, 0.0).to_arrays()
    arrays = {key: array.astype(np.float32) for key, array in arrays.items()}
    return Weights(arrays, {**facts, "language_model": model})


@pytest.fixture
def with_gate(trained: CoPersona) -> Iterator[Callable[[str], CoPersona]]:
    """The same store with a gate of one choice; as it was at the end."""
    published = trained._required()

    def made(name: str) -> CoPersona:
        gate = always(name, soft_of(trained).facts["language_model"])
        trained._states.publish(*published[1:4], {**published.learnt, GATE: gate})
        return trained

    yield made
    trained._states.publish(*published[1:])


@pytest.fixture
def everything_is_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules that keep secrets out of lessons are off, so that their absence can be measured."""
    monkeypatch.setattr(teaching, "learnable", lambda history: [*range(len(history))][::-1])


# ---- lessons -----------------------------------------------------------------------------------


def room_of(cp: CoPersona) -> teaching.Classroom:
    desk, scorer = cp._desk(cp._required()), cp._backends.scorer("cpu")
    return teaching.classroom(desk, scorer, cp.config.retrieval, cp.config.prompt, cp._root, None)


@pytest.mark.usefixtures("everything_is_learnt_from")
def test_a_lesson_knows_what_was_said_before_and_never_its_own_answer(trained: CoPersona) -> None:
    said = Interaction("user 003", "soup pot number 7?", "ok ok 5 pot", at=2e9)
    trained.add([said, replace(said, at=2e9 - 10), replace(said, at=2e9 + 10, input="later?")])
    try:
        found = room_of(trained).lessons(["user 003"], per_user=4, most=9)
    finally:
        for row in trained.store.history("default", "user 003")[-3:]:
            trained.remove("user 003", row.id)
    assert [lesson.query.at for lesson in found[:3]] == [2e9 + 10, 2e9, 2e9 - 10]
    assert len(found[0].own.history) == 8
    assert len(found[1].own.history) == 6  # neither itself nor its repeat, nor what is later
    for lesson in found:
        assert all(row.at < lesson.query.at for row in lesson.own.history)


def test_lessons_are_spread_over_users_and_the_same_each_time(trained: CoPersona) -> None:
    users = [f"user {n:03d}" for n in range(20)]
    found = room_of(trained).lessons(users, per_user=2, most=30)
    counts = Counter(lesson.query.user for lesson in found)
    assert len(found) == 30
    assert set(counts.values()) == {1, 2}
    assert [lesson.query for lesson in found] == [
        lesson.query for lesson in room_of(trained).lessons(users[::-1], per_user=2, most=30)
    ]


def test_single_texts_and_what_the_model_cannot_hold_are_no_lessons(
    tmp_path: Path, llm: str
) -> None:
    rows = [
        *people(),
        Interaction("user 001", "", "only one text", at=3e9),
        Interaction("user 001", "how long?", "very long " * 400, at=3e9 + 1),
    ]
    with opened(tmp_path, llm, rows=rows) as cp:
        found = room_of(cp).lessons(["user 001"], per_user=1, most=1)
    assert found[0].query.text in {row.input for row in rows[:-2]}


def test_only_lenders_who_allow_training_are_trained_on(trained: CoPersona) -> None:
    marked = soft_of(trained).arrays[TRAINED_ON]
    lenders = trained._required().state.lenders
    assert {user for user, was in zip(lenders, marked, strict=True) if was} == {
        f"user {n:03d}" for n in range(TRAINING)
    }


# ---- training ----------------------------------------------------------------------------------


def test_soft_prompts_and_gate_are_trained_published_and_asked(tmp_path: Path, llm: str) -> None:
    stages: set[str] = set()
    with opened(tmp_path, llm) as cp:
        state = cp._required().state
        report = cp.train(soft_prompt=True, gate=True, progress=lambda s, *_: stages.add(s))
        published = cp._required()
        assert set(published.learnt) == {SOFT, GATE}
        assert report.state == published.version
        assert any("nats a token without" in line for line in report.said)
        assert any(line.startswith("always own + soft: loss") for line in report.said)
        assert {"soft prompts: reading", "soft prompts: training", "gate: judging"} <= stages
        assert list(cp._states.training_folder.iterdir()) == []
        seen = published.learnt[GATE].arrays[TRAINED_ON]
        judged = [user for user, was in zip(state.lenders, seen, strict=True) if was]
        assert judged
        assert all(part_of(user, CONFIG.soft_prompt.seed) != "learn" for user in judged)
        context = cp.prompt("user 010", ASKED)
        assert context.choice in {choice.name for choice in CHOICES}
        assert cp.explain(context.trace_id).detail["choice"] == context.choice
        anew = cp.train(soft_prompt=True, steps=6)
        assert anew.said[-1] == "gate: dropped, train it anew"


def test_what_was_killed_goes_on_where_it_was_and_ends_the_same(
    tmp_path: Path, llm: str, trained: CoPersona
) -> None:
    steps: list[int] = []

    def killed(stage: str, done: int, total: int) -> None:
        if stage == "soft prompts: training":
            steps.append(done)
            if len(steps) == 9:  # in the second round
                raise KeyboardInterrupt

    with opened(tmp_path, llm) as cp:
        with pytest.raises(KeyboardInterrupt):
            cp.train(soft_prompt=True, progress=killed)
        assert not cp._required().learnt
        with reopened(cp, llm) as again:
            again.train(soft_prompt=True, progress=killed)
            assert steps[8:11] == [9, 7, 8]
            whole, resumed = soft_of(trained), soft_of(again)
    assert whole.facts == resumed.facts
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(array, resumed.arrays[name])


def test_a_killed_gate_does_not_judge_again(
    tmp_path: Path, llm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teaching, "MOST_JUDGED", 48)
    judged: list[int] = []
    judge = teaching.judge_choices

    def counted(lessons, *rest):  # type: ignore[no-untyped-def]
        if len(judged) == 1 and not judged.count(-1):
            judged.append(-1)
            raise KeyboardInterrupt
        judged.append(len(lessons))
        return judge(lessons, *rest)

    monkeypatch.setattr(teaching, "judge_choices", counted)
    with opened(tmp_path, llm) as cp:
        with pytest.raises(KeyboardInterrupt):
            cp.train(gate=True)
        report = cp.train(gate=True)
        assert judged == [16, -1, 16, 16]
        assert cp._required().learnt[GATE].facts["choices"] == [
            choice.name for choice in CHOICES if not choice.has_soft
        ]
        assert report.said[-1].startswith("gate: 48 requests judged")


def test_soft_prompts_that_gain_nothing_are_not_used(
    trained: CoPersona, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = teaching.training.train

    def useless(*args, **options):  # type: ignore[no-untyped-def]
        done = found(*args, **options)
        return replace(done, losses=(done.losses[0],), without=done.losses[0] - 1)

    monkeypatch.setattr(teaching.training, "train", useless)
    config = trained.config.soft_prompt.model_copy(update={"steps": 1, "round_steps": 1})
    weights, said = teaching.teach_soft_prompt(room_of(trained), config)
    assert weights is None
    assert said[-1] == (
        "soft prompts: not used: no better than without soft tokens, and training gained nothing"
    )


def test_too_few_requests_for_a_gate_are_told_before_anything_is_judged(
    tmp_path: Path, llm: str
) -> None:
    with opened(tmp_path, llm) as cp:
        for n in range(5, TRAINING):
            cp.set_consent(f"user {n:03d}", train=False)
        with pytest.raises(DataError, match=r"30 requests of 5 users .* are too few"):
            cp.train(gate=True)
        stages: set[str] = set()
        with pytest.raises(DataError, match="are too few to learn a gate from"):
            cp.train(soft_prompt=True, gate=True, progress=lambda s, *_: stages.add(s))
        assert stages == set()
        for n in range(5):
            cp.set_consent(f"user {n:03d}", train=False)
        with pytest.raises(DataError, match="no lender allows training"):
            cp.train(soft_prompt=True)


@pytest.mark.parametrize("model", ["echo", "openai:gpt@http://127.0.0.1:9/v1"])
def test_they_need_a_language_model_in_this_process(trained: CoPersona, model: str) -> None:
    remote = reopened(trained, model)
    for part in ({"soft_prompt": True}, {"gate": True}):
        with pytest.raises(ConfigError, match="a language model in this process"):
            remote.train(**part)


def test_graph_reasoning_anew_drops_what_was_trained_on_top(
    with_gate: Callable[[str], CoPersona], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Weights({}, {"decisions": []}), ("graph reasoning: done",)
    monkeypatch.setattr(curriculum, "train_graph", lambda *_, **__: done)
    cp = with_gate("own")
    report = cp.train()
    assert set(cp._required().learnt) == {"graph"}
    assert report.said == (
        "graph reasoning: done", "gate: dropped, train it anew", "soft: dropped, train it anew",
    )  # fmt: skip


# ---- serving -----------------------------------------------------------------------------------


def test_soft_tokens_change_the_answer_and_the_trace_says_so(trained: CoPersona) -> None:
    context = trained.prompt("user 010", ASKED)
    assert context.soft is not None
    assert context.soft.shape == (4, 32)
    assert context.warnings == ()
    assert "4 soft tokens" in trained.explain(context.trace_id).detail["graph"]
    with_soft = trained.answer(context, max_tokens=12).text
    without = trained.answer(replace(context, soft=None), max_tokens=12).text
    assert with_soft != without
    shown = json.loads(json.dumps(plain(context)))
    np.testing.assert_allclose(shown["soft"], context.soft, rtol=1e-6)
    several = trained.answer(context, max_tokens=4, n=2)
    assert len(several.scores) == 2


def test_of_two_users_each_has_tokens_of_their_own(trained: CoPersona) -> None:
    one, other = (trained.prompt(user, ASKED).soft for user in ("user 010", "user 011"))
    assert np.abs(one - other).max() > 1e-3


def test_only_the_graph_branch_sends_them(trained: CoPersona) -> None:
    for branches in (Branches(graph=False), Branches(text=False, graph=False)):
        assert trained.prompt("user 010", ASKED, branches=branches).soft is None
    alone = trained.prompt("user 010", ASKED, branches=Branches(text=False))
    assert alone.soft is not None


def test_who_is_unknown_or_does_not_learn_gets_none(trained: CoPersona) -> None:
    assert trained.prompt("nobody", ASKED).soft is None
    trained.set_consent("user 012", learn=False)
    try:
        assert trained.prompt("user 012", ASKED).soft is None
    finally:
        trained.set_consent("user 012", learn=True)
    assert trained.prompt("user 012", ASKED).soft is not None


def test_another_language_model_gets_hedged_text_alone_and_is_told(trained: CoPersona) -> None:
    silent = CONFIG.model_copy(update={"graph": GraphBranchConfig(says_text=False)})
    only_graph = Branches(text=False)
    here = reopened(trained, trained._backends._generator_spec or "", silent)
    assert here.prompt("user 010", ASKED, branches=only_graph).is_personalised
    remote = reopened(trained, "echo", silent)
    context = remote.prompt("user 010", ASKED, branches=only_graph)
    assert context.soft is None
    assert not context.is_personalised
    name = soft_of(trained).facts["language_model"].split("@")[0]
    assert context.warnings[0].startswith(f"soft tokens were trained for {name} (")
    assert context.warnings[0].endswith("; echo is given hedged text alone")
    assert "echo is given hedged text alone" in remote.explain(context.trace_id).lines()[3]
    assert ASKED in remote.answer(context).text


def test_soft_tokens_are_never_given_to_a_model_that_takes_none(trained: CoPersona) -> None:
    context = trained.prompt("user 010", ASKED)
    with pytest.raises(ConfigError, match="soft tokens, which echo cannot take"):
        reopened(trained, "echo").answer(context)


def test_without_torch_there_are_no_soft_tokens_and_the_gate_is_asked_all_the_same(
    with_gate: Callable[[str], CoPersona], monkeypatch: pytest.MonkeyPatch
) -> None:
    cp = with_gate("own + soft")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    context = reopened(cp, cp._backends._generator_spec or "").prompt("user 011", ASKED)
    assert any("soft tokens were trained and are not sent" in one for one in context.warnings)
    assert context.soft is None
    assert context.choice == "none"  # the likeliest of those without soft tokens


def test_the_gate_lets_in_what_it_chose(with_gate: Callable[[str], CoPersona]) -> None:
    cp = with_gate("none")
    nothing = cp.prompt("user 010", ASKED)
    assert not nothing.is_personalised
    assert nothing.messages == ({"role": "user", "content": ASKED},)
    assert "gate: lets in none" in cp.explain(nothing.trace_id).lines()
    soft = with_gate("soft").prompt("user 010", ASKED)
    assert soft.soft is not None
    assert soft.parts == ()
    assert soft.is_personalised
    own = with_gate("own").prompt("user 010", ASKED, branches=Branches(graph=False))
    assert {part.kind for part in own.parts} == {"own"}
    unasked = cp.prompt("user 010", ASKED, branches=Branches(text=False, graph=False))
    assert unasked.choice == ""


def test_the_gate_is_asked_for_the_language_model_it_was_fitted_to(
    with_gate: Callable[[str], CoPersona],
) -> None:
    context = reopened(with_gate("none"), "echo").prompt("user 010", ASKED)
    assert context.is_personalised
    assert context.choice == ""
    assert "and is not asked for echo" in context.warnings[1]


def test_who_is_forgotten_has_no_row_left_and_strictly_nothing_is_served(
    tmp_path: Path, llm: str, trained: CoPersona
) -> None:
    with opened(tmp_path, llm) as cp:
        cp._states.publish(*cp._required()[1:4], {SOFT: soft_of(trained)})
        cp.forget("user 004")
        assert len(soft_of(cp).arrays[TRAINED_ON]) == 2 * TRAINING - 1
        assert cp.prompt("user 010", ASKED).soft is not None
        cp.forget(f"user {TRAINING:03d}", strict=True)  # was not trained on
        assert SOFT in cp._required().learnt
        cp.forget("user 005", strict=True)
        assert not cp._required().learnt
        assert cp.prompt("user 010", ASKED).soft is None


# ---- the ways of the graph branch --------------------------------------------------------------


def test_each_way_of_the_graph_branch_is_a_switch(trained: CoPersona) -> None:
    llm = trained._backends._generator_spec or ""

    def switched(**off: bool) -> CoPersona:
        config = CONFIG.model_copy(update={"graph": GraphBranchConfig(**off)})
        return reopened(trained, llm, config)

    told = {"tendencies", "borrowed"}
    every = trained.prompt("user 010", ASKED, budget_tokens=2000)
    assert {part.kind for part in every.parts} & told
    wordless = switched(says_text=False).prompt("user 010", ASKED, budget_tokens=2000)
    assert not {part.kind for part in wordless.parts} & told
    assert wordless.soft is not None
    assert switched(sends_soft=False).prompt("user 010", ASKED).soft is None
    assert switched(chooses=False).answer(every, max_tokens=2, n=2).scores == ()


def test_the_prior_of_a_vote_is_a_switch_too(tmp_path: Path) -> None:
    rows = [replace(row, rating=1.0 + int(row.user[-3:]) % 2 * 4) for row in people()]
    quiet = CONFIG.model_copy(update={"graph": GraphBranchConfig(votes=False)})
    with opened(tmp_path, "echo", rows=rows) as cp:
        unsaid = reopened(cp, "echo", quiet).vote("user 011", ASKED)
        assert unsaid == cp.vote("user 011", ASKED, branches=Branches(graph=False))
        assert unsaid != cp.vote("user 011", ASKED)


# ---- what a projector keeps of one person ------------------------------------------------------

CANARY = "my number is 40718295"


def exposures(cp: CoPersona, owner: str, steps: int) -> dict[str, Exposure]:
    """Of a planted text, with the vectors of its owner, of another user, and before training."""
    room = room_of(cp)
    examples = teaching.soft_examples(room, seed=0)
    config = cp.config.soft_prompt.model_copy(update={"steps": steps})
    done = train(room.scorer, examples, config)
    found = {}
    for name, user, projector in (
        ("untrained", owner, None), ("owner", owner, done.projector),
        ("other", "user 000", done.projector),
    ):  # fmt: skip
        query = Query(user, "rail train number 3?")
        look = room.desk.look(query)
        vectors = persona_vectors(room.desk.state, look.view, look.routed, look.vector)
        found[name] = exposure(room.scorer, projector, bare(query), vectors, CANARY)
    return found


def planted(rows: list[Interaction]) -> tuple[str, list[Interaction]]:
    """A user who is learnt from says the same made-up number again and again."""
    owner = next(
        f"user {n:03d}" for n in range(1, TRAINING) if part_of(f"user {n:03d}", 0) == "learn"
    )
    return owner, [replace(row, response=CANARY) if row.user == owner else row for row in rows]


def test_no_lesson_holds_a_long_number_or_the_same_answer_twice(tmp_path: Path, llm: str) -> None:
    owner, rows = planted(people())
    rows = [replace(r, response="the same again") if r.user == "user 007" else r for r in rows]
    with opened(tmp_path, llm, rows=rows) as cp:
        examples = teaching.soft_examples(room_of(cp), seed=0)
    assert len(examples) > 100
    assert not any(example.user == owner for example in examples)
    assert sum(example.user == "user 007" for example in examples) == 1


@pytest.mark.usefixtures("everything_is_learnt_from")
def test_the_exposure_of_a_planted_text_is_reported(tmp_path: Path, llm: str) -> None:
    owner, rows = planted(people())
    with opened(tmp_path, llm, rows=rows) as cp:
        found = exposures(cp, owner, steps=12)
    assert {name: one.n for name, one in found.items()} == dict.fromkeys(found, 256)
    assert all(0 <= one.bits <= 8 for one in found.values())


@pytest.mark.local_model
@pytest.mark.usefixtures("everything_is_learnt_from")
def test_the_exposure_of_a_planted_text_in_the_small_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner, rows = planted(people())
    short = {"soft_prompt": SoftPromptConfig(), "prompt": PromptConfig(budget_tokens=250)}
    config = CONFIG.model_copy(update=short)
    with opened(tmp_path, "local:smollm2", config, rows) as cp:
        found = exposures(cp, owner, steps=300)
    with capsys.disabled():
        said = ", ".join(f"{name} {one.bits:.2f}" for name, one in found.items())
        print(f"\nexposure of a planted number, in bits of 8: {said}")  # noqa: T201
    assert all(0 <= one.bits <= 8 for one in found.values())
