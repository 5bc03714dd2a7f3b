"""The look after a forget: it claims nothing that is somebody else's, and misses no real trace."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import copersona
from copersona import Consent, CoPersona, Interaction, artifacts
from copersona.erasing import forgetting
from copersona.erasing.byte_search import Matcher, find_bytes
from copersona.erasing.forgetting import needles_of, scan
from copersona.erasing.remains import (
    Grave,
    Held,
    asking,
    graves_of,
    held_in_rows,
    held_in_store,
    rows_left,
    states_below,
)
from copersona.storage.schema import content_hash
from copersona.storage.store import Store

NEIGHBOURS = ("alma", "sal", "kim", "ola", "vito", "wen")
MEALS = ("soup", "bread", "rice", "stew", "salad", "pie")
TRIPS = ("Lisbon", "Oslo", "Turin", "Ghent", "Riga", "Split")
SHARED = "Everything with garlic, always, and no salt at all please."


def rows_of(user: str, number: int = 0) -> list[Interaction]:
    """Six interactions; every text names its number, so that no two users share one."""
    cooked = [
        Interaction(user, f"How do you make {meal}?", f"{meal} take {number}: stir it {n} times.",
                    id=f"{user}-{n}", item=meal, rating=float(n), at=n)
        for n, meal in enumerate(MEALS[:3], start=1)
    ]  # fmt: skip
    gone = [
        Interaction(user, f"How do you get to {trip}?", f"{trip} leg {number}: by train {n}.",
                    id=f"{user}-{n}", label="train", at=n, thread="trips")
        for n, trip in enumerate(TRIPS[:3], start=4)
    ]  # fmt: skip
    return cooked + gone


def opened(folder: Path, namespace: str = "default") -> CoPersona:
    return copersona.open(folder / "s.db", namespace=namespace, encoder="hashing")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forgetting")
    with opened(folder) as cp:
        for number, user in enumerate(NEIGHBOURS):
            cp.add(rows_of(user, number))
            cp.set_consent(user, lend="text")
    return folder


@pytest.fixture
def cp(template: Path, tmp_path: Path) -> Iterator[CoPersona]:
    shutil.copytree(template, tmp_path / "copy")
    with opened(tmp_path / "copy") as found:
        yield found


def joined(cp: CoPersona, user: str, rows: list[Interaction] | None = None) -> list[Interaction]:
    """The user among the others: stored, lending text, fitted, and traced."""
    cp.add(rows if rows is not None else rows_of(user, 77))
    cp.set_consent(user, lend="text")
    cp.fit()
    cp.prompt(user, "How do you make bread?")
    cp.prompt("alma", f"Is there a statement of {user} on everything?")
    return cp.store.history(cp.namespace, user)


def looked(cp: CoPersona, user: str, history: list[Interaction]) -> list[str]:
    """Names of the files that a second look claims."""
    return [Path(path).name for path in scan(cp.store, cp._root, user, history)[0]]


def raw(cp: CoPersona) -> sqlite3.Connection:
    connection = sqlite3.connect(cp._root.with_name("s.db"), isolation_level=None)
    connection.execute("PRAGMA secure_delete=OFF")
    return connection


# ---- what is somebody else's is never claimed ----------------------------------------------------


@pytest.mark.parametrize(
    "user",
    ["al", "a", "12", "3", "bread", "train", "everything", "statement", "text", "default",
     "lenders", "interactions", "exclamation marks", "population", "alma-1", "peer-", "agreement"],
)  # fmt: skip
def test_an_id_that_stands_in_other_words_is_no_trace(cp: CoPersona, user: str) -> None:
    joined(cp, user, [replace(row, id=f"x{row.id}") for row in rows_of(user, 77)])
    receipt = cp.forget(user)
    assert receipt.traces_found == ()
    assert receipt.scanned >= 4
    assert user not in cp.state().lenders


def test_texts_that_others_hold_too_are_no_trace(cp: CoPersona) -> None:
    cp.add([Interaction("alma", "Well?", SHARED), Interaction("sal", "So?", f"He said: {SHARED}")])
    own = [replace(row, user="al", id=f"al-{row.id}") for row in rows_of("alma", 0)]
    joined(cp, "al", [*own, Interaction("al", "Well?", SHARED), Interaction("al", "Hm", "Yes")])
    assert cp.forget("al").traces_found == ()
    assert SHARED in {i.response for i in cp.store.history("default", "alma")}


def test_the_same_id_in_another_namespace_is_somebody_else(cp: CoPersona, tmp_path: Path) -> None:
    with opened(tmp_path / "copy", "other") as other:
        for number, user in enumerate(("al", *NEIGHBOURS)):
            other.add(rows_of(user, number))
            other.set_consent(user, lend="text")
        other.fit()
        other.prompt("al", "How do you make bread?")
        joined(cp, "al")
        assert cp.forget("al").traces_found == ()
        assert "al" in other.state().lenders
        assert len(other.store.history("other", "al")) == 6


def test_the_look_reads_as_much_whether_or_not_somebody_elsewhere_has_the_id(
    cp: CoPersona, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Held] = []

    def noted(*given: Any) -> Iterator[Held]:
        for one in held_in_store(*given):
            read.append(one)
            yield one

    monkeypatch.setattr(forgetting, "held_in_store", noted)
    with opened(tmp_path / "copy", "other") as other:
        other.add(rows_of("henrietta-of-elsewhere", 5))
    counts = []
    for user in ("henrietta-of-elsewhere", "somebody-nobody-knows"):
        read.clear()
        looked(cp, user, [])
        counts.append(len(read))
    assert counts[0] == counts[1] > 6


def test_another_store_in_the_same_folder_is_not_looked_at(cp: CoPersona, tmp_path: Path) -> None:
    history = joined(cp, "quillon")
    with Store.open(tmp_path / "copy" / "s.db2") as beside:
        beside.add("default", history)
        assert cp.forget("quillon").traces_found == ()


# ---- a real trace is never missed ----------------------------------------------------------------


def test_a_row_left_in_the_database_is_found_whatever_the_id(cp: CoPersona) -> None:
    history = joined(cp, "al")
    cp.forget("al")
    with closing(raw(cp)) as connection:
        (alma,) = connection.execute("SELECT id FROM users WHERE name = 'alma'").fetchone()
    payload = json.dumps({"user": "al", "text": "soup"}, separators=(",", ":"))
    with closing(raw(cp)) as connection:
        place = connection.execute("SELECT id FROM namespaces").fetchone()
        connection.execute(
            "INSERT INTO traces (namespace_id, user_id, trace_id, payload) VALUES (?, ?, 't', ?)",
            (*place, alma, payload),
        )
    assert looked(cp, "al", history) == ["s.db"]


def test_a_vector_of_a_text_that_only_another_namespace_has_is_found(cp: CoPersona) -> None:
    history = joined(cp, "al")
    cp.store.add("other", [replace(history[0], user="vito")])
    cp.forget("al")
    assert looked(cp, "al", history) == []
    with closing(raw(cp)) as connection:
        row = (content_hash(history[0].response), "hashing", b"\0" * 8)
        connection.execute(
            "INSERT INTO embeddings SELECT id, ?, ?, ? FROM namespaces WHERE name = 'default'", row
        )
    assert looked(cp, "al", history) == ["s.db"]


def test_pages_that_were_freed_but_not_overwritten_are_found_and_rewritten(
    cp: CoPersona, tmp_path: Path
) -> None:
    long = " ".join(f"step {n} of the dough" for n in range(2_000))
    cp.add([Interaction("al", "How?", long, id="1")])
    history = cp.store.history("default", "al")
    with closing(raw(cp)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("DELETE FROM users WHERE name = 'al'")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    cp.store.forget("default", "al")
    file = tmp_path / "copy" / "s.db"
    assert file.read_bytes().count(b"of the dough") > 1_000
    assert looked(cp, "al", history) == []
    assert b"of the dough" not in file.read_bytes()


def test_what_a_held_up_log_keeps_is_found(cp: CoPersona) -> None:
    history = joined(cp, "al")
    reader = cp.store.export("default")
    next(reader)
    found = {Path(path).name for path in cp.forget("al").traces_found}
    assert found & {"s.db", "s.db-wal"}
    assert list(reader)
    assert looked(cp, "al", history) == []


def test_a_state_that_lists_the_user_is_found(cp: CoPersona, tmp_path: Path) -> None:
    history = joined(cp, "al")
    (home,) = [path.parent for path in cp._root.rglob("current")]
    shutil.copytree(home / str(artifacts.current(cp._root, "default")), tmp_path / "old")
    assert cp.forget("al").traces_found == ()
    shutil.copytree(tmp_path / "old", home / "000001-00000000")
    assert looked(cp, "al", history) == ["arrays.safetensors"]


@pytest.mark.parametrize("left", ["hashed ids", "quotable ids"])
def test_an_interaction_id_left_in_a_state_is_found(cp: CoPersona, left: str) -> None:
    history = joined(cp, "al")
    before = cp._required()
    assert cp.forget("al").traces_found == ()
    _, state, items, words, _ = cp._required()
    if left == "hashed ids":
        state = replace(state, fitted_ids=before[1].fitted_ids)
    else:
        items = replace(items, ids=(*items.ids[:-1], history[0].id))
    cp._states.publish(state, items, words)
    assert looked(cp, "al", history) == ["arrays.safetensors"]


def test_words_of_the_user_alone_are_found_in_any_file_and_spelling(cp: CoPersona) -> None:
    said = 'Grüße:\n"never" with ostrich, says Anna'
    history = joined(cp, "al", [Interaction("al", "Well?", said, id="1"), *rows_of("al", 77)])
    cp.forget("al")
    stray = cp._root / "notes.json"
    for spelt in (said, json.dumps({"x": said}), json.dumps({"x": said}, ensure_ascii=False)):
        stray.write_text(f"[[{spelt}]]", "utf-8")
        assert looked(cp, "al", history) == ["notes.json"]
    stray.write_text("[[nothing]]")
    assert looked(cp, "al", history) == []


def test_a_page_from_the_middle_of_a_long_text_is_found(cp: CoPersona) -> None:
    long = " ".join(f"step {n} of the dough" for n in range(2_000))
    history = joined(cp, "al", [Interaction("al", "How?", long, id="1"), *rows_of("al", 77)])
    assert cp.forget("al").traces_found == ()
    (cp._root / "page").write_bytes(b"\0" * 64 + long.encode()[20_000:24_000])
    assert looked(cp, "al", history) == ["page"]


def test_an_instruction_left_behind_is_found_if_it_is_named(cp: CoPersona) -> None:
    history = joined(cp, "al")
    cp.forget("al")
    (cp._root / "page").write_text("Never mention the walrus to me.")
    assert looked(cp, "al", history) == []
    said = ["Never mention the walrus to me."]
    found, _ = scan(cp.store, cp._root, "al", history, said=said, namespace="default")
    assert [Path(path).name for path in found] == ["page"]


# ---- on either database -------------------------------------------------------------------------


@pytest.fixture
def either(url: str, tmp_path: Path) -> Iterator[CoPersona]:
    with copersona.open(url, encoder="hashing", state_dir=tmp_path / "states") as cp:
        for number, user in enumerate(NEIGHBOURS):
            cp.add(rows_of(user, number))
        joined(cp, "quillon")
        yield cp


def test_rows_left_behind_are_found_in_either_database(either: CoPersona) -> None:
    history = either.store.history("default", "quillon")
    assert either.forget("quillon").traces_found == ()
    place = "store.db" if either.store.dialect == "sqlite" else "table {}"
    with either.store._database.writing() as connection:
        values = {"payload": json.dumps({"user": "quillon", "text": "soup"}),
                  "hash": content_hash(history[0].response), "vector": b"0" * 8}  # fmt: skip
        connection.execute(
            sa.text(
                "INSERT INTO traces (namespace_id, user_id, trace_id, payload) "
                "SELECT namespace_id, id, 't', :payload FROM users WHERE name = 'alma'"
            ),
            values,
        )
        connection.execute(
            sa.text(
                "INSERT INTO embeddings (namespace_id, hash, encoder, vector) "
                "SELECT id, :hash, 'hashing', :vector FROM namespaces"
            ),
            values,
        )
    assert looked(either, "quillon", history) == sorted(
        {place.format("embeddings"), place.format("traces")}
    )


def test_the_look_holds_a_small_part_of_what_others_have(either: CoPersona) -> None:
    words = "x" * 2_000
    either.add(Interaction(f"other{n}", response=f"{n} {words}") for n in range(1_000))
    for n in range(1_000):
        either.store.put_trace("default", "alma", f"t{n}", {"user": "alma", "text": words})
    grave = Grave(1, "default", b"nobody's mark")

    def look() -> None:
        assert rows_left(either.store.ask, "nobody", [grave], (), ()) == []
        assert sum(1 for _ in held_in_rows(either.store.export("default"))) > 1_000

    look()
    tracemalloc.start()
    try:
        look()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1_000 * len(words)


def test_the_receipt_says_what_was_looked_at_and_what_cannot_be(either: CoPersona) -> None:
    receipt = either.forget("quillon")
    is_file = either.store.dialect == "sqlite"
    assert any("bytes of the database file" in one for one in receipt.searched) is is_file
    assert any("PostgreSQL server" in one for one in receipt.unsearched) is not is_file
    assert any("fitted state" in one for one in receipt.searched)


# ---- the parts ----------------------------------------------------------------------------------

WRITER = """
import sys
from copersona import Interaction
from copersona.storage.store import Store
with Store.open(sys.argv[1]) as store:
    store.add("default", [Interaction("ola", response="from elsewhere", id=sys.argv[2])])
    print(store.n_interactions("default"))
"""


def test_the_look_does_not_give_up_the_locks_of_the_database(cp: CoPersona, tmp_path: Path) -> None:
    """A process that opened and closed the file itself would: others then remove the log."""
    file = str(tmp_path / "copy" / "s.db")

    def elsewhere(name: str) -> int:
        done = subprocess.run([sys.executable, "-c", WRITER, file, name], capture_output=True,
                              text=True, check=True)  # fmt: skip
        return int(done.stdout)

    n = cp.store.n_interactions("default")
    looked(cp, "al", rows_of("al"))
    assert elsewhere("e1") == n + 1
    cp.add([Interaction("ola", response="from here", id="h1")])
    assert elsewhere("e2") == n + 3


def test_tombstones_tell_in_which_namespaces_a_user_was_forgotten(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db", default_consent=Consent()) as store:
        for namespace in ("one", "two", "three"):
            store.add(namespace, rows_of("al"))
        store.forget("one", "al")
        store.forget("three", "al")
        with asking(tmp_path / "s.db") as past_the_store:
            for ask in (past_the_store, store.ask):
                found = graves_of(ask, "al")
                assert [grave.namespace for grave in found] == ["one", "three"]
                assert graves_of(ask, "sal") == ()


def test_short_words_are_not_looked_for_and_hashes_are() -> None:
    needles = needles_of("al", [Interaction("al", "Tea?", "Yes", id="7")], (), ())
    assert all(len(needle.data) >= 8 for needle in needles)
    assert content_hash("Yes") in {needle.data for needle in needles if needle.kind == "mark"}
    assert not [needle for needle in needles if needle.kind in ("name", "words", "short")]


def test_needles_are_found_wherever_they_lie(tmp_path: Path) -> None:
    needles = [b"12345678", b"a needle of some length", b"another at the very end", b"not there"]
    data = b"x" * 3 + needles[0] + bytes(range(256)) * 50 + needles[1] + b"." + needles[2]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(data)
    (tmp_path / "empty").touch()
    findings = find_bytes([tmp_path, tmp_path / "gone"], needles)
    assert findings.n_read == 2
    assert findings.found == {str(tmp_path / "deep" / "file"): (0, 1, 2)}
    assert Matcher(needles).found_in(data[:40]) == {0}
    with pytest.raises(ValueError, match="under 8 bytes"):
        Matcher([b"short"])


def test_a_folder_that_is_no_state_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "manifest.json").write_text("{")
    assert list(states_below(tmp_path)) == []


def test_a_state_that_is_deleted_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts.publish(tmp_path, "n", {}, {})
    (gone,) = (path.parent for path in tmp_path.rglob("manifest.json"))
    artifacts.publish(tmp_path, "other", {}, {})
    scandir = os.scandir

    def racing(path: str = ".") -> Any:
        if Path(path) == gone:
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", racing)
    assert [state.namespace for state in states_below(tmp_path)] == ["other"]
