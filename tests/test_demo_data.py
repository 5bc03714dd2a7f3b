"""The invented people of the demo: valid rows, varied wording, and what truth.json plants."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from importlib.resources import files
from itertools import permutations
from math import comb
from statistics import median
from typing import Any

import numpy as np
import pytest

from copersona.interactions import check, parse_time, with_ids
from copersona.language.encoders import open_encoder
from copersona.method.facets import FacetConfig, fit_facets
from copersona.records import Interaction

FOLDER = files("copersona.demo")
ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in (FOLDER / "people.jsonl").read_text("utf-8").splitlines()
]
TRUTH: dict[str, Any] = json.loads((FOLDER / "truth.json").read_text("utf-8"))
THEMES: list[str] = TRUTH["themes"]
MEMBERS: dict[str, dict[str, str]] = TRUTH["members"]


def interactions() -> list[Interaction]:
    return [Interaction(**{**row, "at": parse_time(row["at"])}) for row in ROWS]


def adjusted_rand_index(found: list[Any], true: list[Any]) -> float:
    together = sum(comb(n, 2) for n in Counter(zip(found, true, strict=True)).values())
    in_found = sum(comb(n, 2) for n in Counter(found).values())
    in_true = sum(comb(n, 2) for n in Counter(true).values())
    by_chance = in_found * in_true / comb(len(true), 2)
    return (together - by_chance) / ((in_found + in_true) / 2 - by_chance)


def paired_share(first: str, second: str) -> float:
    """Share of users with both facets who fit the best pairing of groups."""
    both = Counter((m[first], m[second]) for m in MEMBERS.values() if {first, second} <= m.keys())
    left, right = list(TRUTH["groups"][first]), TRUTH["groups"][second]
    best = max(
        sum(both[pair] for pair in zip(left, order, strict=True)) for order in permutations(right)
    )
    return best / both.total()


def style(text: str) -> list[float]:
    words = re.findall(r"\w+", text)
    shares = [sum(map(test, text)) / len(text) for test in (str.isdigit, str.isupper)]
    marks = [min(text.count(mark), 3) for mark in "!?"]
    other = [text[0].islower(), "€" in text or "$" in text, any(c > "\u2fff" for c in text)]
    return [np.log(len(words)), text.count(",") / len(words), *shares, *marks, *map(float, other)]


def test_every_row_may_be_stored_and_has_its_own_id() -> None:
    rows = with_ids("demo", [check(row) for row in interactions()])
    assert len({row.id for row in rows}) == len(rows)
    assert all(row.input and row.response and row.facet is None for row in rows)
    assert all(row.rating in {None, 1, 2, 3, 4, 5} for row in rows)
    assert all("2025-01" <= row["at"] < "2026-07" for row in ROWS)
    assert all(row.at for row in rows)
    assert not [name for row in rows for name in (row.user, row.item) if name and name.isdigit()]


def test_nobody_answers_the_same_input_twice() -> None:
    assert len({(row["user"], row["input"]) for row in ROWS}) == len(ROWS)


def test_no_two_responses_share_their_wording() -> None:
    rows_with: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for number, row in enumerate(ROWS):
        words = re.findall(r"\w+", row["response"].lower())
        for start in range(len(words) - 5):
            rows_with[tuple(words[start : start + 6])].add(number)
    assert len({row["response"] for row in ROWS}) == len(ROWS)
    assert max(map(len, rows_with.values())) <= 3


def test_histories_are_short_and_skewed() -> None:
    sizes = Counter(row["user"] for row in ROWS)
    assert len(sizes) == 60
    assert 380 <= len(ROWS) <= 480
    assert median(sizes.values()) == 6
    dense = [user for user, n in sizes.items() if 12 <= n <= 22 and 4 <= len(MEMBERS[user]) <= 6]
    assert len(dense) == 12
    assert sum(2 <= n <= 4 for n in sizes.values()) == 12


def test_items_are_shared_by_users_of_several_groups() -> None:
    groups: dict[str, list[str]] = defaultdict(list)
    for row, theme in zip(ROWS, THEMES, strict=True):
        if "item" in row:
            groups[row["item"]].append(MEMBERS[row["user"]][theme])
    assert len(groups) == 30
    assert all(len(found) >= 4 and len(set(found)) >= 2 for found in groups.values())


def test_members_are_in_the_facets_that_they_write_in() -> None:
    written: dict[str, set[str]] = defaultdict(set)
    for row, theme in zip(ROWS, THEMES, strict=True):
        written[row["user"]].add(theme)
    assert {user: set(facets) for user, facets in MEMBERS.items()} == written
    per_group = Counter(pair for facets in MEMBERS.values() for pair in facets.items())
    planted = {(facet, group) for facet, groups in TRUTH["groups"].items() for group in groups}
    assert set(per_group) == planted
    assert len(planted) == 18
    assert min(per_group.values()) >= 6


def test_some_facets_go_together_and_some_do_not() -> None:
    assert paired_share("cooking", "travel") >= 0.8
    assert paired_share("code", "fitness") >= 0.8
    for first, second in (("cooking", "books"), ("cooking", "home"), ("travel", "books")):
        assert paired_share(first, second) <= 0.6


def test_ines_shows_one_facet_and_dense_users_share_the_hidden_one() -> None:
    sparse = TRUTH["sparse"]
    mine = [theme for row, theme in zip(ROWS, THEMES, strict=True) if row["user"] == "ines"]
    assert sparse["user"] == "ines"
    assert mine == [sparse["shown_facet"]] * 4
    assert MEMBERS["ines"] == {sparse["shown_facet"]: sparse["shown_group"]}
    wanted = {(sparse[f"{side}_facet"], sparse[f"{side}_group"]) for side in ("shown", "hidden")}
    sizes = Counter(row["user"] for row in ROWS)
    like_ines = [user for user, facets in MEMBERS.items() if wanted <= set(facets.items())]
    assert sum(sizes[user] >= 12 for user in like_ines) >= 6


def test_the_secret_is_told_once_by_its_owner() -> None:
    secret = TRUTH["secret"]
    found = [n for n, row in enumerate(ROWS) if secret["text"] in json.dumps(row)]
    assert found == [secret["row"]]
    assert ROWS[secret["row"]]["user"] == secret["owner"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_inputs_cluster_by_theme(seed: int) -> None:
    vectors = open_encoder("static").encode([row["input"] for row in ROWS])
    users = np.unique([row["user"] for row in ROWS], return_inverse=True)[1]
    facets = fit_facets(vectors, users, FacetConfig(n_facets=len(TRUTH["groups"]), seed=seed))
    assert adjusted_rand_index(facets.assign(vectors).tolist(), THEMES) >= 0.7


@pytest.mark.parametrize("theme", sorted(TRUTH["groups"]))
def test_groups_of_a_facet_differ_in_style(theme: str) -> None:
    mine = [row for row, of_row in zip(ROWS, THEMES, strict=True) if of_row == theme]
    users = np.array([row["user"] for row in mine])
    groups = np.array([MEMBERS[user][theme] for user in users])
    styles = np.array([style(row["response"]) for row in mine])
    styles = (styles - styles.mean(axis=0)) / (styles.std(axis=0) + 1e-9)
    hits = 0
    for user in np.unique(users):  # the group of one user, from the means of all others
        names = np.unique(groups)
        means = [styles[(groups == name) & (users != user)].mean(axis=0) for name in names]
        distance = np.linalg.norm(means - styles[users == user].mean(axis=0), axis=1)
        hits += names[distance.argmin()] == MEMBERS[user][theme]
    assert hits / len(np.unique(users)) >= 0.85
