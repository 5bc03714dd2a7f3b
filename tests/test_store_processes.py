"""The store under real processes: killed writers, two writers, readers meanwhile."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from copersona.errors import StoreError
from copersona.storage import database as of_store
from copersona.storage.store import Store
from databases import KINDS, database, drop_connections

# Adds batches of ten rows and prints each batch's number once the store has acknowledged it.
WRITER = """
import sys
from copersona.records import Interaction
from copersona.storage.store import Store

url, name, first, batches = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with Store.open(url) as store:
    for batch in range(first, first + batches):
        rows = [
            Interaction(f"{name}{n % 3}", response=f"text {batch} " * 40, id=f"{name}-{batch}-{n}")
            for n in range(10)
        ]
        outcomes = store.add("n", rows)
        assert [outcome.status for outcome in outcomes] == ["stored"] * 10, outcomes
        print(batch, flush=True)
"""


def start_writer(url: str, name: str, *, first: int = 0, batches: int) -> subprocess.Popen[str]:
    arguments = [url, name, str(first), str(batches)]
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_after(writer: subprocess.Popen[str], n_lines: int) -> list[int]:
    """Numbers of the acknowledged batches, all that were printed before the process died."""
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(n_lines)]
    writer.kill()
    rest, _ = writer.communicate()
    printed = "".join(lines) + rest
    return [int(line) for line in printed.splitlines(keepends=True) if line.endswith("\n")]


def test_a_killed_writer_loses_nothing_it_acknowledged(url: str) -> None:
    rng = random.Random(7)
    acknowledged: list[int] = []
    for round_ in range(4):
        writer = start_writer(url, "w", first=round_ * 100_000, batches=100_000)
        acknowledged += kill_after(writer, rng.randrange(1, 60))
        with Store.open(url) as store:
            kept = {row.id for row in store.export("n")}
            assert store.integrity() == []
        batches = {int(row_id.split("-")[1]) for row_id in kept}
        assert batches.issuperset(acknowledged)
        assert kept == {f"w-{batch}-{n}" for batch in batches for n in range(10)}
        # At most the one batch in flight was stored without being acknowledged.
        assert len(batches - set(acknowledged)) <= round_ + 1


@pytest.mark.parametrize("kind", KINDS)
def test_two_writers_and_a_reader_get_along(kind: str, tmp_path: Path) -> None:
    with database(kind, tmp_path, is_migrated=False) as url:  # both find nothing in it
        check_two_writers(url)


def check_two_writers(url: str) -> None:
    writers = [start_writer(url, name, batches=60) for name in ("a", "b")]
    seen = [0]
    with Store.open(url) as store:
        while any(writer.poll() is None for writer in writers):
            seen.append(sum(batch.num_rows for batch in store.columns("n")))
        errors = [writer.communicate()[1] for writer in writers]
        assert errors == ["", ""]
        assert [writer.returncode for writer in writers] == [0, 0]
        expected = {
            f"{name}-{batch}-{n}" for name in "ab" for batch in range(60) for n in range(10)
        }
        assert {row.id for row in store.export("n")} == expected
    assert seen == sorted(seen)
    assert all(count % 10 == 0 for count in seen)
    assert any(0 < count < 1_200 for count in seen)


def test_forgetting_while_another_process_writes(url: str, tmp_path: Path) -> None:
    writer = start_writer(url, "person", batches=100_000)
    assert writer.stdout is not None
    writer.stdout.readline()
    with Store.open(url) as store:
        counts = store.forget("n", "person1")
        assert counts.interactions >= 3
        writer.wait(timeout=10)
        _, errors = writer.communicate()
        assert "forgotten" in errors
        assert store.users("n") == ["person0", "person2"]
        assert store.scrub() is (store.dialect == "sqlite")
    assert not any(b"person1" in file.read_bytes() for file in tmp_path.iterdir())


def test_connections_that_the_server_dropped_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once where they were idle; one just used fails once, and says that it was cut off."""
    with database("postgresql", tmp_path) as url, Store.open(url) as store:
        store.add_instruction("shop", "ana", "Be brief.")
        monkeypatch.setattr(of_store, "_IDLE_S", 600.0)
        drop_connections(url)
        with pytest.raises(StoreError):
            store.instructions("shop", "ana")
        assert store.instructions("shop", "ana") == ("Be brief.",)

        monkeypatch.setattr(of_store, "_IDLE_S", 0.0)
        drop_connections(url)
        assert store.instructions("shop", "ana") == ("Be brief.",)
