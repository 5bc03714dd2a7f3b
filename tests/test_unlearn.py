"""Forgetting: what is taken out of a fitted state, and what raw bytes still show afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from copersona import CoPersona, Interaction, artifacts
from copersona.errors import DataError, NotFittedError, UnknownUserError
from copersona.unlearn import NOT_UNLEARNT, find_traces, without_user
from demo_people import (
    DINNER,
    JOURNEY,
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


def test_raw_bytes_are_found_wherever_they_are(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "x.bin").write_bytes(b"\0\xff" + PLANTED.encode() + b"\0")
    (tmp_path / "a" / "clean").write_bytes(b"nothing")
    lone = tmp_path / "lone"
    lone.write_text(JOURNEY)
    found = find_traces([tmp_path / "a", lone], [PLANTED.encode(), b"night train"])
    assert found == [str(deep / "x.bin"), str(lone)]
    assert find_traces([tmp_path], [b"abc", b"not there"]) == []
