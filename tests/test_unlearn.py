"""Forgetting: what is taken out of the store and of a fitted state, and what stays until a fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from copersona import CoPersona, Interaction, artifacts
from copersona.erasing.unlearn import LEFT_IN, NOT_UNLEARNT, without_user
from copersona.errors import DataError, NotFittedError, UnknownUserError
from copersona.method.residuals import columns_of
from demo_people import (
    DINNER,
    OWNER,
    ROWS,
    SECRET,
    USERS,
    copied,
    fitted,
    opened,
    peers_of,
)

PLANTED = "quillon-0417"
WORDS = ["Braised ostrich neck, 163 minutes, no lid.", "Ostrich again: 7 onions, 2 l stock.",
         "Smoked over plumwood, then 44 minutes in the oven."]  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fitted(tmp_path_factory.mktemp("people") / "template")
    with opened(folder) as cp:
        cp.add([Interaction(PLANTED, f"What do you cook on day {n}?", text, item="dinner-9")
                for n, text in enumerate(WORDS)])  # fmt: skip
        cp.instruct(PLANTED, "Never mention the walrus.")
        cp.set_consent(PLANTED, lend="text")
        cp.fit()
        cp.fit()
    return folder


@pytest.fixture
def cp(template: Path, tmp_path: Path) -> Iterator[CoPersona]:
    with copied(template, tmp_path / "copy") as opened_copy:
        yield opened_copy


def files_holding(folder: Path, *words: str) -> list[str]:
    """An own raw byte scan, independent of the one in the package."""
    needles = [word.encode() for word in words]
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [p.name for p in paths if any(needle in p.read_bytes() for needle in needles)]


def test_nothing_of_a_forgotten_user_is_left_in_any_file(cp: CoPersona, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    ids = [i.id for i in cp.store.history("default", PLANTED)]
    everything = [PLANTED, *WORDS, *ids, "walrus"]
    cp.prompt(PLANTED, DINNER)
    cp.prompt("kofi", "What do you cook with ostrich?")
    assert len(files_holding(folder, PLANTED)) >= 2
    receipt = cp.forget(PLANTED)
    assert receipt.traces_found == ()
    assert receipt.scanned >= 3
    assert files_holding(folder, *everything) == []
    cp.close()
    assert files_holding(folder, *everything) == []


def test_the_receipt_counts_and_names_what_stays(cp: CoPersona) -> None:
    old = artifacts.versions(cp._root, "default")
    cp.prompt(PLANTED, DINNER)
    receipt = cp.forget(PLANTED)
    assert receipt.removed["interactions"] == 3
    assert receipt.removed["instructions"] == 1
    assert receipt.removed["consents"] == 1
    assert receipt.removed["traces"] >= 1
    assert receipt.not_unlearnt == NOT_UNLEARNT
    assert sorted(receipt.states_removed) == sorted(old)
    assert artifacts.versions(cp._root, "default") == [receipt.state]
    assert receipt.to_dict()["state"] == receipt.state
    assert cp.doctor() == []


def test_a_forgotten_user_is_a_stranger(cp: CoPersona) -> None:
    trace_id = cp.prompt(PLANTED, DINNER).trace_id
    cp.forget(PLANTED)
    assert cp.persona(PLANTED).facets == cp.persona("nobody").facets
    assert cp.persona(PLANTED).instructions == ()
    assert not cp.prompt(PLANTED, DINNER).is_personalised
    assert PLANTED not in cp.state().lenders
    for user in ("ines", "kofi", "vera"):
        assert PLANTED not in peers_of(cp, user)
        assert "strich" not in str(cp.prompt(user, "Do you cook ostrich?").messages[:-1])
    with pytest.raises(UnknownUserError):
        cp.explain(trace_id)


def test_adding_a_forgotten_user_again_is_refused(cp: CoPersona) -> None:
    cp.forget(PLANTED)
    (outcome,) = cp.add([Interaction(PLANTED, "And today?", "Ostrich.")])
    assert outcome.status == "rejected"
    with pytest.raises(DataError):
        cp.instruct(PLANTED, "Remember me.")
    with pytest.raises(DataError):
        cp.set_consent(PLANTED, lend="text")
    assert PLANTED not in cp.store.users("default")


def test_every_other_process_loses_the_user_at_once(cp: CoPersona, tmp_path: Path) -> None:
    with opened(tmp_path / "copy") as reader:
        assert PLANTED in reader.state().lenders
        receipt = cp.forget(PLANTED)
        assert reader.persona("kofi").state == receipt.state
        assert PLANTED not in reader.state().lenders


def test_a_user_who_is_only_in_an_older_state_is_gone_from_it_too(
    cp: CoPersona, tmp_path: Path
) -> None:
    cp.set_consent(PLANTED, lend="no")
    current = cp.fit().state
    assert files_holding(tmp_path / "copy" / "people.db.state", PLANTED)
    receipt = cp.forget(PLANTED)
    assert files_holding(tmp_path / "copy", PLANTED, *WORDS) == []
    assert receipt.traces_found == ()
    assert cp.persona("kofi").state == current


def test_a_damaged_state_does_not_stand_in_the_way(cp: CoPersona, tmp_path: Path) -> None:
    for manifest in cp._root.rglob("manifest.json"):
        manifest.chmod(0o600)
        manifest.write_text("{")
    with opened(tmp_path / "copy") as fresh:
        receipt = fresh.forget(PLANTED)
        assert receipt.removed["interactions"] == 3
        assert files_holding(tmp_path / "copy", PLANTED, *WORDS) == []
        with pytest.raises(NotFittedError):
            fresh.persona("kofi")
        assert fresh.fit().n_lenders == len(USERS)


def test_forgetting_before_any_fit(tmp_path: Path) -> None:
    with opened(tmp_path) as cp:
        cp.add([Interaction(PLANTED, "q", WORDS[0]), Interaction("other", "q", "a")])
        receipt = cp.forget(PLANTED)
        assert (receipt.state, receipt.not_unlearnt, receipt.traces_found) == ("", (), ())
        assert files_holding(tmp_path, PLANTED, WORDS[0]) == []
        assert cp.store.users("default") == ["other"]


def test_a_secret_goes_with_its_owner(cp: CoPersona, tmp_path: Path) -> None:
    assert files_holding(tmp_path / "copy", SECRET)
    cp.forget(OWNER)
    assert files_holding(tmp_path / "copy", SECRET) == []


# ---- the parts --------------------------------------------------------------------------------


def test_without_user_takes_one_lender_out_of_every_array(cp: CoPersona) -> None:
    state = cp.state()
    row = state.row_of[PLANTED]
    published = cp._required()
    history = cp._desk(published).own_corpus(cp.store.history("default", PLANTED))
    left = without_user(state, PLANTED, history)
    assert left.lenders == tuple(user for user in state.lenders if user != PLANTED)
    keep = np.arange(len(state.lenders)) != row
    np.testing.assert_array_equal(left.evidence.support, state.evidence.support[keep])
    assert not np.isin(history.id_hashes, left.fitted_ids).any()
    assert np.isin(history.id_hashes, state.fitted_ids).all()
    n_listed = [state.lenders[n] for n in state.graph.neighbours[0, 0].tolist() if n >= 0]
    still = [left.lenders[n] for n in left.graph.neighbours[0, 0].tolist() if n >= 0]
    assert still == [user for user in n_listed if user != PLANTED]
    assert left.graph.neighbours.max() < len(left.lenders)


def test_without_user_subtracts_the_items_of_one_user(cp: CoPersona) -> None:
    state = cp.state()
    user = next(row["user"] for row in ROWS if row.get("item") in state.residuals.item_rows)
    history = cp._desk(cp._required()).own_corpus(cp.store.history("default", user))
    left = without_user(state, user, history)
    rows = [state.residuals.item_rows[i] for i in history.items if i in state.residuals.item_rows]
    before, after = state.residuals.item_counts, left.residuals.item_counts
    np.testing.assert_array_equal(before[rows].max(axis=1) - after[rows].max(axis=1), 1)
    assert (state.residuals.item_sums[rows] != left.residuals.item_sums[rows]).any()
    others = np.setdiff1d(np.arange(len(before)), rows)
    np.testing.assert_array_equal(after[others], before[others])
    np.testing.assert_array_equal(
        left.residuals.item_sums[others], state.residuals.item_sums[others]
    )


def test_a_user_who_lends_nothing_changes_no_state(cp: CoPersona) -> None:
    history = cp._desk(cp._required()).own_corpus([])
    state = cp.state()
    assert without_user(state, "nobody", history) is state


# ---- what stays -------------------------------------------------------------------------------

WHEN = ("cut", "revision")
"""Of which moment a fit is."""
WITHOUT_INFLUENCE = (*WHEN, "config", "encoder", "temperature", "min_donors", "items.ids",
                     "items.at", "items.lenders", "items.vectors")  # fmt: skip
"""What the program sets, and what is kept per person: the same whoever else was there."""


def kept_in(cp: CoPersona) -> dict[str, Any]:
    """Arrays and fields of the fitted state on disk, by name."""
    opened_state = artifacts.open_version(cp._root, "default")
    return {**opened_state.arrays, **opened_state.meta}


def is_named(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def test_every_part_of_a_state_is_said_to_stay_or_to_hold_nothing(cp: CoPersona) -> None:
    patterns = [pattern for part in LEFT_IN.values() for pattern in part]
    names = kept_in(cp)
    unsaid = [name for name in names if not is_named(name, [*patterns, *WITHOUT_INFLUENCE])]
    assert unsaid == [], "say in unlearn.LEFT_IN and docs/privacy.md whether it holds influence"
    assert [name for name in WITHOUT_INFLUENCE if name not in names] == []


def test_what_a_fit_without_the_user_would_change_is_said_to_stay(cp: CoPersona) -> None:
    cp.forget(PLANTED)
    left = kept_in(cp)
    cp.fit()
    clean = kept_in(cp)
    patterns = [pattern for part in LEFT_IN.values() for pattern in part]
    same = [n for n in left if not is_named(n, patterns) and n not in WHEN]
    assert len(same) >= len(WITHOUT_INFLUENCE) - len(WHEN)
    assert [n for n in same if not np.array_equal(left[n], clean[n])] == []
    changed = [n for n in left if n not in same and not np.array_equal(left[n], clean[n])]
    assert {"facets.center", "residuals.weights", "evidence.means"} <= {*changed}


def test_item_means_are_those_of_the_others_alone(cp: CoPersona) -> None:
    cp.forget(PLANTED)
    state = cp.state()
    others = [row for user in USERS for row in cp.store.history("default", user)]
    corpus = cp._desk(cp._required()).own_corpus(others)
    assigned = state.facets.assign(corpus.inputs, corpus.declared)
    values, present = state.residuals.values(corpus)
    raw = state.residuals.against_input(corpus, assigned, values)
    raw *= columns_of(state.residuals.views, present)
    expected = np.zeros_like(state.residuals.item_sums)
    for row, item in enumerate(corpus.items):
        if item in state.residuals.item_rows:
            expected[state.residuals.item_rows[item]] += raw[row]
    assert len(expected) >= 1
    np.testing.assert_allclose(state.residuals.item_sums, expected, atol=1e-3)


def test_the_last_lender_can_be_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path) as cp:
        cp.add([Interaction(PLANTED, f"What on day {n}?", text) for n, text in enumerate(WORDS)])
        cp.fit()
        receipt = cp.forget(PLANTED)
        assert receipt.traces_found == ()
        assert cp.state().lenders == ()
        assert cp.persona("kofi").n_interactions == 0


def test_the_privacy_page_says_what_stays() -> None:
    page = (Path(__file__).parents[1] / "docs" / "privacy.md").read_text("utf-8")
    listed = re.findall(r"^- (.+?)[;.]$", page.split("**What stays")[1], re.MULTILINE)
    assert tuple(listed[: len(NOT_UNLEARNT)]) == NOT_UNLEARNT
    assert listed[len(NOT_UNLEARNT) :] == []
