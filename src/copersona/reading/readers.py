"""Files to interactions: every row comes out once, as an interaction or as a rejected row.

The format is found from the content and the file is read as a stream: `containers` gives records,
`nested` flattens those that hold many interactions, `columns` maps each row. A row that cannot be
read is reported with its line and field and the rest is kept; only a file of which nothing can be
read is an error. This module knows no store and no ids.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from copersona.errors import ConfigError, DataError
from copersona.interactions import check
from copersona.reading.columns import (
    ColumnMap,
    Row,
    RowMapper,
    as_text,
    exported,
    guess_columns,
)
from copersona.reading.containers import (
    Flaw,
    Record,
    csv_records,
    json_records,
    jsonl_records,
    parquet_records,
)
from copersona.reading.nested import (
    CHATS,
    FLAT_COLUMNS,
    Setting,
    Shape,
    detect_shape,
    flatten,
    has_owner,
)
from copersona.records import Interaction, RowOutcome

Container = Literal["csv", "jsonl", "json", "parquet"]

# What `format` may be: a kind of file, the shape of its records being found, or a shape outright.
FORMATS: Mapping[str, tuple[Container | None, Shape | None]] = {
    "csv": ("csv", None),
    "tsv": ("csv", None),
    "jsonl": ("jsonl", None),
    "json": ("json", None),
    "parquet": ("parquet", None),
    "export": (None, "export"),
    "lamp": (None, "lamp"),
    "pgraphrag": (None, "pgraphrag"),
    "openai": (None, "openai"),
    "messages": (None, "messages"),
    "sharegpt": (None, "sharegpt"),
    "mem0": (None, "mem0"),
    "zep": (None, "zep"),
}
SAMPLE_ROWS = 100
SEARCHED_ROWS = 10_000

_HEAD_BYTES = 2**16
_DELIMITERS = ",\t;|"
_JSON_SUFFIXES: Mapping[str, Container] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
_FOREIGN = {
    b"\x1f\x8b": "gzip: unpack it first",
    b"PK\x03\x04": "a zip archive or a spreadsheet: save it as CSV first",
    b"\x28\xb5\x2f\xfd": "zstandard: unpack it first",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8 first",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8 first",
    b"SQLite format 3": "an SQLite database",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """How one file is going to be read.

    Attributes:
        columns: the column of each field; of the flattened rows where records are nested.
        delimiter: between the fields of a CSV file.
        user: whose rows these are where they do not say.
        golds: answers of a LaMP outputs file, by question id.
        accepts_derived: whether what a memory product derived counts as the user's own words.
    """

    path: Path
    container: Container
    shape: Shape
    columns: ColumnMap
    delimiter: str = ","
    user: str = ""
    golds: Mapping[str, object] = field(default_factory=dict)
    accepts_derived: bool = False

    def describe(self) -> str:
        """One line to print: the format, and for tables which column was taken for what."""
        told = self.columns.describe() if self.shape == "table" else self.shape
        return f"{self.path.name} ({self.container}): {told}"

    def records(self) -> Iterator[Record | Flaw]:
        """The records of the file, from its beginning."""
        if self.container == "csv":
            return csv_records(self.path, self.delimiter)
        if self.container == "jsonl":
            return jsonl_records(self.path)
        return json_records(self.path) if self.container == "json" else parquet_records(self.path)


def inspect(
    path: str | Path,
    *,
    columns: ColumnMap | None = None,
    format: str | None = None,
    user: str | None = None,
    outputs: str | Path | None = None,
    accept_derived: bool = False,
) -> Layout:
    """Find out how a file is to be read, from its first rows.

    Args:
        path: the file.
        columns: columns that are not to be guessed; see `ColumnMap`.
        format: one of `FORMATS`, where the content alone does not tell.
        user: whose rows these are where the file has no user ids.
        outputs: file with the answers to a LaMP question file.
        accept_derived: take what a memory product derived with a model as the user's own words.

    Raises:
        DataError: no such file, empty, not readable, or a user or text that cannot be found.
        ConfigError: unknown format.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    container, shape = FORMATS[format] if format else (None, None)
    try:
        head = _head(path)
        delimiter = "\t" if format == "tsv" else _delimiter(head)
        found = container or _container(path, head)
        layout = Layout(path, found, shape or "table", FLAT_COLUMNS, delimiter, user or "")
        sample = _sample(layout)
        shape = shape or _shape(sample[0], columns)
        golds = _golds(Path(outputs)) if outputs is not None else {}
        _check_owner(shape, sample, user)
        fitting = _columns(shape, sample, columns, needs_user=not user)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", source=str(error.filename)) from error
    except DataError as error:
        raise _located(error, path) from error
    return Layout(path, found, shape, fitting, delimiter, user or "", golds, accept_derived)


def read(
    path: str | Path,
    *,
    columns: ColumnMap | None = None,
    format: str | None = None,
    user: str | None = None,
    outputs: str | Path | None = None,
    accept_derived: bool = False,
) -> Iterator[Interaction | RowOutcome]:
    """Every row of a file in its order: an interaction without id, or a rejected row.

    Arguments and errors are those of `inspect`, which is done before this returns.
    """
    return rows(
        inspect(
            path, columns=columns, format=format, user=user, outputs=outputs,
            accept_derived=accept_derived,
        )
    )  # fmt: skip


def rows(layout: Layout) -> Iterator[Interaction | RowOutcome]:
    """Every row of an inspected file in its order.

    Raises:
        DataError: the file became unreadable on the way.
    """
    mapper = RowMapper(layout.columns, source=layout.path.name, user=layout.user)
    convert = exported if layout.shape == "export" else mapper.interaction
    index = -1
    try:
        for number, record in enumerate(layout.records(), start=1):
            for row in _rows_of(record, number, layout, convert):
                index += 1
                yield row if isinstance(row, Interaction) else _rejected(row, index, layout.path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", source=str(layout.path)) from error


def _rows_of(
    record: Record | Flaw, number: int, layout: Layout, convert: Callable[[Row], Interaction]
) -> Iterator[Interaction | Flaw]:
    if isinstance(record, Flaw):
        yield record
        return
    thread = f"{layout.path.name}#{number}"
    setting = Setting(layout.user, thread, layout.golds, layout.accepts_derived)
    try:
        for row in flatten(layout.shape, record.values, setting):
            if isinstance(row, Flaw):
                yield replace(row, line=record.line)
            else:
                yield _interaction(row, record.line, convert)
    except DataError as error:
        yield Flaw(error.reason, record.line, error.field)


def _interaction(
    row: Row, line: int | None, convert: Callable[[Row], Interaction]
) -> Interaction | Flaw:
    try:
        return check(convert(row))
    except DataError as error:
        return Flaw(error.reason, line, error.field)


def _rejected(flaw: Flaw, index: int, path: Path) -> RowOutcome:
    return RowOutcome(
        index=index,
        status="rejected",
        reason=flaw.reason,
        field=flaw.field,
        source=str(path),
        line=flaw.line,
    )


def _located(error: DataError, path: Path) -> DataError:
    source = error.source or str(path)
    return DataError(error.reason, source=source, line=error.line, field=error.field)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    for magic, kind in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"looks like {kind}")
    if not head.removeprefix(b"\xef\xbb\xbf").strip():
        raise DataError("the file is empty")
    return head


def _container(path: Path, head: bytes) -> Container:
    """The kind of file, from its content; the name decides only where the content does not."""
    suffix = path.suffix.lower()
    if head.startswith(b"PAR1"):
        return "parquet"
    if suffix in (".parquet", ".pq"):
        raise DataError("not a Parquet file, or a damaged one")
    text = head.decode("utf-8-sig", "replace").lstrip()
    if text.startswith("["):
        return "json"
    if text.startswith("{"):
        return _object_or_lines(text, suffix)
    return _JSON_SUFFIXES.get(suffix, "csv")


def _object_or_lines(text: str, suffix: str) -> Container:
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) == 1:
        return _JSON_SUFFIXES.get(suffix, "jsonl")
    return "jsonl" if any(map(_is_object, lines)) or suffix in (".jsonl", ".ndjson") else "json"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _delimiter(head: bytes) -> str:
    """The character that cuts the first rows into the most even number of fields."""
    lines = head.decode("utf-8-sig", "replace").splitlines(keepends=True)
    sample = lines[:-1] if len(head) == _HEAD_BYTES and len(lines) > 1 else lines
    return max(_DELIMITERS, key=lambda delimiter: _evenness(sample, delimiter))


def _evenness(lines: list[str], delimiter: str) -> tuple[float, int]:
    widths: list[int] = []
    try:
        widths.extend(len(fields) for fields in csv.reader(lines, delimiter=delimiter) if fields)
    except csv.Error:
        widths.append(0)
    if not widths or widths[0] < 2:
        return (0.0, 0)
    return (widths.count(widths[0]) / len(widths), widths[0])


def _sample(layout: Layout) -> list[Row]:
    """The first records, wherever flaws lie between them."""
    sample: list[Row] = []
    first_flaw: Flaw | None = None
    for record in islice(layout.records(), SEARCHED_ROWS):
        if isinstance(record, Flaw):
            first_flaw = first_flaw or record
            continue
        sample.append(record.values)
        if len(sample) == SAMPLE_ROWS:
            break
    if not sample and first_flaw is not None:
        message = f"no row can be read; the first: {first_flaw.reason}"
        raise DataError(message, line=first_flaw.line, field=first_flaw.field)
    if not sample:
        raise DataError("the file has no rows")
    return sample


def _columns(
    shape: Shape, sample: list[Row], given: ColumnMap | None, *, needs_user: bool
) -> ColumnMap:
    if shape != "table":
        return FLAT_COLUMNS
    names = dict.fromkeys(name for row in sample for name in row)
    return guess_columns(list(names), sample, given, needs_user=needs_user)


def _shape(record: Row, given: ColumnMap | None) -> Shape:
    """What is flat is read as the table it also is where columns are named."""
    shape = detect_shape(record)
    is_given = given is not None and given != ColumnMap()
    return "table" if shape in ("export", "mem0") and is_given else shape


def _check_owner(shape: Shape, sample: list[Row], user: str | None) -> None:
    if shape in CHATS and not user and not any(map(has_owner, sample)):
        message = "this chat export has no user ids: say whose words these are with `user`"
        raise DataError(message, field="user")


def _golds(path: Path) -> dict[str, object]:
    """Answers by question id, of a LaMP outputs file."""
    golds: dict[str, object] = {}
    for record in json_records(path):
        entry = record.values if isinstance(record, Record) else {}
        if not {"id", "output"} <= entry.keys():
            message = "not a LaMP outputs file: entries need `id` and `output`"
            raise DataError(message, source=str(path))
        golds[as_text(entry["id"], "id")] = entry["output"]
    return golds
