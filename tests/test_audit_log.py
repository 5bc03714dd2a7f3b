"""The audit log as rows: kept in order, by namespace and user, for a time."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from copersona import Interaction
from copersona.storage.audit_log import AuditLine
from copersona.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "s.db") as opened:
        for namespace in ("n", "m"):
            opened.add(namespace, [Interaction("ana", response="hello", id="1")])
        yield opened


def line(store: Store, at: float, *users: str, namespace: str = "n") -> AuditLine:
    marks = tuple(sorted(store.audit.mark(namespace, user) for user in users))
    return AuditLine(at, namespace, "key", "add", marks, is_allowed=at < 9)


def test_lines_come_back_newest_first_by_namespace_user_and_time(store: Store) -> None:
    lines = [line(store, 1, "ana"), line(store, 2, "bo", "ana"), line(store, 3), line(store, 9)]
    store.audit.append([*lines, line(store, 4, "ana", namespace="m")])
    assert store.audit.lines("n") == lines[::-1]
    assert store.audit.lines("n", user="ana") == [lines[1], lines[0]]
    assert store.audit.lines("n", user="ana", since=2) == [lines[1]]
    assert store.audit.lines("n", limit=1) == lines[3:]
    assert [one.at for one in store.audit.lines("m")] == [4]
    assert store.audit.lines("nowhere") == []


def test_old_lines_go_with_their_marks(store: Store, tmp_path: Path) -> None:
    store.audit.append([line(store, at, "ana") for at in (1, 2, 3)])
    assert store.audit.expire(2.5) == 2
    assert [one.at for one in store.audit.lines("n")] == [3]
    with sqlite3.connect(tmp_path / "s.db") as connection:
        assert connection.execute("select count(*) from audit_marks").fetchone() == (1,)
    connection.close()


def test_a_forgotten_user_leaves_lines_that_hold_no_name(store: Store) -> None:
    store.audit.append([line(store, 1, "ana")])
    store.forget("n", "ana")
    (kept,) = store.audit.lines("n", user="ana")
    assert kept.marks == (store.audit.mark("n", "ana"),)
    assert "ana" not in str(kept)


APPENDED_THEN_KILLED = """
import os, signal, sys
from copersona.storage.audit_log import AuditLine
from copersona.storage.store import Store

store = Store.open(sys.argv[1])
store.audit.append([AuditLine(1.0, "n", "key", "add", ("0f",), True)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_line_survives_the_end_of_its_process(store: Store, tmp_path: Path) -> None:
    command = [sys.executable, "-c", APPENDED_THEN_KILLED, str(tmp_path / "s.db")]
    assert subprocess.run(command, check=False).returncode == -9
    assert [one.marks for one in store.audit.lines("n")] == [("0f",)]
