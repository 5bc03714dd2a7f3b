"""What is left in the files after erasing: raw bytes, not what the store says.

Of SQLite alone: the files of a PostgreSQL server are out of reach; `test_forgetting` looks at its
rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from copersona.records import Consent, Interaction
from copersona.storage.store import Store


@pytest.fixture
def file_store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "file.db") as opened:
        yield opened


def said(user: str, text: str, id: str = "", **fields: Any) -> Interaction:
    return Interaction(user=user, response=text, id=id or f"{user}/{text}", **fields)


def bytes_on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def full_user(name: str) -> list[Interaction]:
    long = f"{name}-long " * 2_000
    fields = {"item": f"{name}-item", "label": f"{name}-label", "metadata": {"k": f"{name}-meta"}}
    return [
        Interaction(user=name, input=f"{name}-asked", response=f"{name}-said", id=f"{name}-1"),
        said(name, long, id=f"{name}-2", thread=f"{name}-thread", facet=f"{name}-facet", **fields),
    ]


def test_forget_leaves_no_byte_on_disk(file_store: Store, tmp_path: Path) -> None:
    names = [f"person{number:03d}" for number in range(40)]
    for number, name in enumerate(names):
        file_store.add("n", full_user(name))
        file_store.add_instruction("n", name, f"{name}-instruction")
        file_store.put_trace("n", name, f"t{number}", {"text": f"{name}-trace"})
    file_store.correct("n", "person007", "person007-1", response="person007-corrected")
    assert b"person007" in bytes_on_disk(tmp_path)
    assert file_store.forget("n", "person007").is_scrubbed
    left = bytes_on_disk(tmp_path)
    assert b"person007" not in left
    assert b"person008-said" in left


@pytest.mark.parametrize("how", ["remove", "correct", "expire", "consent"])
def test_every_way_of_erasing_leaves_no_byte(file_store: Store, tmp_path: Path, how: str) -> None:
    file_store.add("n", [said("u", "planted secret", id="1", at=1.0), said("v", "kept", id="2")])
    assert b"planted secret" in bytes_on_disk(tmp_path)
    erase = {
        "remove": lambda: file_store.remove("n", "u", "1"),
        "correct": lambda: file_store.correct("n", "u", "1", response="clean"),
        "expire": lambda: file_store.expire("n", older_than=2.0),
        "consent": lambda: file_store.set_consent("n", "u", Consent(remember=False)),
    }
    erase[how]()
    assert b"planted secret" not in bytes_on_disk(tmp_path)
    assert b"kept" in bytes_on_disk(tmp_path)


def test_a_reader_holds_up_scrubbing_and_forget_says_so(file_store: Store, tmp_path: Path) -> None:
    file_store.add("n", [said("u", "planted secret", id="1"), said("v", "x")])
    snapshot = file_store.export("n")
    assert next(snapshot).user == "u"
    assert not file_store.forget("n", "u").is_scrubbed
    assert [row.user for row in snapshot] == ["v"]
    assert file_store.scrub()
    assert b"planted secret" not in bytes_on_disk(tmp_path)
