"""The ladder against the library itself, and what each rung and control may say and show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import bm25s
import numpy as np
import pytest

from copersona import Context, CoPersona
from copersona.answering import quoting
from copersona.config import CoPersonaConfig
from copersona.contenders.systems import SYSTEMS, TEXT
from copersona.contenders.tutoring import Tutor
from copersona.contenders.world import TextVectors, Training, World
from copersona.evaluation.runs import REGISTERED
from copersona.language.encoders import HashingEncoder
from copersona.language.generation import approximate_tokens
from copersona.language.softened import SoftScorer
from copersona.method.fitted import FittedState
from copersona.records import Interaction
from copersona.style import tokenize
from copersona.tasks.cases import Kind, Material, Prediction, Request, Task
from copersona.tasks.splits import lessons
from tiny_model import save_tiny_model

NOW = 1.5e9
WORDS = {
    "trains": "rail ticket platform carriage timetable station engine signal depart sleeper",
    "bread": "flour dough yeast crust oven loaf knead sourdough starter crumb",
    "garden": "soil seed rose hedge compost pruning bulb lawn mulch tulip",
}
TOPICS = {topic: words.split() for topic, words in WORDS.items()}
SAYINGS = (
    "great! wonderful! lovely! splendid! marvellous! hooray! bravo! superb! yes! fine!",
    "alas tedious dreary gloomy miserable dull bleak sorry wretched dismal",
    "perhaps? maybe? possibly? doubtful? unclear? hmm? really? sure? why? who?",
)
VOICES = [words.split() for words in SAYINGS]
LABELS = ("up", "down", "open")
MARK = "zyxomark"


def said(user: str, n: int, topic: str, voice: int) -> Interaction:
    rng = Random(f"{user} {n}")
    asked = f"{' '.join(rng.sample(TOPICS[topic], 4))} {user}{n}"
    mood = rng.sample(VOICES[voice], 6 - 2 * voice)
    reply = " ".join([*mood, *rng.sample(TOPICS[topic], 2), f"{n}"])
    return Interaction(
        user, asked, reply, item=f"{topic} {n}", rating=1.0 + 2 * voice, label=LABELS[voice],
        at=1e9 + 86_400 * n, facet=topic, id=f"{user}-{n}",
    )  # fmt: skip


def voices_of(user: str) -> dict[str, int]:
    """Planted: a lender's voice in bread is drawn apart; that in trains foretells the garden's."""
    number = int(user[-2:])
    return {"trains": number % 3, "garden": (number + 1) % 3, "bread": number // 3 % 3}


def history(
    user: str, n: int, topics: Sequence[str], voices: dict[str, int]
) -> tuple[Interaction, ...]:
    names = [topics[i % len(topics)] for i in range(n)]
    return tuple(said(user, i, name, voices[name]) for i, name in enumerate(names))


LENDERS = [f"lender{n:02d}" for n in range(28)]
ZOE = {"trains": 0, "bread": 1, "garden": 1}
HISTORY = history("zoe", 10, ["trains", "bread"], ZOE)


@cache
def training() -> Training:
    rows = [row for name in LENDERS for row in history(name, 18, list(TOPICS), voices_of(name))]
    return Training(tuple(rows), TextVectors("hashing", HashingEncoder().encode), NOW)


def nothing(_: Path) -> Material:
    raise AssertionError("nothing is read here")


@cache
def world(kind: Kind = "text", **options: Any) -> World:
    task = Task("made.up", "made", kind, "made up", "Answer as they would.", nothing)
    return World(task, training(), approximate_tokens, **{"budget_tokens": 900} | options)


def asked(
    topic: str, rows: Sequence[Interaction] = HISTORY, *, user: str = "zoe", **options: Any
) -> Request:
    text = " ".join([*TOPICS[topic][:6], "and what now"])
    return Request(
        "000000000000", user, text, "Answer as they would.", NOW, None, tuple(rows),
        **options,
    )  # fmt: skip


def predicted(name: str, request: Request, where: World | None = None, seed: int = 0) -> Prediction:
    return SYSTEMS[name].make(where or world(), seed).predict(request)


def words(prediction: Prediction) -> str:
    return "\n".join(message["content"] for message in prediction.messages)


def origins(prediction: Prediction) -> set[str]:
    return {one.origin for one in prediction.shown}


def authors(prediction: Prediction, origin: str = "peer") -> set[str]:
    shown = [one.interaction_id for one in prediction.shown if one.origin == origin]
    return {one.rpartition("-")[0] for one in shown}


# ---- the top rung is the library ---------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same people in a real store; Zoe is remembered and lends nothing."""
    config = CoPersonaConfig(prompt=world().prompt, retrieval=world().retrieval)
    place = tmp_path_factory.mktemp("store") / "people.db"
    with CoPersona.open(place, encoder="hashing", generator="echo", config=config) as cp:
        cp.set_consent("zoe", lend="no")
        for name in LENDERS:
            cp.set_consent(name, lend="text", train=True)
        outcomes = cp.add([*training().interactions, *HISTORY])
        assert {one.status for one in outcomes} == {"stored"}
        cp.fit()
        yield cp


def assert_the_same(found: Prediction, context: Context) -> None:
    assert list(found.messages) == list(context.messages)
    assert found.tokens == context.tokens
    ours, theirs = found.shown, context.evidence
    assert [(e.origin, e.input, e.response) for e in ours] == [
        (e.origin, e.input, e.response) for e in theirs
    ]
    mine = [e.interaction_id for e in ours if e.origin == "own"]
    assert mine == [e.interaction_id for e in theirs if e.origin == "own"]


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("user", ["zoe", LENDERS[5]])
def test_the_top_rung_answers_as_the_library_does(
    library: Any, monkeypatch: pytest.MonkeyPatch, user: str, topic: str
) -> None:
    """Of a lender all others are listed as neighbours, so that a new search finds no one else."""
    fence = SimpleNamespace(choice=lambda letters: "a")
    monkeypatch.setattr(quoting, "secrets", fence)  # one that is not drawn, so that texts are equal
    rows = HISTORY if user == "zoe" else library.store.history("default", user)
    request = asked(topic, rows, user=user)
    context = library.prompt(user, request.text, instruction=request.instruction, at=NOW)
    found = predicted("ladder.6", request)
    assert_the_same(found, context)
    assert {"own", "peer"} <= origins(found)


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("user", ["zoe", LENDERS[5]])
def test_the_top_rung_votes_as_the_library_does(library: Any, user: str, topic: str) -> None:
    rows = HISTORY if user == "zoe" else library.store.history("default", user)
    request = asked(topic, rows, user=user)
    vote = library.vote(user, request.text, at=NOW)
    labels = predicted("ladder.6", request, world("label"))
    rating = predicted("ladder.6", request, world("rating"))
    shares = {one.value: one.share for one in vote.labels}
    assert labels.labels == pytest.approx(shares, abs=1e-5)
    assert labels.numbers["worth"] == pytest.approx(vote.worth, abs=1e-5)
    assert rating.rating == pytest.approx(vote.expected_rating, abs=1e-4)
    assert rating.rating_median == vote.median_rating


# ---- rung by rung --------------------------------------------------------------------------------


def test_rung_0_adds_nothing() -> None:
    found = predicted("ladder.0", asked("trains"))
    assert [m["content"] for m in found.messages] == [
        f"Answer as they would.\n\n{asked('trains').text}"
    ]
    assert (found.shown, found.tokens) == ((), 0)


def test_rung_1_is_retrieval_over_the_own_history() -> None:
    request = asked("bread")
    encoder = HashingEncoder()
    texts = [row.input for row in HISTORY]
    dense = encoder.encode(texts) @ encoder.encode([request.text])[0]
    index = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
    index.index([tokenize(text) for text in texts], show_progress=False)
    lexical = index.get_scores(sorted(set(tokenize(request.text))))
    score = sum((part - part.mean()) / part.std() for part in (dense, lexical))
    expected = [HISTORY[n].id for n in np.argsort(-score)]
    found = predicted("ladder.1", request, world(budget_tokens=5000))
    assert [one.interaction_id for one in found.shown] == expected
    assert "similar users" not in words(found)


def test_rung_2_knows_nobody_else_and_2p_adds_anyones_items() -> None:
    for topic in TOPICS:
        alone, among = (predicted(n, asked(topic)) for n in ("ladder.2", "ladder.2p"))
        assert origins(alone) == {"own"}
        assert origins(among) == {"own", "population"}
        assert "similar users" not in words(alone) + words(among)
        assert alone.numbers["borrowed"] == among.numbers["borrowed"] == 0
    assert "own messages" in words(predicted("ladder.2", asked("trains")))


def test_what_was_borrowed_is_said_on_the_top_rung_alone() -> None:
    request = asked("garden")
    assert "similar users show" in words(predicted("ladder.6", request))
    for name in ("ladder.1", "ladder.2", "ladder.2p", "ladder.3", "ladder.4", "ladder.5"):
        assert "similar users show" not in words(predicted(name, request)), name
    assert origins(predicted("ladder.5", request)) >= {"own", "peer"}


def voices(found: Prediction, topic: str) -> set[int]:
    """Planted voices, in a topic, of the peers who are shown."""
    return {voices_of(name)[topic] for name in authors(found)}


def test_peers_of_a_facet_are_right_where_the_whole_user_is_like_nobody() -> None:
    for name in ("ladder.5", "ladder.6"):
        for topic, voice in ZOE.items():
            assert voices(predicted(name, asked(topic)), topic) == {voice}
    assert voices(predicted("ladder.4", asked("bread")), "bread") == {ZOE["bread"]}
    assert voices(predicted("control.random_peers", asked("bread")), "bread") != {ZOE["bread"]}


def test_without_alignment_across_layers_an_unseen_facet_has_no_peers() -> None:
    state = SYSTEMS["ladder.4"].make(world(), 0).state  # type: ignore[attr-defined]
    transfer = np.asarray(state.transfer)
    assert (transfer[:, 1:] == np.eye(3)).all()
    assert (transfer[:, 0] == 0).all()
    assert "peer" in origins(predicted("ladder.4", asked("bread")))
    assert "peer" not in origins(predicted("ladder.4", asked("garden")))
    assert "peer" in origins(predicted("ladder.5", asked("garden")))


def test_aggregate_mode_quotes_nobody() -> None:
    where = world(mode="aggregate")
    for name in ("ladder.2p", "ladder.3", "ladder.6"):
        assert origins(predicted(name, asked("garden"), where)) == {"own"}
    assert "similar users show" in words(predicted("ladder.6", asked("garden"), where))


@cache
def of_one_piece() -> World:
    """People who speak in one voice whatever the topic, so that whole users are alike."""
    rows = [
        row
        for number, name in enumerate(LENDERS)
        for row in history(name, 18, list(TOPICS), dict.fromkeys(TOPICS, number % 3))
    ]
    return replace(world(), training=Training(tuple(rows), training().vectors, NOW))


def test_global_peers_are_shown_where_people_are_of_one_piece() -> None:
    request, where = asked("garden", HISTORY[:1]), of_one_piece()
    peers = {int(name[-2:]) % 3 for name in authors(predicted("ladder.3", request, where))}
    assert peers == {ZOE["trains"]}
    assert "similar users show" in words(predicted("control.global_mean", request, where))
    for name in ("ladder.2", "ladder.3", "pag"):
        assert "similar users show" not in words(predicted(name, request, where)), name


def test_votes_of_the_lowest_rungs_hear_no_peers() -> None:
    for kind in ("label", "rating"):
        names = ("ladder.6", "ladder.1", "ladder.0")
        top, *lowest = (predicted(name, asked("garden"), world(kind)) for name in names)
        assert top.numbers["worth"] > 0
        assert [one.numbers["worth"] for one in lowest] == [0, 0]
        empty = predicted("ladder.1", asked("garden", ()), world(kind))
        assert empty == lowest[1]
        assert lowest[0] != lowest[1]


# ---- controls ------------------------------------------------------------------------------------


def state_of(name: str, seed: int = 0) -> FittedState:
    state: FittedState = SYSTEMS[name].make(world(), seed).state  # type: ignore[attr-defined]
    return state


def peers_of(state: FittedState, request: Request) -> list[Any]:
    """What is offered to somebody, as (peers' names, weights, alignments, agreement) of each."""
    desk = world().desk(request, state)
    view = desk.view(request.user, desk.own(request.user).corpus)
    row = state.row_of.get(request.user, -1)
    lending = state.lending
    if hasattr(lending, "avoided"):
        lending = replace(lending, avoided=row)
    candidates = np.array([n for n in range(len(state.lenders)) if n != row])
    offers = lending.offers(
        view.states, 0, candidates, np.ones(len(candidates), bool), range(state.n_facets)
    )
    return [borrowed for offer in offers for borrowed in (offer.shared, offer.specific)]


def heard_by(state: FittedState, request: Request) -> set[str]:
    desk = world().desk(request, state)
    view = desk.view(request.user, desk.own(request.user).corpus)
    return {state.lenders[n] for f in view.facets.values() for n in f.peers.rows.tolist()}


@pytest.mark.parametrize("name", ["control.random_peers", "control.rewired"])
@pytest.mark.parametrize("user", ["zoe", LENDERS[0], LENDERS[9]])
def test_other_peers_differ_in_nothing_but_who_they_are(name: str, user: str) -> None:
    rows = HISTORY if user == "zoe" else history(user, 18, list(TOPICS), voices_of(user))
    request = asked("trains", rows, user=user)
    usual = peers_of(training().state(), request)
    for seed in range(4):
        other = peers_of(state_of(name, seed), request)
        for before, after in zip(usual, other, strict=True):
            assert after.peers.weights.tolist() == before.peers.weights.tolist()
            assert after.peers.alignments.tolist() == before.peers.alignments.tolist()
            assert after.agreement == before.agreement
            assert len(set(after.peers.rows.tolist())) == len(after.peers.rows)
            assert user not in {LENDERS[row] for row in after.peers.rows}
        assert user not in heard_by(state_of(name, seed), request)
        rows_before = [one.peers.rows.tolist() for one in usual]
        assert rows_before != [one.peers.rows.tolist() for one in other]


def test_random_peers_depend_on_the_seed_and_on_nothing_else() -> None:
    request = asked("garden")
    first, again, other = (
        [one.peers.rows.tolist() for one in peers_of(state_of("control.random_peers", s), request)]
        for s in (0, 0, 1)
    )
    assert first == again
    assert first != other
    contexts = [predicted("control.random_peers", request, seed=s).messages for s in (0, 0, 1)]
    assert contexts[0] == contexts[1]
    assert contexts[0] != contexts[2]


@pytest.mark.parametrize("user", ["zoe", *LENDERS[:6]])
def test_who_is_rewired_is_the_same_person_for_everybody(user: str) -> None:
    """Whoever takes somebody's place takes it for all, but for the one who would get itself."""
    kind = type(state_of("control.rewired").lending)
    usual = training().state()
    pool = np.arange(len(LENDERS))
    for layer in range(usual.n_facets + 1):
        everybody = made(kind, usual, -1).instead(pool, pool, layer)
        assert sorted(everybody.tolist()) == pool.tolist()
        asker = usual.row_of.get(user, -1)
        rows = pool[pool != asker]
        found = made(kind, usual, asker).instead(rows, pool, layer)
        differs = found != everybody[rows]
        assert (everybody[rows][differs] == asker).all()
        assert asker not in found


def made(kind: Any, state: FittedState, avoided: int) -> Any:
    usual = state.lending
    values = {name: getattr(usual, name) for name in usual.__dataclass_fields__}
    return kind(**values, seed=3, avoided=avoided)


def test_swapped_is_the_full_system_on_the_history_of_the_nearest_other_user() -> None:
    user = LENDERS[7]
    own = history(user, 18, list(TOPICS), voices_of(user))
    encoder = HashingEncoder()

    def mean(rows: Sequence[Interaction]) -> Any:
        return encoder.encode([row.response for row in rows]).mean(axis=0)

    likeness = {}
    for name in set(LENDERS) - {user}:
        theirs = mean(history(name, 18, list(TOPICS), voices_of(name)))
        likeness[name] = float(theirs @ mean(own) / np.linalg.norm(theirs))
    nearest = max(likeness, key=lambda name: likeness[name])
    request = asked("bread", own, user=user)
    found = predicted("control.swap", request)
    assert authors(found, "own") == {nearest}
    swapped = replace(request, history=history(nearest, 18, list(TOPICS), voices_of(nearest)))
    assert found.messages == predicted("ladder.6", swapped).messages


def test_a_random_partition_has_facets_that_follow_no_topic() -> None:
    def facets(seed: int) -> list[int]:
        rung = SYSTEMS["control.random_partition"].make(world(), seed)._rung  # type: ignore[attr-defined]
        rows = rung.world.training.interactions
        vectors = training().vectors.vectors([row.input for row in rows])
        return list(rung.state.facets.assign(vectors, [row.facet for row in rows]).tolist())

    first, again, other = facets(0), facets(0), facets(1)
    assert first == again
    assert first != other
    topics = [row.facet for row in training().interactions]
    for topic in TOPICS:
        counts = np.bincount([f for f, t in zip(first, topics, strict=True) if t == topic])
        assert counts.max() < 0.25 * counts.sum()  # of 8 facets, each an eighth
    contexts = [predicted("control.random_partition", asked("bread"), seed=s) for s in (0, 0, 1)]
    assert contexts[0].messages == contexts[1].messages
    assert contexts[0].messages != contexts[2].messages


def test_global_controls_choose_by_the_whole_user() -> None:
    state = state_of("control.global_facet")
    assert (np.asarray(state.transfer)[:, 1:] == 0).all()
    assert (np.asarray(state.transfer)[:, 0] == 1).all()
    assert state_of("control.global_mean").n_facets == state_of("ladder.3").n_facets == 1


# ---- nothing is left of what was deleted ---------------------------------------------------------


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One lender says a word in everything that nobody else knows; a tiny model trains."""
    rows = [
        replace(row, input=f"{row.input} {MARK}", response=f"{MARK} {row.response}")
        if row.user == LENDERS[3] else row
        for row in training().interactions
    ]  # fmt: skip
    made_of = Training(tuple(rows), training().vectors, NOW)
    folder = tmp_path_factory.mktemp("tutor")
    model = save_tiny_model(folder / "model")
    tutor = Tutor(lambda: SoftScorer(model, threads=1),
                  lambda: lessons(world().task, rows, 3, 60), folder, steps=1)  # fmt: skip
    return replace(world(), training=made_of, tutor=tutor)


TEXT_SYSTEMS = [e.name for e in SYSTEMS.values() if e.family != "yours" and e.kinds & TEXT]


def test_all_families_are_looked_at() -> None:
    found = {SYSTEMS[name].family for name in TEXT_SYSTEMS}
    assert found == {"baseline", "ladder", "dual", "control", "ablation"}
    assert {"contenders.baselines", "contenders.dual", "contenders.ladder"} <= {
        module.__name__.removeprefix("copersona.") for module in REGISTERED
    }


@pytest.mark.parametrize("name", TEXT_SYSTEMS)
def test_nothing_of_a_deleted_history_is_in_any_context(name: str, marked: World) -> None:
    where = marked
    rows = where.training.rows_of_user[LENDERS[3]]
    deleted = tuple(where.training.interactions[row] for row in rows)
    assert all(MARK in row.input and MARK in row.response for row in deleted)
    system = SYSTEMS[name].make(where, 0)
    for topic in TOPICS:
        found = system.predict(asked(topic, (), user=LENDERS[3]))
        assert MARK not in words(found)
        shown = {one.interaction_id for one in found.shown}
        assert shown.isdisjoint(row.id for row in deleted)
        assert "own" not in origins(found)
        assert found.soft is None  # nothing is known of the user
    whole = system.predict(asked("bread", deleted, user=LENDERS[3]))
    assert (MARK in words(whole)) == (authors(whole, "own") == {LENDERS[3]})
