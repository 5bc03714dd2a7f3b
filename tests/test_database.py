from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from copersona.errors import MigrationError, StoreError
from copersona.records import Interaction
from copersona.storage import migrations
from copersona.storage.database import Database
from copersona.storage.key_ring import KeptKey
from copersona.storage.schema import namespaces
from copersona.storage.store import Store, content_hash
from databases import database


@pytest.fixture
def file_store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "file.db") as opened:
        yield opened


def said(user: str, text: str, id: str = "", **fields: Any) -> Interaction:
    return Interaction(user=user, response=text, id=id or f"{user}/{text}", **fields)


def test_a_newer_schema_is_refused(url: str) -> None:
    with Store.open(url) as store, store._database.writing() as connection:
        connection.exec_driver_sql(f"update {migrations.VERSION_TABLE} set version_num = '9999'")
    with pytest.raises(MigrationError, match=r"'9999', newer .* upgrade copersona"):
        Store.open(url)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    with database("postgresql", tmp_path, is_migrated=False) as foreign:
        engine = sa.create_engine(sa.make_url(foreign).set(drivername="postgresql+psycopg"))
        with engine.begin() as connection:
            connection.exec_driver_sql("create table recipes (title text)")
        engine.dispose()
        with pytest.raises(StoreError, match=r"another program.*recipes"):
            Store.open(foreign)


def test_what_is_no_store_is_refused_with_the_reason(tmp_path: Path) -> None:
    text, foreign = tmp_path / "notes.txt", tmp_path / "foreign.db"
    text.write_text("these are notes, not a database\n" * 50)
    with sqlite3.connect(foreign) as connection:
        connection.execute("create table recipes (title text)")
    connection.close()
    refusals = {
        text: "not a database",
        foreign: "another program.*recipes",
        tmp_path: "unable to open",
        tmp_path / "missing" / "x.db": "cannot create",
        "mysql://host/db": "no store",
        "sqlite://": "memory",
        ":memory:": "memory",
        "://": "cannot be read",
    }
    for url, reason in refusals.items():
        with pytest.raises(StoreError, match=reason):
            Store.open(url)
    with pytest.raises(StoreError, match="no database at"):
        Store.open(tmp_path / "absent.db", create=False)
    assert text.read_text().startswith("these are notes")
    assert not (tmp_path / "absent.db").exists()


def test_a_new_file_is_its_owners_only(file_store: Store, tmp_path: Path) -> None:
    file_store.add("n", [said("u", "x")])
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"file.db": 0o600, "file.db-wal": 0o600, "file.db-shm": 0o600}
    assert file_store.url == f"sqlite:///{tmp_path}/file.db"


def test_the_marks_key_survives_reopening(url: str, tmp_path: Path) -> None:
    with Store.open(url) as store:
        store.forget("n", "u")
    with Store.open(url if "://" in url else f"sqlite:///{url}") as store:
        assert store.add("n", [said("u", "x")])[0].status == "rejected"
        store.add("n", [said("v", "x")])
    with Store.open(url) as store, Store.open(tmp_path / "b.db") as other:
        mine, theirs = store.keys.marks("n", ["u"]), other.keys.marks("n", ["u"])
    assert mine != theirs


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.users("n")


def test_a_full_disk_loses_nothing_and_writes_no_half(file_store: Store) -> None:
    file_store.add("n", [said("u", "before")])

    def shrink_disk(connection: Any, *_: object) -> None:
        connection.execute("PRAGMA max_page_count=80").close()

    event.listen(file_store._database._engine, "checkout", shrink_disk)
    with pytest.raises(StoreError, match="full") as caught:
        file_store.add("n", [said("w", "filler " * 500, id=str(n)) for n in range(2_500)])
    assert isinstance(caught.value.__cause__, sa.exc.OperationalError)
    assert "filler" not in str(caught.value)
    assert file_store.users("n") == ["u"]
    assert file_store.integrity() == []
    assert file_store.add("n", [said("u", "after")])[0].status == "stored"


def test_integrity_finds_planted_faults(store: Store) -> None:
    store.add("n", [said("u", "x", id="1"), said("v", "y", id="2")])
    store.add("other", [said("w", "z")])
    store.put_embeddings("n", "enc", [content_hash("x")], np.zeros((1, 3), np.float16))
    assert store.integrity() == []
    with store._database.writing() as connection:
        connection.exec_driver_sql("update interactions set namespace_id = 2 where id = '1'")
        connection.exec_driver_sql("insert into tombstones select mark from users where name = 'v'")
    found = "\n".join(store.integrity())
    assert "1 interactions in another namespace" in found
    assert "1 embeddings of texts nobody has" in found
    assert "1 users still there although forgotten" in found


def test_integrity_finds_a_row_without_an_owner(file_store: Store, tmp_path: Path) -> None:
    """Of SQLite alone: PostgreSQL lets nobody write such a row."""
    with sqlite3.connect(tmp_path / "file.db") as connection:
        connection.execute("insert into instructions (user_id, text) values (99, 'orphan')")
    connection.close()
    assert file_store.integrity() == ["instructions: row 1 has no users"]


_WAITS = {
    "sqlite": ("PRAGMA synchronous", 1, 2),
    "postgresql": ("SHOW synchronous_commit", "off", "on"),
}


def test_a_hurried_transaction_is_whole_and_the_next_one_waits_for_the_disk(url: str) -> None:
    database = Database.open(url, create=True)
    asked, hurried, durable = _WAITS[database.dialect]
    twice = sa.insert(namespaces).values([{"name": "undone", "revision": 0}] * 2)
    with pytest.raises(StoreError), database.writing(durable=False) as connection:
        connection.execute(twice)
    with database.writing(durable=False) as connection:
        connection.execute(sa.insert(namespaces).values(name="kept", revision=0))
        assert connection.exec_driver_sql(asked).scalar() == hurried
    with database.writing() as connection:
        assert connection.exec_driver_sql(asked).scalar() == durable
        assert connection.scalars(sa.select(namespaces.c.name)).all() == ["kept"]
    database.close()


LATER_TABLES = (
    "api_keys", "departures", "backups", "trace_items", "feedback_items", "feedback", "aliases",
    "usage", "jobs", "audit_marks", "audit_lines",
)  # fmt: skip
"""What later steps made, in the order in which it can be dropped."""


def test_a_store_of_the_first_version_is_brought_up_to_this_one(url: str) -> None:
    with Store.open(url) as store:
        store.add("n", [said("ana", "kept")])
        (mark,) = store.keys.marks("n", ["ana"])
        with store._database.writing() as connection:  # as the first step left it
            for table in LATER_TABLES:
                connection.exec_driver_sql(f"drop table {table}")
            connection.exec_driver_sql(
                f"update {migrations.VERSION_TABLE} set version_num = '0001'"
            )
    with Store.open(url) as store:
        assert [row.response for row in store.history("n", "ana")] == ["kept"]
        store.keys.add(KeptKey("k", "n", b"hash", frozenset({"read", "write"}), mark, 1.5))
        assert store.keys.find("k") == store.keys.all("n")[0]
        assert store.integrity() == []
