"""Leaving while others publish, and while processes die: nobody who was forgotten comes back."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import copersona
from copersona import CoPersona, Interaction, artifacts, pipeline
from copersona.departure import take_out
from copersona.errors import DataError, NotFittedError
from copersona.published import States

NAMES = ("alma", "ola", "vito", "wen", "kim", "sal")
THINGS = ("soup", "bread", "rice", "stew")
ENDED_BY_A_KILL = -signal.SIGKILL


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


@pytest.fixture
def place(url: str, tmp_path: Path) -> Place:
    found = Place(url, tmp_path / "states")
    with found.open() as cp:
        for name in NAMES:
            cp.add(rows_of(name))
            cp.set_consent(name, lend="text")
        cp.fit()
        cp.fit()
    return found


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


FORGETTER = """
import sys
from pathlib import Path
import copersona
with copersona.open(sys.argv[1], encoder="hashing", state_dir=Path(sys.argv[2])) as cp:
    print(flush=True)
    sys.stdin.readline()
    assert cp.forget(sys.argv[3]).traces_found == ()
"""


def test_real_processes_that_forget_at_once_lose_nobody(place: Place) -> None:
    leaving = NAMES[:4]
    processes = [
        subprocess.Popen([sys.executable, "-c", FORGETTER, place.url, str(place.root), name],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in leaving
    ]  # fmt: skip
    for one in processes:
        assert one.stdout
        one.stdout.readline()
    for one in processes:
        assert one.stdin
        one.stdin.write("\n")
        one.stdin.flush()
    for one in processes:
        one.communicate()
    assert [one.returncode for one in processes] == [0] * len(leaving)
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

KILLED = """
import os, signal, sys
from pathlib import Path
import copersona
from copersona.published import States
from copersona.storage.departures import Departures
from copersona.storage.store import Store

owner, name, when = sys.argv[4].split(".")
owner = {"Store": Store, "States": States, "Departures": Departures}[owner]
real = getattr(owner, name)

def dies(*args, **options):
    if when == "after":
        real(*args, **options)
    os.kill(os.getpid(), signal.SIGKILL)

with copersona.open(sys.argv[1], encoder="hashing", state_dir=Path(sys.argv[2])) as cp:
    setattr(owner, name, dies)
    cp.forget(sys.argv[3])
"""
STEPS = {
    "before the tombstone": "Store.forget.before",
    "after tombstone and rows": "Store.forget.after",
    "before the state is published": "States.publish.before",
    "after the state is published": "States.publish.after",
    "before old states are removed": "States.remove.before",
    "between two old states": "States.remove.after",
    "before it is crossed out": "Departures.finish.before",
}


def forget_and_die(place: Place, user: str, step: str) -> None:
    command = [sys.executable, "-c", KILLED, place.url, str(place.root), user, STEPS[step]]
    assert subprocess.run(command, check=False).returncode == ENDED_BY_A_KILL


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
            assert not cp.policy().lends("ola")
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


NAMER = """
import sys
from pathlib import Path
import copersona
with copersona.open(sys.argv[1], encoder="hashing", state_dir=Path(sys.argv[2])) as cp:
    context = cp.prompt("nobody", "How is the bread?")
    print(*sorted(one.author for one in context.evidence))
"""


def test_every_process_gives_the_same_pseudonyms(place: Place) -> None:
    command = [sys.executable, "-c", NAMER, place.url, str(place.root)]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )  # fmt: skip
    assert first == second
    assert first.startswith("peer-")


def test_pseudonyms_differ_between_namespaces_and_stores(cp: CoPersona, tmp_path: Path) -> None:
    with copersona.open(tmp_path / "other.db", encoder="hashing") as other:
        keys = [cp.store.pseudonym_key("default"), cp.store.pseudonym_key("bank"),
                other.store.pseudonym_key("default")]  # fmt: skip
    assert len(set(keys)) == 3
    assert keys[0] == cp.store.pseudonym_key("default")
