"""Files as streams of records: CSV, JSON lines, JSON and Parquet, with what could not be read.

Each reader yields a `Record` (names to values) or a `Flaw` (what is wrong, and where) for every
row of the file, in its order, and goes on after a flaw wherever the format allows. Memory stays
bounded by one row, not by the file, except for a JSON file that is one single object. This module
does not know what the records mean.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from copersona.errors import DataError

# A longer line or list entry is not a row; nor is a quoted field that never ends.
MAX_LINE_BYTES = 64 * 2**20
MAX_FIELD_CHARACTERS = 16 * 2**20

_CHUNK_BYTES = 2**18
_BATCH_ROWS = 2_048
_SEPARATORS = re.compile(r"[\s,]*")
# A list under one of these names belongs to one record and is not a list of records.
_RECORD_LISTS = frozenset({"messages", "conversations", "profile"})
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True, slots=True)
class Record:
    """One row: values by name, and its line in the file where lines count (from 1)."""

    values: Mapping[str, object]
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Flaw:
    """One row, or the rest of a file, that could not be read."""

    reason: str
    line: int | None = None
    field: str | None = None


def csv_records(path: Path, delimiter: str) -> Iterator[Record | Flaw]:
    """Rows of a table whose first row names the columns.

    Raises:
        DataError: the first row cannot be read.
    """
    # The limit is the process's; it is only ever raised, so that 10 MB are read and then refused.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARACTERS))
    with path.open("rb") as file:
        rows = _csv_rows(_Lines(file), delimiter)
        header = next((row for row in rows if isinstance(row, Flaw) or row[1]), None)
        if header is None or isinstance(header, Flaw):
            reason = header.reason if header else "no row with the names of the columns"
            raise DataError(reason, source=str(path), line=1)
        names = _unique(header[1])
        for row in rows:
            if isinstance(row, Flaw):
                yield row
            elif row[1]:
                yield _csv_record(names, *row)


def jsonl_records(path: Path) -> Iterator[Record | Flaw]:
    """One JSON object a line; blank lines are skipped."""
    with path.open("rb") as file:
        lines = _Lines(file)
        for text in lines:
            flaw = lines.take_flaw()
            if flaw is not None:
                yield Flaw(flaw, lines.number)
            elif text.strip():
                yield _json_record(text, lines.number)


def json_records(path: Path) -> Iterator[Record | Flaw]:
    """Entries of a JSON list, or of the one list of objects in a JSON object, or that object."""
    with path.open("rb") as file:
        texts = _Texts(file)
        if texts.peek() == "[":
            yield from _list_records(texts)
            return
    yield from _object_records(path)


def parquet_records(path: Path) -> Iterator[Record | Flaw]:
    """Rows of a Parquet file; timestamps become seconds since 1970.

    Raises:
        DataError: not a Parquet file, damaged, or of a kind that cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield from _batch_records(_with_seconds(batch))
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"damaged Parquet file: {_first_line(error)}", source=str(path)) from error


def parse_json(text: str) -> object:
    """The value of a JSON text.

    Raises:
        DataError: not JSON, or too deep or with too long a number to be read.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"broken JSON: {error.msg} (character {error.pos})") from error
    except ValueError as error:
        raise DataError(f"broken JSON: {error}") from error
    except RecursionError as error:
        raise DataError("broken JSON: nested too deep") from error


class _Lines:
    """Lines of a binary file as text, counted, with what is wrong in them kept aside.

    Lines taken since `begin_row` are held, so that a row that turned out broken can give back all
    but its first.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.number = 0
        self._file = file
        self._offset = 0
        self._waiting: deque[tuple[str, str | None]] = deque()
        self._held: list[tuple[str, str | None]] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else self._read()
        self.number += 1
        self._held.append(line)
        return line[0]

    def begin_row(self) -> int:
        """Number of the line the next row begins on."""
        self._held.clear()
        return self.number + 1

    def take_flaw(self) -> str | None:
        """What is wrong in the lines of this row, which is then over."""
        flaw = next((flaw for _, flaw in self._held if flaw), None)
        self._held.clear()
        return flaw

    def give_back(self) -> None:
        """Put all lines of this row but the first back, to be read again."""
        rest = self._held[1:]
        self._waiting.extendleft(reversed(rest))
        self.number -= len(rest)
        self._held.clear()

    def _read(self) -> tuple[str, str | None]:
        data = self._file.readline(MAX_LINE_BYTES)
        if not data:
            raise StopIteration
        start, self._offset = self._offset, self._offset + len(data)
        if len(data) == MAX_LINE_BYTES and not data.endswith(b"\n"):
            self._skip_line()
            return "\n", f"line of over {MAX_LINE_BYTES // 2**20} MB"
        if start == 0:
            start, data = start + len(data), data.removeprefix(codecs.BOM_UTF8)
            start -= len(data)
        try:
            return data.decode("utf-8"), None
        except UnicodeDecodeError as error:
            return data.decode("utf-8", "replace"), f"not UTF-8 at byte {start + error.start}"

    def _skip_line(self) -> None:
        while data := self._file.readline(MAX_LINE_BYTES):
            self._offset += len(data)
            if data.endswith(b"\n"):
                return


def _csv_rows(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str]] | Flaw]:
    """Line and fields of each row; after a flaw, reading goes on with the next line."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = lines.begin_row()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Flaw(f"broken CSV: {error}", line)
            lines.give_back()
            continue
        flaw = lines.take_flaw()
        yield (line, fields) if flaw is None else Flaw(flaw, line)


def _csv_record(names: Sequence[str], line: int, fields: list[str]) -> Record | Flaw:
    if len(fields) != len(names):
        return Flaw(f"{len(fields)} fields where the first row names {len(names)}", line)
    return Record(dict(zip(names, fields, strict=True)), line)


def _unique(names: Sequence[str]) -> list[str]:
    """Column names as given, numbered where empty or repeated."""
    unique: list[str] = []
    for number, name in enumerate(names, start=1):
        stripped = name.strip() or f"column_{number}"
        unique.append(f"{stripped}_{number}" if stripped in unique else stripped)
    return unique


def _json_record(text: str, line: int) -> Record | Flaw:
    try:
        value = parse_json(text)
    except DataError as error:
        return Flaw(error.reason, line)
    return _record_of(value, line)


def _record_of(value: object, line: int | None) -> Record | Flaw:
    if isinstance(value, dict):
        return Record(value, line)
    return Flaw(f"a JSON object is needed, not {type(value).__name__}", line)


class _Texts:
    """A growing window on a UTF-8 file, for reading a JSON list entry by entry."""

    def __init__(self, file: BinaryIO) -> None:
        self.window = ""
        self.position = 0
        self.line = 1
        self.is_at_end = False
        self.flaw = ""
        self._file = file
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()

    def peek(self) -> str:
        """The next character that is neither blank nor a comma; empty at the end."""
        while True:
            found = _SEPARATORS.match(self.window, self.position)
            self.advance(found.end() if found else self.position)
            if self.position < len(self.window):
                return self.window[self.position]
            if not self.grow():
                return ""

    def advance(self, position: int) -> None:
        self.line += self.window.count("\n", self.position, position)
        self.position = position

    def grow(self) -> bool:
        """Read on, at least as much again as is unread; False at the end."""
        if self.is_at_end:
            return False
        self.window = self.window[self.position :]
        self.position = 0
        data = self._file.read(max(_CHUNK_BYTES, len(self.window)))
        self._offset += len(data)
        self.is_at_end = not data
        try:
            self.window += self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            at = self._offset - len(error.object) + error.start
            self.flaw = f"not UTF-8 at byte {at}; the rest was not read"
            self.window += error.object[: error.start].decode("utf-8")
            self.is_at_end = True
            return error.start > 0
        return not self.is_at_end


def _list_records(texts: _Texts) -> Iterator[Record | Flaw]:
    decoder = json.JSONDecoder()
    texts.peek()
    texts.advance(texts.position + 1)
    while (character := texts.peek()) != "]":
        entry = _next_entry(texts, decoder) if character else Flaw("the JSON list is not closed")
        if isinstance(entry, Flaw):
            yield Flaw(texts.flaw or entry.reason, texts.line)
            return
        yield _record_of(entry[0], texts.line)
        texts.advance(entry[1])


def _next_entry(texts: _Texts, decoder: json.JSONDecoder) -> tuple[Any, int] | Flaw:
    """The entry at the position and where it ends; a flaw if the file ends before it does."""
    while True:
        try:
            return decoder.raw_decode(texts.window, texts.position)
        except json.JSONDecodeError as error:
            reason = f"broken JSON: {error.msg}; the rest was not read"
        except (ValueError, RecursionError) as error:
            return Flaw(f"broken JSON: {_first_line(error)}; the rest was not read")
        is_too_long = len(texts.window) - texts.position > MAX_LINE_BYTES
        if is_too_long or not texts.grow():
            return Flaw(reason)


def _object_records(path: Path) -> Iterator[Record | Flaw]:
    try:
        value = parse_json(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        yield Flaw(f"not UTF-8 at byte {error.start}")
        return
    except DataError as error:
        yield Flaw(error.reason)
        return
    for entry in _unwrapped(value):
        yield _record_of(entry, None)


def _unwrapped(value: object) -> list[object]:
    """The rows in `{"data": [row, row, …]}`, else the value as the only row."""
    if isinstance(value, dict) and not _RECORD_LISTS & value.keys():
        lists: list[list[object]] = [part for part in value.values() if _is_rows(part)]
        if len(lists) == 1:
            return lists[0]
    return [value]


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _with_seconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Timestamps as seconds, which hold every time that a Python date does not."""
    for place, column in enumerate(batch.schema):
        if pa.types.is_timestamp(column.type):
            ticks = batch.column(place).cast(pa.int64()).cast(pa.float64(), safe=False)
            seconds = pc.divide(ticks, float(_PER_SECOND[column.type.unit]))
            batch = batch.set_column(place, column.name, seconds)
    return batch


def _batch_records(batch: pa.RecordBatch) -> Iterator[Record | Flaw]:
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):
        for place in range(batch.num_rows):
            yield _single_record(batch.slice(place, 1))
        return
    yield from map(Record, rows)


def _single_record(row: pa.RecordBatch) -> Record | Flaw:
    try:
        return Record(row.to_pylist()[0])
    except UnicodeDecodeError as error:
        return Flaw(f"not UTF-8 at byte {error.start} of a value")
    except (ValueError, OverflowError) as error:
        return Flaw(f"a value cannot be read: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
