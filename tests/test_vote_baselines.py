"""Rating and label baselines against plain Python, numpy and answers planted by hand."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copersona.contenders.systems import Make
from copersona.contenders.vote_baselines import (
    ItemUserBias,
    KnnVote,
    Majority,
    OwnMajority,
    Svd,
    UserKnn,
)
from copersona.contenders.world import TextVectors, Training, World
from copersona.errors import DataError
from copersona.language.encoders import HashingEncoder
from copersona.records import Interaction
from copersona.tasks.cases import Kind, Material, Prediction, Request, Task
from copersona.tasks.splits import Split

ALL: tuple[Make, ...] = (Majority, OwnMajority, KnnVote, ItemUserBias, UserKnn, Svd)
LABELLING = ALL[:-1]
Given = tuple[str, str | None, float]  # user, item, rating


def rated(number: int, user: str, item: str | None, rating: float | None) -> Interaction:
    text = f"about {item} {number}"
    return Interaction(user, text, item=item, rating=rating, at=float(number), id=f"r{number}")


def rows_of(given_: Sequence[Given]) -> list[Interaction]:
    """Ratings as interactions, by user, as a training wants them."""
    return [rated(n, *one) for n, one in enumerate(sorted(given_, key=lambda one: one[0]))]


def world(rows: Sequence[Interaction], kind: Kind = "rating", **setting: object) -> World:
    task = Task("made.up", "made", kind, "", "How many?", lambda _: Material(()))
    encoder = HashingEncoder()
    training = Training.of(Split(1e6, tuple(rows), ()), TextVectors(encoder.name, encoder.encode))
    made = World(task, training, lambda text: len(text.split()))
    return replace(made, **setting)  # type: ignore[arg-type]


def request(item: str | None, own: Sequence[Interaction] = (), user: str = "ann") -> Request:
    return Request("c", user, f"about {item}", "How many?", 1e6, item, tuple(own))


def own_of(*given_: tuple[str | None, float]) -> list[Interaction]:
    return [rated(1000 + n, "ann", *one) for n, one in enumerate(given_)]


def guess(make: Make, asked: Request, where: World, seed: int = 0) -> float:
    rating = make(where, seed).predict(asked).rating
    assert rating is not None
    return rating


# ---- a second implementation --------------------------------------------------------------------


@dataclass
class Plain:
    """Mean, biases and residues with dictionaries and loops, from the formulas."""

    rows: Sequence[tuple[str, str, float]]

    def __post_init__(self) -> None:
        self.mean = sum(r for _, _, r in self.rows) / len(self.rows)
        self.item = self.shrunk([(i, r - self.mean) for _, i, r in self.rows])
        user = self.shrunk([(u, r - self.mean - self.item[i]) for u, i, r in self.rows])
        left: dict[tuple[str, str], list[float]] = defaultdict(list)
        for u, i, r in self.rows:
            left[u, i].append(r - self.mean - self.item[i] - user[u])
        self.rest = {pair: sum(each) / len(each) for pair, each in left.items()}

    @staticmethod
    def shrunk(values: Sequence[tuple[str, float]]) -> dict[str, float]:
        sums: dict[str, list[float]] = defaultdict(list)
        for name, value in values:
            sums[name].append(value)
        return {name: sum(each) / (len(each) + 5) for name, each in sums.items()}

    def expected(self, item: str | None) -> float:
        return self.mean + (0 if item is None else self.item.get(item, 0.0))

    def biased(
        self, item: str | None, own: Sequence[tuple[str | None, float]]
    ) -> tuple[float, list[tuple[str, float]]]:
        """The guess of biases, and what they leave of the user's own ratings of known items."""
        rest = [(i, r - self.expected(i)) for i, r in own]
        bias = sum(r for _, r in rest) / (len(rest) + 5)
        left = [(i, r - bias) for i, r in rest if i is not None and i in self.item]
        return self.expected(item) + bias, left

    def neighbours(self, item: str, left: Sequence[tuple[str, float]], avoided: str) -> float:
        """Weighted mean of what the users most alike left on the item."""
        energy = math.sqrt(sum(r * r for _, r in left))
        found = []
        for user in sorted({u for u, i in self.rest if i == item and u != avoided}):
            common = [(self.rest[user, i], r) for i, r in left if (user, i) in self.rest]
            # What rounding leaves of residues that are zero must not count as likeness.
            norm = math.sqrt(sum(a * a for a, _ in common)) * energy + 1e-9
            weight = sum(a * b for a, b in common) / norm * len(common) / (len(common) + 10)
            found.append((max(weight, 0.0), self.rest[user, item]))
        return sum(w * r for w, r in found) / (sum(w for w, _ in found) + 1e-9)


def clipped(value: float, rows: Sequence[tuple[str, str, float]]) -> float:
    ratings = [r for _, _, r in rows]
    return min(max(value, min(ratings)), max(ratings))


RATINGS = st.sampled_from([1.0, 2.0, 3.0, 4.5])
ITEMS = st.sampled_from([f"i{n}" for n in range(7)])
USERS = st.sampled_from(["ann", *(f"u{n}" for n in range(8))])
CROWD = st.lists(st.tuples(USERS, ITEMS, RATINGS), min_size=1, max_size=45)
OWN = st.lists(st.tuples(st.one_of(ITEMS, st.just("new"), st.none()), RATINGS), max_size=8)


@given(CROWD, OWN, ITEMS)
@settings(max_examples=60, deadline=None)
def test_biases_are_those_of_the_formula(
    crowd: list[tuple[str, str, float]], own: list[tuple[str | None, float]], item: str
) -> None:
    rows, asked = rows_of(crowd), request(item, own_of(*own))
    expected = clipped(Plain(crowd).biased(item, own)[0], crowd)
    assert guess(ItemUserBias, asked, world(rows)) == pytest.approx(expected)


@given(CROWD, OWN, ITEMS)
@settings(max_examples=60, deadline=None)
def test_neighbours_are_those_of_the_formula(
    crowd: list[tuple[str, str, float]], own: list[tuple[str | None, float]], item: str
) -> None:
    plain = Plain(crowd)
    expected, left = plain.biased(item, own)
    if item in plain.item and left:
        expected += plain.neighbours(item, left, avoided="ann")
    found = guess(UserKnn, request(item, own_of(*own)), world(rows_of(crowd)))
    assert found == pytest.approx(clipped(expected, crowd), abs=1e-5)


@given(CROWD, OWN, ITEMS)
@settings(max_examples=40, deadline=None)
def test_factors_are_those_of_numpy(
    crowd: list[tuple[str, str, float]], own: list[tuple[str | None, float]], item: str
) -> None:
    plain = Plain(crowd)
    expected, left = plain.biased(item, own)
    users, items = sorted({u for u, _, _ in crowd}), sorted(plain.item)
    matrix = np.array([[plain.rest.get((u, i), 0.0) for i in items] for u in users])
    n = min(20, len(users) - 1, len(items) - 1)
    values, factors = np.linalg.svd(matrix, full_matrices=False)[1:]
    if n >= 1 and matrix.any() and item in plain.item and left:
        if n < len(values) and values[n - 1] - values[n] < 1e-3 * values[0]:
            return  # the last factor is any one of a plane
        known = factors[:n, [items.index(i) for i, _ in left]]
        # Ridge as least squares with rows of its own.
        design = np.vstack([known.T, math.sqrt(0.1) * np.eye(n)])
        given_ = np.concatenate([[r for _, r in left], np.zeros(n)])
        weights = np.linalg.lstsq(design, given_, rcond=None)[0]
        expected += float(weights @ factors[:n, items.index(item)])
    found = guess(Svd, request(item, own_of(*own)), world(rows_of(crowd)))
    assert found == pytest.approx(clipped(expected, crowd), abs=1e-3)


# ---- planted answers ----------------------------------------------------------------------------

# Two tastes: those of the first love what is even and hate what is odd, the others the reverse.
TASTES = [
    (f"u{user}", f"i{item}", 5.0 if (user + item) % 2 == 0 else 1.0)
    for user in range(12)
    for item in range(10)
]


@pytest.mark.parametrize("make", [UserKnn, Svd])
def test_a_taste_is_found_by_those_who_share_it(make: Make) -> None:
    where = world(rows_of([row for row in TASTES if row[1] != "i9" or row[0] != "u0"]))
    even = own_of(*((f"i{n}", 5.0 if n % 2 == 0 else 1.0) for n in range(8)))
    odd = own_of(*((f"i{n}", 1.0 if n % 2 == 0 else 5.0) for n in range(8)))
    assert guess(make, request("i8", even), where) > 4
    assert guess(make, request("i8", odd), where) < 2
    assert guess(ItemUserBias, request("i8", even), where) == pytest.approx(3, abs=0.1)


def test_the_users_own_fitted_rows_are_no_neighbour() -> None:
    own = own_of(*((f"i{n}", 5.0 if n % 2 == 0 else 1.0) for n in range(8)))
    # Nobody else agrees with the user, whose own rows lie in the training too.
    strangers = [(user, item, 6.0 - rating) for user, item, rating in TASTES if int(user[1:]) % 2]
    mine = [("ann", f"i{n}", 5.0 if n % 2 == 0 else 1.0) for n in range(10)]
    crowd = [(u, i, 6.0 - r) for u, i, r in strangers if u == "u1"]
    crowd += [("u3", "i8", 5.0), ("u3", "i1", 5.0), *mine]
    where = world(rows_of(crowd))
    as_oneself = guess(UserKnn, request("i8", own), where)
    assert as_oneself == pytest.approx(guess(ItemUserBias, request("i8", own), where))
    as_another = guess(UserKnn, request("i8", own, user="somebody"), where)
    assert as_another > as_oneself + 0.5


def test_only_the_nearest_count(monkeypatch: pytest.MonkeyPatch) -> None:
    alike = [("near", "a", 5.0), ("near", "b", 1.0), ("near", "c", 5.0)]
    half = [("far", "a", 5.0), ("far", "b", 3.0), ("far", "c", 1.0), ("x", "c", 3.0)]
    own = own_of(("a", 5.0), ("b", 1.0))
    where = world(rows_of([*alike, *half]))
    both = guess(UserKnn, request("c", own), where)
    monkeypatch.setattr(UserKnn, "k", 1)
    assert guess(UserKnn, request("c", own), where) > both + 0.1


def test_the_item_counts_only_where_it_is_allowed() -> None:
    crowd = [(f"u{n}", item, 5.0 if item == "loved" else 1.0)
             for n in range(9) for item in ("loved", "hated")]  # fmt: skip
    own = own_of(("loved", 5.0), ("hated", 2.0), ("other", 4.0))
    for make in (ItemUserBias, UserKnn, Svd):
        allowed, barred = (world(rows_of(crowd), allow_same_item=may) for may in (True, False))
        assert guess(make, request("loved", own), allowed) > 4
        # The mean, 3, and own deviations from what is expected, without the item asked about.
        plain = Plain(crowd)
        bias = {
            item: sum(r - plain.expected(i) for i, r in
                      (("loved", 5.0), ("hated", 2.0), ("other", 4.0)) if i != item) / 7
            for item in ("loved", "hated")
        }  # fmt: skip
        for item in ("loved", "hated"):
            assert guess(make, request(item, own), barred) == pytest.approx(3 + bias[item])


def test_who_rated_twice_meant_the_mean() -> None:
    once = [("u", "a", 3.0), ("u", "b", 5.0), ("v", "a", 1.0), ("v", "b", 2.0), ("w", "b", 4.0)]
    twice = [*once, ("u", "a", 3.0)]
    model = UserKnn(world(rows_of(twice)), 0).models[0]
    expected = Plain(twice).rest
    names = [(u, i) for u in ("u", "v", "w") for i in ("a", "b")]
    found = model.rest.toarray().ravel()
    assert found == pytest.approx([expected.get(name, 0.0) for name in names])


# ---- votes --------------------------------------------------------------------------------------


def labelled(number: int, user: str, label: str | None, **more: object) -> Interaction:
    made = Interaction(
        user,
        f"text {number}",
        label=label,
        at=float(number),
        item=f"i{number % 3}",
        id=f"l{number}",
    )
    return replace(made, **more)  # type: ignore[arg-type]


LABELS = ["good", "good", "good", "bad", None]
LABELLED = [labelled(n, "bob", label) for n, label in enumerate(LABELS)]


def shares(make: Make, own: Sequence[Interaction] = (), **setting: object) -> dict[str, float]:
    found = make(world(LABELLED, "label", **setting), 0).predict(request("i0", own))
    return dict(found.labels)


def test_majorities_by_hand() -> None:
    assert shares(Majority) == {"good": 0.75, "bad": 0.25}
    own = [labelled(90 + n, "ann", "bad") for n in range(3)]
    assert shares(Majority, own) == {"good": 0.75, "bad": 0.25}
    assert shares(OwnMajority) == {"good": 0.75, "bad": 0.25}
    assert shares(OwnMajority, own) == {"good": 0.75 / 4, "bad": 3.25 / 4}
    new = [labelled(90, "ann", "odd")]
    assert shares(OwnMajority, new) == {"good": 0.375, "bad": 0.125, "odd": 0.5}
    ratings = [("u", "a", 10.0), ("u", "b", 2.0), ("u", "c", 9.0), ("u", "d", 9.0)]
    found = Majority(world(rows_of(ratings)), 0).predict(request("a"))
    assert (found.rating, found.rating_median) == (7.5, 9.0)


def test_the_nearest_texts_vote_by_likeness() -> None:
    rows = [
        labelled(1, "bob", "good", input="trains and stations"),
        labelled(2, "bob", "bad", input="bread and flour"),
        labelled(3, "bob", "bad", input="trains"),
    ]
    own = [labelled(4, "ann", "fine", input="stations")]
    asked = replace(request("i9", own), text="trains and stations")
    cosines = (
        HashingEncoder().encode([*(r.input for r in rows), own[0].input])
        @ (HashingEncoder().encode([asked.text])[0])
    )
    assert cosines.min() > 0
    expected = {
        "good": cosines[0], "bad": cosines[1] + cosines[2], "fine": cosines[3],
    }  # fmt: skip
    found = KnnVote(world(rows, "label"), 0).predict(asked).labels
    assert found == pytest.approx({k: v / cosines.sum() for k, v in expected.items()}, abs=1e-3)
    alone = KnnVote(world(rows, "label", mode="aggregate"), 0).predict(asked).labels
    assert alone == {"good": 0.0, "bad": 0.0, "fine": 1.0}


def test_the_same_item_has_no_vote_where_it_is_barred() -> None:
    rows = [
        labelled(1, "bob", "good", item="tea", input="a fine tea"),
        labelled(2, "bob", "bad", item="cup", input="a fine cup"),
        labelled(3, "bob", "odd", item=None, input="A fine  thing"),
    ]
    where = world(rows, "label", allow_same_item=False)
    tea = replace(request("tea"), text="a fine tea")
    thing = replace(request(None), text="a fine thing")
    assert KnnVote(where, 0).predict(tea).labels["good"] == 0
    assert KnnVote(where, 0).predict(tea).labels["odd"] > 0
    assert KnnVote(where, 0).predict(thing).labels["odd"] == 0  # nameless: by the text
    assert KnnVote(where, 0).predict(thing).labels["good"] > 0


def test_labels_are_biases_of_every_label() -> None:
    given_ = [("u", "i0", "good"), ("v", "i0", "good"), ("v", "i1", "bad"), ("w", "i1", "good"),
              ("w", "i2", "odd")]  # fmt: skip
    rows = [labelled(n, u, label, item=item) for n, (u, item, label) in enumerate(given_)]
    own = [labelled(90, "ann", "bad", item="i1"), labelled(91, "ann", "odd", item="new")]
    found = ItemUserBias(world(rows, "label"), 0).predict(request("i0", own)).labels
    guesses = {}
    for label in ("good", "bad", "odd"):
        plain = Plain([(u, i, float(said == label)) for u, i, said in given_])
        mine = [("i1", float(label == "bad")), ("new", float(label == "odd"))]
        guesses[label] = max(plain.biased("i0", mine)[0], 0.01)
    total = sum(guesses.values())
    assert found == pytest.approx({label: g / total for label, g in guesses.items()})


# ---- whatever is asked --------------------------------------------------------------------------


def check(found: Prediction, *, is_label: bool) -> None:
    if is_label:
        assert sum(found.labels.values()) == pytest.approx(1)
        assert all(share >= 0 for share in found.labels.values())
        return
    assert found.rating is not None
    assert 1 <= found.rating <= 5
    assert found.rating_median is None or found.rating_median in {1.0, 2.0, 3.0, 4.5, 5.0}


@pytest.mark.parametrize("make", LABELLING)
@given(st.lists(st.tuples(USERS, st.one_of(ITEMS, st.none()), st.sampled_from("xyz")), min_size=1,
                max_size=12),
       st.lists(st.tuples(ITEMS, st.sampled_from("xyzw")), max_size=4), st.booleans())  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_shares_sum_to_one(
    make: Make, crowd: list[tuple[str, str | None, str]], own: list[tuple[str, str]], same: bool
) -> None:
    rows = [labelled(n, u, x, item=i) for n, (u, i, x) in enumerate(sorted(crowd, key=str))]
    mine = [labelled(90 + n, "ann", x, item=i) for n, (i, x) in enumerate(own)]
    where = world(rows, "label", allow_same_item=same)
    check(make(where, 0).predict(request("i1", mine)), is_label=True)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize(
    "crowd",
    [
        [("u", "a", 3.0)],
        [("u", "a", 3.0), ("u", "b", 5.0)],
        [("u", "a", 3.0), ("v", "a", 5.0)],
        [("u", "a", 3.0), ("u", "a", 5.0)],
        [("u", "a", 3.0), ("u", "b", 3.0), ("v", "a", 3.0), ("v", "b", 3.0)],
        [("u", None, 3.0), ("v", None, 4.5)],
    ],
    ids=["one rating", "one user", "one item", "one pair", "all equal", "no items"],
)
def test_little_is_enough(make: Make, crowd: list[Given]) -> None:
    system = make(world(rows_of(crowd)), 0)
    mean = sum(rating for _, _, rating in crowd) / len(crowd)
    for own in ([], own_of(("a", 5.0)), own_of((None, 5.0), ("new", 2.0))):
        for item in ("a", "unknown", None):
            check(system.predict(request(item, own)), is_label=False)
    nobody_knows = system.predict(request("unknown"))
    if make in (Majority, OwnMajority, ItemUserBias) and crowd[0][1] is not None:
        assert nobody_knows.rating == pytest.approx(mean)


def test_an_item_called_none_is_not_no_item() -> None:
    crowd = [("u", "None", 5.0), ("v", "None", 5.0), ("u", "a", 1.0), ("v", "b", 1.0)]
    where = world(rows_of(crowd))
    assert guess(ItemUserBias, request(None), where) == pytest.approx(3)
    assert guess(ItemUserBias, request("None"), where) > 3.5


@pytest.mark.parametrize("make", ALL)
def test_where_nobody_rated_anything_nothing_can_be_said(make: Make) -> None:
    with pytest.raises(DataError, match=r"made\.up: nobody gave a rating before the cut"):
        make(world([rated(1, "u", "a", None)]), 0)


def test_chance_is_the_seed() -> None:
    where = world(rows_of(TASTES))
    own = own_of(("i1", 5.0), ("i2", 1.0))
    assert guess(Svd, request("i8", own), where, 3) == guess(Svd, request("i8", own), where, 3)
