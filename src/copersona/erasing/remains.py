"""What is still kept after somebody was forgotten, read by another hand than the one that erased.

A database is read with plain SQL and fitted states as the files they are, without what erases and
without `artifacts`, so that a mistake made there is not repeated here. It gives two things: where a
user is listed although forgotten, and what *others* still hold, which is nobody's trace. It decides
nothing and searches no bytes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from copersona.records import Interaction
from copersona.storage.schema import user_mark

Array = NDArray[Any]
HeldAs = Literal["words", "program", "trace", "labels"]
"""Words and ids that people have, what the program itself writes, a request's trace, and the words
that name facets and labels in a fitted state."""

# Everything of these is either somebody's row, read below, or no text.
_OWN_QUERIES = ("users", "interactions", "instructions", "traces", "embeddings", "tombstones",
                "trace_quotes", "user_states", "departures", "aliases", "feedback")  # fmt: skip
_PROGRAM_META = ("config", "encoder", "views")


@dataclass(frozen=True, slots=True)
class Grave:
    """A namespace in which the user was forgotten, and the mark that the tombstone keeps."""

    namespace_id: int
    namespace: str
    mark: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes that may stand in the files and are not the forgotten user's."""

    kind: HeldAs
    data: bytes


Ask = Callable[[str, Mapping[str, Any]], Sequence[Sequence[Any]]]
"""Runs plain SQL with named values; texts may come as bytes."""


@contextmanager
def asking(database: Path) -> Iterator[Ask]:
    """An SQLite file, read past the store."""
    with closing(_connect(database)) as connection:
        yield lambda sql, values: connection.execute(sql, values).fetchall()


def graves_of(ask: Ask, user: str) -> tuple[Grave, ...]:
    """Where a tombstone stands for this user."""
    keys = [bytes(row[0]) for row in ask("SELECT value FROM store_keys", {})]
    marks = {bytes(row[0]) for row in ask("SELECT mark FROM tombstones", {})}
    names = [(number, _text(name)) for number, name in ask("SELECT id, name FROM namespaces", {})]
    return tuple(
        Grave(number, name, mark)
        for number, name in names
        for key in keys
        if (mark := user_mark(key, name, user)) in marks
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def held_in_store(
    database: Path, graves: Collection[Grave], id_hashes: Collection[bytes]
) -> Iterator[Held]:
    """All that an SQLite file holds of others.

    Args:
        id_hashes: of the forgotten user's interactions; a row that has one in a namespace of
            `graves` is the user's own, if erasing missed it.
    """
    buried = {grave.namespace_id: grave.mark for grave in graves}
    with closing(_connect(database)) as connection:
        for mark, name in connection.execute("SELECT mark, name FROM users"):
            if mark not in buried.values():
                yield Held("words", _joined((mark, name)))
        query = "SELECT users.mark, rows.* FROM {} AS rows JOIN users ON users.id = rows.user_id"
        for mark, *row in connection.execute(query.format("interactions")):
            is_own = row[1] in buried and (mark in buried.values() or row[3] in id_hashes)
            if not is_own:
                yield Held("words", _joined(row))
        for table in ("instructions", "aliases", "feedback"):
            for mark, *row in connection.execute(query.format(table)):
                if mark not in buried.values():
                    yield Held("words", _joined(row))
        for mark, _, number, _, trace_id, payload in connection.execute(query.format("traces")):
            if mark not in buried.values():
                yield from _held_in_trace(_joined((trace_id, payload)), payload, number in buried)
        yield from _held_by_program(connection)


def rows_left(
    ask: Ask,
    user: str,
    graves: Collection[Grave],
    id_hashes: Collection[bytes],
    text_hashes: Collection[bytes],
) -> list[str]:
    """Tables in which the forgotten user still has a row.

    Args:
        text_hashes: of all the user's texts; an embedding of one stays if somebody else has it.
    """
    left: set[str] = set()
    for grave in graves:
        for table in ("users", "api_keys"):
            if ask(f"SELECT 1 FROM {table} WHERE mark = :mark", {"mark": grave.mark}):
                left.add(table)
        number = grave.namespace_id
        for one in id_hashes:
            if ask(_HAS_ROW, {"namespace": number, "hash": one}):
                left.add("interactions")
        for one in text_hashes:
            if ask(_HAS_VECTOR, {"namespace": number, "hash": one}):
                left.add("embeddings")
        if user in _askers(ask, number):
            left.add("traces")
    return sorted(left)


_HAS_ROW = "SELECT 1 FROM interactions WHERE namespace_id = :namespace AND id_hash = :hash"
_HAS_VECTOR = """
    SELECT 1 FROM embeddings AS e WHERE namespace_id = :namespace AND hash = :hash
    AND NOT EXISTS (SELECT 1 FROM interactions AS i
                    WHERE i.namespace_id = e.namespace_id AND i.input_hash = e.hash)
    AND NOT EXISTS (SELECT 1 FROM interactions AS i
                    WHERE i.namespace_id = e.namespace_id AND i.response_hash = e.hash)
"""


_SOME_TRACES = """
    SELECT seq, payload FROM traces WHERE namespace_id = :namespace AND seq > :after
    ORDER BY seq LIMIT 200
"""


def _askers(ask: Ask, namespace_id: int) -> Iterator[object]:
    """Whose traces a namespace has; read in parts, since together they are large."""
    after = 0
    while found := ask(_SOME_TRACES, {"namespace": namespace_id, "after": after}):
        after = found[-1][0]
        for _, payload in found:
            trace = json.loads(payload)
            yield trace.get("user") if isinstance(trace, dict) else None


def held_in_rows(rows: Iterable[Interaction]) -> Iterator[Held]:
    """The same of interactions, where the database is no file."""
    for row in rows:
        texts = (row.user, row.id, row.input, row.response, row.item, row.label, row.facet,
                 row.thread, json.dumps(dict(row.metadata), ensure_ascii=False))  # fmt: skip
        yield Held("words", _joined(text.encode() if text else None for text in texts))


def _connect(database: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
    connection.text_factory = bytes
    return connection


def _joined(values: Iterable[Any]) -> bytes:
    """A row as it lies in the file: texts and bytes side by side; numbers are in between."""
    parts = (b"" if v is None else v if isinstance(v, bytes) else b"\0" for v in values)
    return b"".join(parts)


def _held_in_trace(data: bytes, payload: bytes, may_quote: bool) -> Iterator[Held]:
    """What the requester asked is theirs; the rest may quote whom it should not."""
    yield Held("trace" if may_quote else "words", data)
    found = json.loads(payload)
    asked = found.get("text") if isinstance(found, dict) else None
    if isinstance(asked, str):
        yield Held("words", asked.encode())
        yield Held("words", json.dumps(asked, ensure_ascii=False).encode())


def _held_by_program(connection: sqlite3.Connection) -> Iterator[Held]:
    tables = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
    for name, sql in tables:
        yield Held("program", _joined((name, sql)))
        if sql and sql.upper().startswith(b"CREATE TABLE") and name.decode() not in _OWN_QUERIES:
            quoted = name.decode().replace('"', '""')
            for row in connection.execute(f'SELECT * FROM "{quoted}"'):
                yield Held("program", _joined(row))
    for (encoder,) in connection.execute("SELECT DISTINCT encoder FROM embeddings"):
        yield Held("program", encoder)


# ---- fitted states ------------------------------------------------------------------------------


@dataclass(frozen=True)
class StateFiles:
    """One fitted state as it lies in its folder.

    Attributes:
        texts: file -> the JSON values kept in its arrays of bytes.
        numbers: file -> its arrays of long integers, among which are hashed ids.
    """

    namespace: str
    manifest: Mapping[str, Any]
    headers: tuple[bytes, ...]
    texts: Mapping[Path, tuple[Any, ...]]
    numbers: Mapping[Path, tuple[Array, ...]]

    def listing_user(self, user: str) -> list[str]:
        """Files in which the user is listed as a lender."""
        return [
            str(path)
            for path, values in self.texts.items()
            if any(isinstance(v, dict) and user in _strings(v.get("lenders")) for v in values)
        ]

    def listing_ids(self, ids: Collection[str], hashes: Collection[int]) -> list[str]:
        """Files in which any of these interaction ids stands, as text or hashed."""
        lists = {p: [v for v in values if isinstance(v, list)] for p, values in self.texts.items()}
        named = [p for p, found in lists.items() if not set(ids).isdisjoint(_strings(found))]
        wanted = np.array(sorted(hashes), np.int64)
        hashed = [p for p, arrays in self.numbers.items()
                  if any(np.isin(array, wanted).any() for array in arrays)]  # fmt: skip
        return sorted({str(path) for path in [*named, *hashed]})

    def held(self, user: str, ids: Collection[str]) -> Iterator[Held]:
        """What it holds of others than this user, whose interactions have these ids."""
        meta = self.manifest.get("meta", {})
        told = {name: meta.get(name) for name in _PROGRAM_META}
        program = {**self.manifest, "meta": told, "names": list(meta)}
        for header in (*self.headers, json.dumps(program, ensure_ascii=False).encode()):
            yield Held("program", header)
        yield Held("labels", json.dumps(meta, ensure_ascii=False).encode())
        yield Held("labels", json.dumps(meta).encode())
        own = {user, *ids}
        for text in _strings([value for values in self.texts.values() for value in values]):
            if text not in own:
                yield Held("words", json.dumps(text, ensure_ascii=False).encode("utf-8", "replace"))


def states_below(root: Path) -> Iterator[StateFiles]:
    """Every fitted state under a folder that can be read; the search of bytes has the others."""
    # Not by `rglob`, which fails where another process deletes a state meanwhile.
    for folder in sorted(folder for folder, _, names in os.walk(root) if "manifest.json" in names):
        try:
            yield _read_state(Path(folder) / "manifest.json")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue


def _read_state(path: Path) -> StateFiles:
    manifest = json.loads(path.read_bytes())
    files = {file: _Tensors.of(file) for file in sorted(path.parent.glob("*.safetensors"))}
    return StateFiles(
        manifest["namespace"],
        manifest,
        tuple(found.header for found in files.values()),
        {file: tuple(map(_parsed, found.arrays("U8"))) for file, found in files.items()},
        {
            file: tuple(np.frombuffer(data, "<i8") for data in found.arrays("I64"))
            for file, found in files.items()
        },
    )


@dataclass(frozen=True)
class _Tensors:
    """A safetensors file: eight bytes of length, a JSON header, the arrays."""

    path: Path
    header: bytes

    @classmethod
    def of(cls, path: Path) -> _Tensors:
        with path.open("rb") as file:
            return cls(path, file.read(int.from_bytes(file.read(8), "little")))

    def arrays(self, kind: str) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            for name, entry in json.loads(self.header).items():
                if name != "__metadata__" and entry["dtype"] == kind:
                    begin, end = entry["data_offsets"]
                    file.seek(8 + len(self.header) + begin)
                    yield file.read(end - begin)


def _parsed(data: bytes) -> Any:
    """A JSON value, deflated or not; None where the bytes are something else."""
    for unpack in (bytes, zlib.decompress):
        try:
            return json.loads(unpack(data).decode("utf-8", "surrogatepass"))
        except (ValueError, zlib.error):
            continue
    return None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
