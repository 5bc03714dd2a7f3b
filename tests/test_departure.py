"""Leaving while others publish, and while processes die: nobody who was forgotten comes back."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import copersona
from copersona import CoPersona, Interaction, artifacts, pipeline
from copersona.departure import take_out
from copersona.errors import DataError, NotFittedError
from copersona.published import States
from copersona.storage.departures import Departures
from copersona.storage.store import Store
from databases import KINDS, database
from processes import begin, ended

NAMES = ("alma", "ola", "vito", "wen", "kim", "sal")
THINGS = ("soup", "bread", "rice", "stew")


def rows_of(user: str) -> list[Interaction]:
    number = sum(map(ord, user))
    return [
        Interaction(user, f"How is the {thing}?", f"Note {number}: {thing} with {place} cloves.",
                    id=f"{user}-{place}", item=thing, rating=1.0 + (number + place) % 5)
        for place, thing in enumerate(THINGS)
    ]  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A store and its folder of fitted states, with everybody in them."""

    url: str
    root: Path

    def open(self) -> CoPersona:
        return copersona.open(self.url, encoder="hashing", state_dir=self.root)


@pytest.fixture(scope="module", params=KINDS)
def template(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Place]]:
    folder = tmp_path_factory.mktemp("template")
    with database(request.param, folder) as url:
        found = Place(url, folder / "states")
        with found.open() as cp:
            for name in NAMES:
                cp.add(rows_of(name))
                cp.set_consent(name, lend="text")
            cp.fit()
            cp.fit()
        yield request.param, found


@pytest.fixture
def place(template: tuple[str, Place], tmp_path: Path) -> Iterator[Place]:
    kind, stocked = template
    shutil.copytree(stocked.root, tmp_path / "states")
    with database(kind, tmp_path, template=stocked.url) as url:
        yield Place(url, tmp_path / "states")


@pytest.fixture
def cp(place: Place) -> Iterator[CoPersona]:
    with place.open() as opened:
        yield opened


def lenders_in_every_state(cp: CoPersona) -> set[str]:
    return {
        name
        for version in artifacts.versions(cp._root, "default")
        for name in cp._states._open(version).state.lenders
    }


def before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], Any]) -> None:
    """Have something done, once, when a function is next called."""
    real, acts = getattr(owner, name), [act]

    def called(*args: Any, **options: Any) -> Any:
        while acts:
            acts.pop()()
        return real(*args, **options)

    monkeypatch.setattr(owner, name, called)


# ---- others publish meanwhile --------------------------------------------------------------------


def test_two_processes_that_forget_at_once_lose_neither(
    place: Place, cp: CoPersona, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.open() as other:
        elsewhere = threading.Thread(target=other.forget, args=["ola"])
        # Begins when the first has read the state in force and is about to publish the next one.
        before(monkeypatch, States, "publish", elsewhere.start)
        cp.forget("alma")
        elsewhere.join()
    assert lenders_in_every_state(cp) == set(NAMES) - {"alma", "ola"}
    assert cp.store.departures.under_way("default") == frozenset()


def test_real_processes_that_forget_at_once_lose_nobody(place: Place) -> None:
    leaving = NAMES[:3]
    waiting, go = os.pipe()

    def forget(user: str) -> None:
        os.close(go)
        with place.open() as cp:
            os.read(waiting, 1)  # until nobody holds the other end
            assert cp.forget(user).traces_found == ()

    started = [begin(partial(forget, user)) for user in leaving]
    os.close(go)
    assert [ended(one) for one in started] == [0, 0, 0]
    os.close(waiting)
    with place.open() as cp:
        assert lenders_in_every_state(cp) == set(NAMES) - set(leaving)


@pytest.mark.parametrize("leaves", ["forget", "lend no", "takes one back"])
def test_a_fit_that_began_before_does_not_publish_who_left(
    place: Place, cp: CoPersona, monkeypatch: pytest.MonkeyPatch, leaves: str
) -> None:
    with place.open() as other:
        acts: dict[str, Callable[[], Any]] = {
            "forget": lambda: other.forget("ola"),
            "lend no": lambda: other.set_consent("ola", lend="no"),
            "takes one back": lambda: other.remove("ola", "ola-0"),
        }
        before(monkeypatch, pipeline, "fit_rows", acts[leaves])
        report = cp.fit()
    assert report.state == artifacts.current(cp._root, "default")
    assert report.n_interactions == 4 * len(NAMES) - (1 if leaves == "takes one back" else 4)
    assert ("ola" in cp.state().lenders) is (leaves == "takes one back")
    if leaves == "forget":
        assert "ola" not in lenders_in_every_state(cp)


def test_who_only_says_more_meanwhile_is_not_fitted_twice(
    place: Place, cp: CoPersona, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = pipeline.fit_rows
    monkeypatch.setattr(pipeline, "fit_rows", lambda *a: calls.append(1) or real(*a))
    with place.open() as other:
        before(monkeypatch, pipeline, "fit_rows", lambda: other.add(
            [Interaction("ola", "More?", "More soup.", id="new")]))  # fmt: skip
        cp.fit()
    assert calls == [1]


# ---- processes die -------------------------------------------------------------------------------

STEPS = {
    "before the tombstone": (Store, "forget", "before"),
    "after tombstone and rows": (Store, "forget", "after"),
    "before the state is published": (States, "publish", "before"),
    "after the state is published": (States, "publish", "after"),
    "before old states are removed": (States, "remove", "before"),
    "between two old states": (States, "remove", "after"),
    "before it is crossed out": (Departures, "finish", "before"),
}


def forget_and_die(place: Place, user: str, step: str) -> None:
    owner, name, when = STEPS[step]
    real = getattr(owner, name)

    def dies(*args: Any, **options: Any) -> None:
        if when == "after":
            real(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    def forget() -> None:
        with place.open() as cp:
            setattr(owner, name, dies)
            cp.forget(user)

    assert ended(begin(forget)) == -signal.SIGKILL


def check_gone(cp: CoPersona, user: str) -> None:
    assert lenders_in_every_state(cp) == set(NAMES) - {user}
    assert cp.store.departures.under_way("default") == frozenset()
    assert cp.store.integrity() == []
    assert cp.doctor() == []
    receipt = cp.forget(user)  # once more: there is nothing to find
    assert (receipt.traces_found, receipt.states_removed) == ((), ())


@pytest.mark.parametrize("step", list(STEPS))
def test_a_forget_that_was_killed_is_completed_by_the_next_one(place: Place, step: str) -> None:
    forget_and_die(place, "ola", step)
    with place.open() as cp:
        is_forgotten = step != "before the tombstone"
        assert (cp.store.history("default", "ola") == []) is is_forgotten
        if is_forgotten:  # served to nobody from the tombstone on
            cp.prompt("alma", "How is the bread?")
            assert "ola" not in {one for one in cp.state().lenders if cp.policy().lends(one)}
            assert "ola" not in str(cp.export_user("alma").traces)
        assert cp.forget("ola").traces_found == ()
        check_gone(cp, "ola")


@pytest.mark.parametrize("step", list(STEPS)[1:])
def test_a_forget_that_was_killed_is_completed_by_a_repair(place: Place, step: str) -> None:
    forget_and_die(place, "ola", step)
    with place.open() as cp:
        assert cp.doctor() == ["1 users are forgotten and not yet out of every fitted state; "
                               "`copersona repair` completes it"]  # fmt: skip
        with pytest.raises(DataError, match="still being forgotten"):
            cp.readmit("ola")
        assert cp.repair() == 1
        assert cp.repair() == 0
        check_gone(cp, "ola")
        cp.readmit("ola")


def test_a_forget_that_was_killed_is_completed_by_somebody_elses(place: Place) -> None:
    forget_and_die(place, "ola", "after tombstone and rows")
    with place.open() as cp:
        assert cp.forget("vito").traces_found == ()
        assert lenders_in_every_state(cp) == set(NAMES) - {"ola", "vito"}


def test_where_nobody_is_left_a_repair_leaves_no_state(place: Place) -> None:
    with place.open() as cp:
        for name in NAMES[1:]:
            cp.set_consent(name, lend="no")
    forget_and_die(place, NAMES[0], "after tombstone and rows")
    with place.open() as cp:
        assert cp.repair() == 1
        assert artifacts.versions(cp._root, "default") == []
        with pytest.raises(NotFittedError):
            cp.state()


def test_a_second_user_who_leaves_after_a_kill_keeps_the_first_in_mind(
    place: Place, cp: CoPersona
) -> None:
    forget_and_die(place, "ola", "after tombstone and rows")
    take_out(cp.store, "default", cp._states, "vito",
             lambda found, history: cp._desk(found).own_corpus(history), strict=False)  # fmt: skip
    assert len(cp.store.departures.under_way("default")) == 1


# ---- pseudonyms ----------------------------------------------------------------------------------


def test_every_process_gives_the_same_pseudonyms(place: Place, tmp_path: Path) -> None:
    def name_peers(path: Path) -> None:
        with place.open() as cp:
            evidence = cp.prompt("nobody", "How is the bread?").evidence
            path.write_text(" ".join(sorted(one.author for one in evidence)))

    files = [tmp_path / "first", tmp_path / "second"]
    assert [ended(begin(partial(name_peers, path))) for path in files] == [0, 0]
    first, second = (path.read_text() for path in files)
    assert first == second
    assert first.startswith("peer-")


def test_pseudonyms_differ_between_namespaces_and_stores(cp: CoPersona, tmp_path: Path) -> None:
    with copersona.open(tmp_path / "other.db", encoder="hashing") as other:
        keys = [cp.store.pseudonym_key("default"), cp.store.pseudonym_key("bank"),
                other.store.pseudonym_key("default")]  # fmt: skip
    assert len(set(keys)) == 3
    assert keys[0] == cp.store.pseudonym_key("default")
