"""Baselines for texts on a made-up world of two kinds of people, where every answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pytest

from copersona.contenders import baselines
from copersona.contenders.systems import SYSTEMS, TEXT
from copersona.contenders.world import TextVectors, Training, World
from copersona.language.generation import approximate_tokens
from copersona.records import Interaction
from copersona.style import tokenize
from copersona.tasks.cases import Material, Prediction, Request, Task

NAMES = [e.name for e in SYSTEMS.values() if e.family == "baseline" and e.kinds & TEXT]
USE_PEERS = (
    "global_peers", "cfrag_style", "logo_style", "cluster_rag_style", "persona_db_style",
)  # fmt: skip
KINDS = {"merry": 8, "stern": 8}
HABITS = [f"habit{n}" for n in range(8)]
THINGS = ["tea", "sea", "sky", "oak", "elk", "cup"]
DETAILS = [f"detail{n}" for n in range(12)]
VOCABULARY = [*KINDS, *HABITS, *THINGS, *DETAILS, "kettle", "urn"]
NOW = 2e9
ASKED = "tea kettle detail7"


def encode(texts: Sequence[str]) -> Any:
    """One axis for every known word; other words are not seen."""
    counts = np.array([[text.split().count(word) for word in VOCABULARY] for text in texts], float)
    length = np.linalg.norm(counts, axis=1, keepdims=True)
    return (counts / np.where(length > 0, length, 1)).astype(np.float32)


def said(user: str, n: int, response: str, asked: str) -> Interaction:
    """The number keeps texts apart."""
    return Interaction(user, asked, f"{response} {user}.{n}", at=1e9 + n, id=f"{user}-{n}")


def lender(kind: str, number: int) -> list[Interaction]:
    """The stern alone ever speak of kettles; everybody has a habit, the last ones most."""
    user, voice = f"{kind}{number}", " ".join([*[kind] * (12 - number), HABITS[number]])
    rare = "kettle" if kind == "stern" else "urn"
    return [
        said(user, n, voice, f"{thing} {DETAILS[number]} {rare if n == 0 else ''}".strip())
        for n, thing in enumerate(THINGS)
    ]


HISTORY = tuple(
    said("ann", n, "merry merry habit3 habit4", f"{THINGS[n % 6]} {DETAILS[n]}")
    for n in (*range(4), *range(6, 12))
)  # fmt: skip


@cache
def training() -> Training:
    rows = [row for kind, n in KINDS.items() for one in range(n) for row in lender(kind, one)]
    return Training((*HISTORY, *rows), TextVectors("made", encode), NOW)


def nothing(_: Path) -> Material:
    raise AssertionError("nothing is read here")


@cache
def world(**options: Any) -> World:
    task = Task("made.up", "made", "text", "made up", "Answer.", nothing)
    return World(task, training(), approximate_tokens, **{"budget_tokens": 3000} | options)


def request(history: Sequence[Interaction] = HISTORY, **options: Any) -> Request:
    told: dict[str, Any] = {"user": "ann", "item": None} | options
    return Request(
        "feedfacecafe", text=ASKED, instruction="Answer.", at=NOW, history=tuple(history), **told
    )


def predicted(
    name: str, asked: Request | None = None, where: World | None = None, seed: int = 0
) -> Prediction:
    return SYSTEMS[name].make(where or world(), seed).predict(asked or request())


def ids(found: Prediction, *origins: str) -> list[str]:
    return [e.interaction_id for e in found.shown if not origins or e.origin in origins]


def authors(found: Prediction) -> set[str]:
    return {one.rpartition("-")[0] for one in ids(found, "peer", "population")}


def likeness(history: Sequence[Interaction] = HISTORY) -> dict[str, float]:
    """Cosine of others' mean responses with that of a history, from the words alone."""
    means: dict[str, Any] = {}
    for user in {row.user for row in training().interactions} - {"ann"}:
        rows = [row for row in training().interactions if row.user == user]
        means[user] = encode([row.response for row in rows]).mean(axis=0)
    own = encode([row.response for row in history]).mean(axis=0)
    lengths = {user: np.linalg.norm(mean) * np.linalg.norm(own) for user, mean in means.items()}
    return {user: float(mean @ own / lengths[user]) for user, mean in means.items()}


def nearest_users(n: int, history: Sequence[Interaction] = HISTORY) -> list[str]:
    found = likeness(history)
    return sorted(found, key=lambda user: (-round(found[user], 5), user))[:n]


def relevance(row: Interaction) -> float:
    return float(encode([row.input])[0] @ encode([ASKED])[0])


def by_words(rows: Sequence[Interaction]) -> list[Interaction]:
    """Best first by another implementation of BM25."""
    index = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
    index.index([tokenize(row.input) for row in rows], show_progress=False)
    scores = index.get_scores(sorted(set(tokenize(ASKED))))
    return [rows[n] for n in np.argsort(-scores, kind="stable")]


# ---- own history ---------------------------------------------------------------------------------


def test_zero_shot_is_the_request_alone() -> None:
    found = predicted("zero_shot")
    assert list(found.messages) == [{"role": "user", "content": f"Answer.\n\n{ASKED}"}]
    assert (found.shown, found.tokens) == ((), 0)


def test_own_recent_is_newest_first() -> None:
    assert ids(predicted("own_recent")) == [row.id for row in HISTORY[::-1]][:8]


def test_own_random_is_a_shuffle_of_the_own_history() -> None:
    orders = [ids(predicted("own_random", seed=seed)) for seed in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    for order in orders:
        assert len(order) == len(set(order)) == 8
        assert set(order) <= {row.id for row in HISTORY}
    firsts = {predicted("own_random", seed=s).shown[0].interaction_id for s in range(60)}
    assert firsts == {row.id for row in HISTORY}


def test_own_bm25_finds_the_words_in_common() -> None:
    found = ids(predicted("own_bm25"))
    assert found == [row.id for row in by_words(HISTORY)][:8]
    assert set(found[:3]) == {"ann-0", "ann-6", "ann-7"}  # tea, tea, detail7


def test_own_dense_finds_the_likest_inputs() -> None:
    order = sorted(HISTORY, key=lambda row: -round(relevance(row), 3))
    assert ids(predicted("own_dense")) == [row.id for row in order][:8]


# ---- others --------------------------------------------------------------------------------------


def test_population_takes_no_notice_of_who_asks() -> None:
    for name in ("population", "population_bm25"):
        whole, none = predicted(name), predicted(name, request(()))
        assert whole == none
        assert {e.origin for e in whole.shown} == {"population"}
        assert whole.shown[0].interaction_id == "stern7-0"  # tea, detail7 and kettle


def test_population_by_words_is_in_the_order_of_another_index() -> None:
    others = [row for row in training().interactions if row.user != "ann"]
    scores = {row.id: place for place, row in enumerate(by_words(others))}
    found = ids(predicted("population_bm25"))
    kettles = [row.id for row in others if "kettle" in row.input]
    assert set(found[:8]) == set(kettles)
    assert sorted(scores[one] for one in found[:8]) == list(range(8))


@pytest.mark.parametrize("asked", ["zyxwv qponm", "…", ""])
def test_words_that_nobody_used_find_nothing(asked: str) -> None:
    unknown = replace(request(), text=asked)
    assert predicted("population_bm25", unknown).shown == ()


def test_global_peers_are_users_of_like_responses() -> None:
    assert {u for u, v in likeness().items() if v > 0} == {f"merry{n}" for n in range(8)} | {
        "stern3", "stern4",  # a habit in common with Ann
    }  # fmt: skip
    found = predicted("global_peers")
    assert authors(found) <= {u for u, v in likeness().items() if v > 0}
    assert "merry7-0" in ids(found, "peer")
    assert ids(found, "own")


def test_cfrag_scores_own_and_similar_users_items_together() -> None:
    few = [replace(row, response="merry habit3 habit4 habit5") for row in HISTORY[:2]]
    nearest = nearest_users(6, few)
    assert set(nearest[:3]) == {"merry3", "merry4", "merry5"}  # who have Ann's habits
    assert "merry7" not in nearest  # whose input would be the best
    near = {"ann": 1.0} | {user: likeness(few)[user] for user in nearest}
    score: dict[str, float] = {}
    for user, like in near.items():
        rows = [row for row in training().interactions if row.user == user]
        best = few if user == "ann" else sorted(rows, key=lambda row: -relevance(row))[:5]
        score |= {row.id: 0.7 * relevance(row) + 0.3 * like for row in best}
    shown = predicted("cfrag_style", request(few))
    found = ids(shown)
    assert {e.origin for e in shown.shown} == {"own", "peer"}
    best_scores = sorted(score.values(), reverse=True)[: len(found)]
    assert [score[one] for one in found] == pytest.approx(best_scores, abs=1e-3)


def test_logo_takes_turns_with_the_community() -> None:
    found = predicted("logo_style")
    assert [e.origin for e in found.shown] == ["own", "peer"] * 4
    assert authors(found) <= {f"merry{n}" for n in range(8)}
    stern = tuple(replace(row, response="stern stern") for row in HISTORY)
    there = authors(predicted("logo_style", request(stern, user="zed")))
    assert there <= {f"stern{n}" for n in range(8)}


def test_cluster_rag_has_one_peer_the_nearest_of_the_cluster() -> None:
    third = tuple(replace(row, response="merry merry habit3") for row in HISTORY)
    found = predicted("cluster_rag_style", request(third, user="zed"))
    assert authors(found) == {"merry3"}
    assert ids(found, "own")
    assert ids(predicted("cluster_rag_style", request((), user="zed"))) == []


def test_persona_db_shows_two_own_items_for_one_of_a_near_user() -> None:
    found = predicted("persona_db_style")
    assert [e.origin for e in found.shown] == ["own", "own", "peer"] * 2 + ["own", "own"]
    assert authors(found) <= set(nearest_users(5))
    assert ids(found, "own")[:3] == ids(predicted("own_dense"))[:3]


# ---- the profile in words ------------------------------------------------------------------------


def test_pag_says_the_summary_that_was_written() -> None:
    told: list[str] = []

    def write(messages: tuple[dict[str, str], ...]) -> str:
        told.extend(message["content"] for message in messages)
        return "Merry, and fond of herons."

    where = replace(world(), write=write)
    longer = (said("ann", -1, "an old word", "cup"), *HISTORY)
    found = predicted("pag", request(longer), where)
    assert (
        "Merry, and fond of herons." in found.messages[-1]["content"] + found.messages[0]["content"]
    )
    assert all(row.response in told[0] for row in HISTORY)  # the newest ten
    assert "an old word" not in told[0]
    assert {e.origin for e in found.shown} == {"own"}
    told.clear()
    assert predicted("pag", request(()), where) == predicted("zero_shot", request(()))
    assert told == []


def test_pag_without_a_writer_says_own_tendencies() -> None:
    found = predicted("pag")
    assert "this user's own messages show" in found.messages[1]["content"]
    assert "similar users" not in found.messages[1]["content"]
    assert {e.origin for e in found.shown} == {"own"}
    little = predicted("pag", where=world(budget_tokens=350))
    assert "this user's own messages show" in little.messages[1]["content"]
    assert little.shown


# ---- what holds for all --------------------------------------------------------------------------


def test_these_are_the_baselines() -> None:
    made = {
        e.name for e in SYSTEMS.values() if getattr(e.make, "__module__", "") == baselines.__name__
    }
    assert set(NAMES) == made


@pytest.mark.parametrize("name", NAMES)
def test_budget_seed_and_what_must_not_be_seen(name: str) -> None:
    small = world(budget_tokens=190)
    found = predicted(name, where=small)
    added = sum(approximate_tokens(m["content"]) for m in found.messages)
    assert added - approximate_tokens(f"Answer.\n\n{ASKED}") <= 190
    assert found.tokens <= 190
    assert found == predicted(name, where=small)
    assert SYSTEMS[name].is_random or found == predicted(name, where=small, seed=7)
    own = {row.id for row in HISTORY}
    whole = predicted(name)
    assert own.isdisjoint(ids(whole, "peer", "population"))
    barred = frozenset(ids(whole, "peer", "population"))
    left = predicted(name, request(barred=barred))
    assert barred.isdisjoint(ids(left))
    assert own.isdisjoint(ids(predicted(name, request(()))))


@pytest.mark.parametrize("name", NAMES)
def test_in_aggregate_mode_and_on_the_same_item_nobody_is_quoted(name: str) -> None:
    assert ids(predicted(name, where=world(mode="aggregate")), "peer", "population") == []
    rows = tuple(replace(row, item="x") for row in training().interactions)
    same = Training(rows, training().vectors, NOW)
    barred = replace(world(allow_same_item=False), training=same)
    assert ids(predicted(name, request(item="x"), barred), "peer", "population") == []
    allowed = replace(world(), training=same)
    found = ids(predicted(name, request(item="x"), allowed), "peer", "population")
    assert bool(found) == (name in ("population", "population_bm25", *USE_PEERS))
