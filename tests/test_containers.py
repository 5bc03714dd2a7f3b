from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from copersona.errors import DataError
from copersona.reading import containers
from copersona.reading.containers import (
    Flaw,
    Record,
    csv_records,
    json_records,
    jsonl_records,
    parquet_records,
)


def file_of(folder: Path, content: bytes | str) -> Path:
    path = folder / "rows"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def flaws(rows: list[Record | Flaw]) -> list[tuple[int | None, str]]:
    return [(row.line, row.reason) for row in rows if isinstance(row, Flaw)]


def values(rows: list[Record | Flaw]) -> list[dict[str, object]]:
    return [dict(row.values) for row in rows if isinstance(row, Record)]


def test_csv_keeps_lines_across_quoted_breaks_and_skips_blank_ones(tmp_path: Path) -> None:
    path = file_of(tmp_path, '\ufeffa,b\r\n1,"two\nlines"\r\n\r\n3,"say ""hi"""\r\n')
    rows = list(csv_records(path, ","))
    assert values(rows) == [{"a": "1", "b": "two\nlines"}, {"a": "3", "b": 'say "hi"'}]
    assert [row.line for row in rows] == [2, 5]


def test_csv_rows_of_another_width_are_flaws(tmp_path: Path) -> None:
    rows = list(csv_records(file_of(tmp_path, "a,b\n1\n1,2\n1,2,3\n"), ","))
    assert flaws(rows) == [
        (2, "1 fields where the first row names 2"),
        (4, "3 fields where the first row names 2"),
    ]
    assert values(rows) == [{"a": "1", "b": "2"}]


def test_a_quote_that_never_closes_costs_one_row_only(tmp_path: Path) -> None:
    rows = list(csv_records(file_of(tmp_path, 'a,b\n1,"open\n2,ok\n3,ok\n'), ","))
    assert [line for line, _ in flaws(rows)] == [2]
    assert [row["a"] for row in values(rows)] == ["2", "3"]


def test_bytes_that_are_not_utf8_cost_one_row_and_say_where(tmp_path: Path) -> None:
    rows = list(csv_records(file_of(tmp_path, b"a,b\n1,caf\xe9\n2,ok\n"), ","))
    assert flaws(rows) == [(2, "not UTF-8 at byte 9")]
    assert [row["a"] for row in values(rows)] == ["2"]


def test_repeated_and_empty_column_names_are_numbered(tmp_path: Path) -> None:
    (row,) = csv_records(file_of(tmp_path, ",a,a\n1,2,3\n"), ",")
    assert isinstance(row, Record)
    assert row.values == {"column_1": "1", "a": "2", "a_3": "3"}


def test_a_line_over_the_limit_is_one_flaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_LINE_BYTES", 2**20)
    path = file_of(tmp_path, '{"a": "' + "x" * 3_000_000 + '"}\n{"a": 2}\n')
    rows = list(jsonl_records(path))
    assert flaws(rows) == [(1, "line of over 1 MB")]
    assert values(rows) == [{"a": 2}]


def test_broken_json_lines_are_flaws_with_their_line(tmp_path: Path) -> None:
    broken = ['{"a": 1}', "{oops", "", "[1]", "[" * 100_000, "9" * 5_000, '{"a": 2}']
    rows = list(jsonl_records(file_of(tmp_path, "\n".join(broken))))
    assert values(rows) == [{"a": 1}, {"a": 2}]
    assert [line for line, _ in flaws(rows)] == [2, 4, 5, 6]


def test_a_json_list_is_read_entry_by_entry_over_window_borders(tmp_path: Path) -> None:
    entries = [{"n": number, "text": "é" * 40_000} for number in range(20)]
    rows = list(json_records(file_of(tmp_path, json.dumps(entries, ensure_ascii=False, indent=1))))
    assert values(rows) == entries
    assert [row.line for row in rows[:3]] == [2, 6, 10]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[{"a": 1}, {oops}]', "the rest was not read"),
        (b'[{"a": 1}, {"a": ', "the rest was not read"),
        (b'[{"a": 1}', "not closed"),
        (b'[{"a": 1}, {"b": "\xff"}]', "not UTF-8 at byte 18"),
    ],
)
def test_a_broken_json_list_keeps_what_came_before(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    rows = list(json_records(file_of(tmp_path, content)))
    assert values(rows) == [{"a": 1}]
    assert reason in flaws(rows)[-1][1]


def test_the_one_list_in_a_json_object_is_the_rows(tmp_path: Path) -> None:
    wrapped = {"version": 2, "data": [{"a": 1}, {"a": 2}]}
    assert values(list(json_records(file_of(tmp_path, json.dumps(wrapped))))) == wrapped["data"]
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    assert values(list(json_records(file_of(tmp_path, json.dumps(chat))))) == [chat]


def test_parquet_times_are_seconds_whatever_their_unit(tmp_path: Path) -> None:
    moment = datetime(2018, 5, 31)
    columns = {
        unit: pa.array([moment, None], pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")
    }
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    first, second = values(list(parquet_records(path)))
    assert set(first.values()) == {1_527_724_800.0}
    assert set(second.values()) == {None}


def test_a_parquet_text_that_is_not_utf8_costs_one_row(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"b\xff", b"fine"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": texts}), path)
    rows = list(parquet_records(path))
    assert values(rows) == [{"a": "good"}, {"a": "fine"}]
    assert flaws(rows) == [(None, "not UTF-8 at byte 1 of a value")]


def test_a_cut_off_parquet_file_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": ["x"] * 100}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged Parquet file"):
        list(parquet_records(path))
