"""What a system may see of a request, and the frame that all contexts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copersona.contenders.baselines import GlobalPeers, OwnDense, OwnRecent, Population
from copersona.contenders.ladder import Rung
from copersona.contenders.systems import Make
from copersona.contenders.world import (
    MOST_SHOWN,
    Mode,
    Shelf,
    TextVectors,
    Training,
    World,
    everybody,
    fence_of,
)
from copersona.errors import ConfigError
from copersona.language.encoders import HashingEncoder
from copersona.records import Interaction
from copersona.storage.store import content_hash
from copersona.tasks.cases import Case, Kind, Material, Request, Target, Task
from copersona.tasks.registry import TASKS
from copersona.tasks.splits import Split, split

MODES: tuple[Mode, ...] = ("text", "aggregate")


def task(kind: Kind = "text") -> Task:
    return Task("made.up", "made", kind, "", "Answer.", lambda _: Material(()))


def count_words(text: str) -> int:
    return len(text.split())


def row(user: str, number: int, **more: object) -> Interaction:
    name = f"{user}.{number}"
    made = Interaction(
        user, f"asked {name}", f"said {name}", f"item {number}", at=float(number), id=name
    )
    return replace(made, **more)  # type: ignore[arg-type]


class CountingEncoder(HashingEncoder):
    """Notes what it is asked to encode."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(list(texts))
        return super().encode(texts)


def training(*rows: Interaction, cut: float | None = 100.0) -> Training:
    encoder = HashingEncoder()
    return Training.of(Split(cut, rows, ()), TextVectors(encoder.name, encoder.encode))


ANN = tuple(row("ann", n) for n in range(1, 5))
BOB = tuple(row("bob", n) for n in range(1, 5))
REQUEST = Request("0123456789abcdef", "ann", "asked about", "Answer.", 100.0, "item 2", ANN[2:])


def world(kind: Kind = "text", **setting: object) -> World:
    made = World(task(kind), training(*ANN, *BOB), count_words)
    return replace(made, **setting)  # type: ignore[arg-type]


# ---- vectors ------------------------------------------------------------------------------------


def test_each_text_is_encoded_once() -> None:
    encoder = CountingEncoder()
    vectors = TextVectors("counting", encoder.encode)
    vectors.add(["a b", "c d", "a b"])
    found = vectors.vectors(["c d", "a b", "e f", "a b"])
    vectors.add(["e f"])
    vectors.completed(["a b"], [None])
    vectors.of_request("c d")
    assert encoder.calls == [["a b", "c d"], ["e f"]]
    expected = HashingEncoder().encode(["c d", "a b", "e f", "a b"])
    np.testing.assert_allclose(found, expected, atol=1e-3)  # kept as float16
    np.testing.assert_array_equal(vectors.of_request("a b"), found[1])


def test_vectors_of_nothing_have_a_width() -> None:
    vectors = TextVectors("hashing", HashingEncoder(32).encode)
    assert vectors.vectors([]).shape == (0, 32)
    assert vectors.dim == 32
    keys = [content_hash("dimension"), content_hash("never asked for")]
    assert list(vectors.known(keys)) == keys[:1]


def test_a_split_is_encoded_in_advance_but_not_its_targets() -> None:
    encoder = CountingEncoder()
    request = replace(REQUEST, history=(*ANN, row("ann", 120)))
    case = Case(request, Target("the answer"), "ann.200")
    made = Training.of(Split(100.0, (*ANN, *BOB), (case,)), TextVectors("c", encoder.encode))
    texts = [text for call in encoder.calls for text in call]
    expected = {t for r in (*request.history, *BOB) for t in (r.input, r.response)}
    assert sorted(texts) == sorted(expected | {"asked about"})
    assert len(made.corpus.inputs) == 8
    assert sum(map(len, encoder.calls)) == len(texts)


def test_rows_are_found_by_id_and_by_user() -> None:
    made = training(*ANN, *BOB)
    assert [made.row_of_id[one.id] for one in BOB] == [4, 5, 6, 7]
    assert made.rows_of_user == {"ann": range(4), "bob": range(4, 8)}
    said = HashingEncoder().encode([one.response for one in BOB]).mean(axis=0)
    np.testing.assert_allclose(made.user_means[1], said / np.linalg.norm(said), atol=1e-3)


# ---- the shelf ----------------------------------------------------------------------------------


def shelf(**request: object) -> Shelf:
    future = row("bob", 300, id="bob.future")
    undated = row("bob", 0, at=None, id="bob.undated")
    made = training(*ANN, *BOB, undated, future)
    return Shelf(made, replace(REQUEST, **request))  # type: ignore[arg-type]


def ids(rows: Sequence[Interaction]) -> list[str]:
    return [one.id for one in rows]


def test_a_users_own_are_those_of_the_request_alone() -> None:
    assert ids(shelf().history("any", "ann")) == ["ann.3", "ann.4"]
    remembered = shelf().remembered("any", "ann", encoder="hashing")
    assert (remembered.history, remembered.instructions) == (ANN[2:], ())
    assert len(remembered.inputs) == len(remembered.responses) == 2
    assert shelf(history=()).history("any", "ann") == []
    assert shelf().interactions("any", ["ann.1", "ann.4"]) == {}


def test_histories_end_before_and_are_cut_to_the_newest() -> None:
    assert ids(shelf().history("any", "bob", before=3.0)) == ["bob.1", "bob.2", "bob.undated"]
    assert ids(shelf().history("any", "bob", before=3.0, limit=2)) == ["bob.2", "bob.undated"]
    assert ids(shelf().history("any", "ann", before=4.0)) == ["ann.3"]
    assert shelf().history("any", "bob", limit=0) == []
    assert len(shelf().history("any", "bob", limit=99)) == 5
    assert shelf().history("any", "nobody") == []


def test_nobodys_future_is_given() -> None:
    asked_of = ["bob.4", "bob.undated", "bob.future"]
    assert "bob.future" not in ids(shelf().history("any", "bob"))
    assert set(shelf().interactions("any", asked_of)) == {"bob.4", "bob.undated"}
    assert set(shelf(at=4.0).interactions("any", asked_of)) == {"bob.undated"}
    assert set(shelf(at=None).interactions("any", asked_of)) == set(asked_of)


@given(st.frozensets(st.sampled_from([one.id for one in (*ANN, *BOB)])))
@settings(max_examples=40, deadline=None)
def test_what_is_barred_is_never_given(barred: frozenset[str]) -> None:
    where = shelf(barred=barred, at=None)
    given_out = {*ids(where.history("any", "bob")), *ids(where.history("any", "ann"))}
    given_out |= set(where.interactions("any", [one.id for one in BOB]))
    assert not given_out & barred
    assert {one.id for one in (*BOB, *ANN[2:])} - barred <= given_out


def test_vectors_come_from_memory() -> None:
    keys = [content_hash("said bob.1"), content_hash("said nowhere")]
    found = shelf().embeddings("any", "hashing", keys)
    expected = HashingEncoder().encode(["said bob.1"])[0]
    assert list(found) == keys[:1]
    np.testing.assert_allclose(found[keys[0]].astype(float), expected, atol=1e-3)


# ---- candidates ---------------------------------------------------------------------------------


def test_others_are_neither_the_user_nor_barred() -> None:
    request = replace(REQUEST, barred=frozenset({"bob.2"}))
    found = world().others(request, range(8))
    assert [one.interaction.id for one in found] == ["bob.1", "bob.3", "bob.4"]
    assert {one.origin for one in found} == {"population"}
    assert not any("bob" in one.author for one in found)
    assert world(mode="aggregate").others(request, range(8)) == []
    own = world().own(request)
    assert [(one.origin, one.interaction.id) for one in own] == [("own", "ann.3"), ("own", "ann.4")]


def test_the_nearest_are_those_of_the_largest_product() -> None:
    made = world()
    request = replace(REQUEST, text="asked bob.3 or ann.1")
    likeness = HashingEncoder().encode([one.input for one in BOB]) @ HashingEncoder().encode(
        [request.text]
    )[0]  # fmt: skip
    expected = (4 + np.argsort(-likeness, kind="stable")).tolist()
    assert made.nearest(request, 4) == expected
    assert made.nearest(request, 2) == expected[:2]
    assert made.nearest(request, 99) == expected
    assert made.nearest(request, 0) == []
    assert made.nearest(request, 9, np.array([0, 1, 4, 5])) == [n for n in expected if n < 6]
    assert len(made.nearest(replace(request, user="new"), 99)) == 8


def test_candidates_stay_in_their_order_and_the_same_item_out() -> None:
    for allowed, expected in ((True, [6, 4, 5]), (False, [6, 4])):
        made = world(allow_same_item=allowed)
        shown = made.in_order(REQUEST, made.others(REQUEST, [6, 4, 5])).shown
        assert [one.interaction_id for one in shown] == [BOB[n - 4].id for n in expected]
    many = tuple(row("bob", n) for n in range(30))
    crowded = World(task(), training(*many), count_words, budget_tokens=9000)
    shown = crowded.in_order(REQUEST, crowded.others(REQUEST, range(30))).shown
    assert ids([many[n] for n in range(MOST_SHOWN)]) == [one.interaction_id for one in shown]


# ---- the frame ----------------------------------------------------------------------------------

WORDS = st.lists(st.sampled_from(["tea", "rain", "quay", "ferry", "late", "again"]), max_size=90)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=12), st.integers(80, 400))
@settings(max_examples=60, deadline=None)
def test_a_context_never_exceeds_the_budget(
    texts: list[tuple[list[str], list[str]]], budget: int
) -> None:
    rows = [
        row("bob", n, input=f"i{n} {' '.join(i)}", response=f"r{n} {' '.join(r)}")
        for n, (i, r) in enumerate(texts)
    ]
    made = World(task(), training(*rows), count_words, budget_tokens=budget)
    found = made.in_order(REQUEST, made.others(REQUEST, range(len(rows))))
    added = sum(count_words(message["content"]) for message in found.messages)
    added -= count_words("Answer. asked about")
    assert added <= found.tokens <= budget
    for one in found.shown:
        assert one.response.split()[0] in " ".join(m["content"] for m in found.messages)


def test_a_budget_that_holds_nothing_is_refused() -> None:
    made = world(budget_tokens=3)
    with pytest.raises(ConfigError, match="budget_tokens=3 is too small"):
        made.in_order(REQUEST, made.others(REQUEST, [4]))


def test_what_everybody_says() -> None:
    labels = ["good", "good", "bad", None]
    rows = [row("bob", n, label=label, rating=2.0 * n) for n, label in enumerate(labels)]
    made = training(*rows, row("cem", 9, rating=9.0))
    assert everybody(World(task("label"), made, count_words)).labels == {
        "good": pytest.approx(2 / 3), "bad": pytest.approx(1 / 3),
    }  # fmt: skip
    found = everybody(World(task("rating"), made, count_words))
    assert found.rating == pytest.approx(21 / 5)
    assert found.rating_median == 4.0
    assert everybody(world("rating")).rating is None


# ---- the library's own desk, on the invented people ---------------------------------------------


@cache
def demo() -> tuple[Training, tuple[Request, ...]]:
    found = split(TASKS["demo.reply"], TASKS["demo.reply"].load(Path("nowhere")))
    encoder = HashingEncoder()
    made = Training.of(found, TextVectors(encoder.name, encoder.encode))
    return made, tuple(case.request for case in found.cases[:6])


def test_a_state_is_fitted_once() -> None:
    made, _ = demo()
    assert made.state() is made.state()
    assert made.quotable(made.state())[0] is made.quotable(made.state())[0]


@pytest.mark.parametrize("make", [Rung, Population, GlobalPeers, OwnDense])
def test_where_statistics_are_lent_nobody_is_quoted(make: Make) -> None:
    made, requests = demo()
    quoted = dict.fromkeys(MODES, 0)
    for mode in MODES:
        system = make(World(TASKS["demo.reply"], made, count_words, mode), 0)
        for request in requests:
            shown = system.predict(request).shown
            quoted[mode] += sum(one.origin != "own" for one in shown)
            assert {one.interaction_id for one in shown if one.origin == "own"} <= {
                one.id for one in request.history
            }
    assert quoted["aggregate"] == 0
    assert (quoted["text"] > 0) == (make is not OwnDense)


def test_a_desk_of_statistics_has_nothing_to_quote() -> None:
    made, requests = demo()
    desks = [
        World(TASKS["demo.reply"], made, count_words, mode).desk(requests[0], made.state())
        for mode in MODES
    ]
    assert [len(desk.items.ids) for desk in desks] == [len(made.interactions), 0]
    assert len(desks[1].items.vectors) == len(desks[1].items.lenders) == 0
    assert [desk.policy.lends_text("bob") for desk in desks] == [True, False]


def test_the_fence_is_the_same_for_all_systems_and_another_for_each_request() -> None:
    made, requests = demo()
    where = World(TASKS["demo.reply"], made, count_words)
    systems = [make(where, 0) for make in (Rung, Population, OwnRecent)]
    for request in requests[:3]:
        fences = [fence_of(each) for each in requests]
        assert len(set(fences)) == len(fences)
        for system in systems:
            said = "".join(message["content"] for message in system.predict(request).messages)
            assert [fence for fence in fences if fence in said] == [fence_of(request)]


def test_what_is_cut_from_a_history_is_not_remembered() -> None:
    made, requests = demo()
    system = Rung(World(TASKS["demo.reply"], made, count_words), 0)
    for request in requests:
        newest = request.history[-1:]
        shown = system.predict(replace(request, history=newest)).shown
        assert {one.interaction_id for one in shown if one.origin == "own"} <= set(ids(newest))
        assert not {one.interaction_id for one in shown} & set(ids(request.history[:-1]))
