from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from copersona.errors import ConfigError, DataError
from copersona.reading.columns import ColumnMap
from copersona.reading.readers import FORMATS, inspect, read
from copersona.records import Interaction, RowOutcome

TABLE = "user,product title,review,stars\nann,Red kettle,Boils fast,4\nben,Tea pot,Drips,1\n"
CHAT = {"messages": [{"role": "assistant", "content": "Tea?"}, {"role": "user", "content": "Yes"}]}


def file_of(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def good(rows: Sequence[Interaction | RowOutcome]) -> list[Interaction]:
    return [row for row in rows if isinstance(row, Interaction)]


def rejected(rows: Sequence[Interaction | RowOutcome]) -> list[RowOutcome]:
    return [row for row in rows if isinstance(row, RowOutcome)]


def test_a_csv_file_becomes_interactions(tmp_path: Path) -> None:
    first, second = read(file_of(tmp_path, "reviews.csv", TABLE))
    assert first == Interaction(
        "ann", input="Red kettle", response="Boils fast", rating=4.0, source="reviews.csv"
    )
    assert isinstance(second, Interaction)
    assert second.user == "ben"


def same_rows(kind: str) -> bytes:
    rows = [{"user": "ann", "text": "so good"}, {"user": "ben", "text": "so, so"}]
    if kind == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    lines = [json.dumps(row) for row in rows]
    return {
        "csv": 'user,text\nann,so good\nben,"so, so"\n',
        "semicolon": "user;text\nann;so good\nben;so, so\n",
        "tab": "user\ttext\nann\tso good\nben\tso, so\n",
        "jsonl": "\n".join(lines),
        "list": json.dumps(rows, indent=2),
        "object": json.dumps({"rows": rows}, indent=2),
        "bom": "\ufeff[" + ",".join(lines) + "]",
    }[kind].encode()


@pytest.mark.parametrize(
    "kind", ["csv", "semicolon", "tab", "jsonl", "list", "object", "bom", "parquet"]
)
def test_the_format_is_found_from_the_content_whatever_the_name(tmp_path: Path, kind: str) -> None:
    rows = list(read(file_of(tmp_path, "export.txt", same_rows(kind))))
    assert [(row.user, row.response) for row in good(rows)] == [
        ("ann", "so good"),
        ("ben", "so, so"),
    ]
    assert not rejected(rows)


def test_rejected_rows_come_in_order_with_line_field_and_reason(tmp_path: Path) -> None:
    lines = [
        {"user": "ann", "text": "one"},
        {"user": "", "text": "two"},
        {"user": "ben", "text": " "},
        {"user": "ben", "text": "nul \0"},
        {"user": "ben", "text": "x" * 10_000_000},
        {"user": "ben", "text": "last", "rating": "good"},
        {"user": "ben", "text": "kept", "rating": 3},
    ]
    path = file_of(tmp_path, "in.jsonl", "\n".join(map(json.dumps, lines)) + "\n{oops\n")
    rows = list(read(path))
    assert [row.response for row in good(rows)] == ["one", "kept"]
    found = [(row.index, row.line, row.field) for row in rejected(rows)]
    assert found == [
        (1, 2, "user"),
        (2, 3, "response"),
        (3, 4, "response"),
        (4, 5, "response"),
        (5, 6, "rating"),
        (7, 8, None),
    ]
    assert {row.source for row in rejected(rows)} == {str(path)}
    assert "10,000,000 characters" in rejected(rows)[3].reason


def test_bad_csv_rows_are_rejected_and_the_rest_is_kept(tmp_path: Path) -> None:
    bad = (
        b"user,text\nann,one\nben\nben,caf\xe9\nben,a\0b\nben," + b"x" * 10_000_000 + b"\ncid,two\n"
    )
    rows = list(read(file_of(tmp_path, "in.csv", bad)))
    assert [row.response for row in good(rows)] == ["one", "two"]
    assert [row.line for row in rejected(rows)] == [3, 4, 5, 6]
    assert "not UTF-8 at byte 29" in rejected(rows)[1].reason


BAD_ROWS = [
    {"user": "ann", "text": "one", "item": "k"},
    {"user": None, "text": "nobody's", "item": "k"},
    {"user": "ben", "text": None, "item": "k"},
    {"user": "ben", "text": "nul \0 byte", "item": "k"},
    {"user": "ben", "text": "x" * 10_000_000, "item": "k"},
    {"user": "u" * 600, "text": "too long a name", "item": "k"},
    {"user": "cid", "text": "two", "item": "k"},
]


def written(folder: Path, kind: str, rows: list[dict[str, str | None]]) -> Path:
    path = folder / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        lines = [",".join(row[name] or "" for name in rows[0]) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *lines]) + "\n", "utf-8")
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if kind == "jsonl" else "[" + ",\n".join(lines) + "]")
    return path


@pytest.mark.parametrize(
    ("kind", "first_line"), [("csv", 2), ("jsonl", 1), ("json", 1), ("parquet", None)]
)
def test_the_same_bad_rows_are_rejected_in_every_kind_of_file(
    tmp_path: Path, kind: str, first_line: int | None
) -> None:
    path = written(tmp_path, kind, BAD_ROWS)
    rows = list(read(path))
    assert [(row.user, row.response) for row in good(rows)] == [("ann", "one"), ("cid", "two")]
    fields = ["user", "response", "response", "response", "user"]
    assert [row.field for row in rejected(rows)] == fields
    assert [row.index for row in rejected(rows)] == [1, 2, 3, 4, 5]
    lines = [None if first_line is None else first_line + n for n in range(1, 6)]
    assert [row.line for row in rejected(rows)] == lines
    assert {row.source for row in rejected(rows)} == {str(path)}
    assert all(len(row.reason) < 200 for row in rejected(rows))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
def test_a_file_of_bad_rows_alone_is_all_outcomes_and_no_error(tmp_path: Path, kind: str) -> None:
    rows = list(read(written(tmp_path, kind, BAD_ROWS[2:6])))
    assert len(rejected(rows)) == len(rows) == 4


def test_lines_that_are_not_utf8_or_no_objects_cost_themselves_only(tmp_path: Path) -> None:
    bad = b'{"user":"ann","text":"one"}\n{"user":"ben","text":"caf\xe9"}\n[1]\n{"user":"cid"\n'
    rows = list(read(file_of(tmp_path, "in.jsonl", bad + b'{"user":"dee","text":"two"}')))
    assert [row.user for row in good(rows)] == ["ann", "dee"]
    assert [row.line for row in rejected(rows)] == [2, 3, 4]
    assert rejected(rows)[0].reason == f"not UTF-8 at byte {bad.index(0xE9)}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \n\n", "empty"),
        (b"[]", "no rows"),
        (b"user,text\n", "no rows"),
        (b"{broken", "broken JSON"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"\xff\xfeu\x00", "UTF-16"),
        (b"PAR1 but no more", "damaged Parquet"),
        (b"text,stars\nhi,3\n", "--user COL"),
        (b"user,stars\nann,3\n", "--response COL; columns: user, stars"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no row can be read|first row|not UTF-8|no rows"),
    ],
)
def test_a_file_of_which_nothing_can_be_read_is_an_error_that_says_why(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = file_of(tmp_path, "in.data", content)
    with pytest.raises(DataError, match=reason) as caught:
        read(path)
    assert caught.value.source == str(path)


def test_missing_files_folders_and_false_parquet_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(DataError, match="directory"):
        read(tmp_path)
    with pytest.raises(DataError, match="not a Parquet file"):
        read(file_of(tmp_path, "x.parquet", TABLE))
    with pytest.raises(ConfigError, match="known: csv"):
        read(file_of(tmp_path, "x.csv", TABLE), format="excel")


def test_columns_can_be_given_and_the_guess_can_be_printed(tmp_path: Path) -> None:
    path = file_of(tmp_path, "in.csv", TABLE)
    assert inspect(path).describe() == (
        "in.csv (csv): user=user input=product title response=review rating=stars; unused: none"
    )
    (first, _) = read(path, columns=ColumnMap(response="product title", input="", rating=""))
    assert isinstance(first, Interaction)
    assert (first.input, first.response, first.rating) == ("", "Red kettle", None)
    assert first.metadata == {"review": "Boils fast", "stars": "4"}
    with pytest.raises(DataError, match="there is no column 'who'; columns: user, product title"):
        read(path, columns=ColumnMap(user="who"))


def test_one_user_can_be_named_for_a_whole_file(tmp_path: Path) -> None:
    (row,) = read(file_of(tmp_path, "notes.csv", "text,day\nslept badly,mon\n"), user="ann")
    assert isinstance(row, Interaction)
    assert (row.user, row.response) == ("ann", "slept badly")


def test_a_chat_export_needs_a_user_and_never_takes_the_assistants_words(tmp_path: Path) -> None:
    path = file_of(tmp_path, "chat.jsonl", json.dumps(CHAT) + "\n" + json.dumps(CHAT) + "\n")
    with pytest.raises(DataError, match="no user ids") as caught:
        read(path)
    assert caught.value.field == "user"
    rows = good(list(read(path, user="ann")))
    assert [(row.user, row.input, row.response) for row in rows] == [("ann", "Tea?", "Yes")] * 2
    assert [row.thread for row in rows] == ["chat.jsonl#1", "chat.jsonl#2"]


def test_one_broken_conversation_does_not_cost_the_others(tmp_path: Path) -> None:
    own = CHAT | {"user": "ben"}
    rows = list(read(file_of(tmp_path, "c.jsonl", "\n".join(map(json.dumps, [own, CHAT, own])))))
    assert [row.user for row in good(rows)] == ["ben", "ben"]
    assert [(row.index, row.line, row.field) for row in rejected(rows)] == [(1, 2, "user")]


def test_an_openai_export_is_read_whole(tmp_path: Path) -> None:
    def node(parent: str | None, role: str, text: str) -> dict[str, object]:
        content = {"content_type": "text", "parts": [text]}
        return {"parent": parent, "message": {"author": {"role": role}, "content": content}}

    mapping = {"a": node(None, "assistant", "Tea?"), "b": node("a", "user", "Yes")}
    export = [{"title": "t", "conversation_id": "c1", "current_node": "b", "mapping": mapping}]
    (row,) = read(file_of(tmp_path, "conversations.json", json.dumps(export)), user="ann")
    assert row == Interaction(
        "ann", input="Tea?", response="Yes", thread="c1", source="conversations.json"
    )


def test_lamp_questions_with_and_without_their_outputs(tmp_path: Path) -> None:
    entries = [{"id": "e1", "title": "On tea", "abstract": "We brew."}]
    asked = [{"id": "q1", "input": "Title for: We pour.", "profile": entries}]
    questions = file_of(tmp_path, "dev_questions.json", json.dumps(asked))
    outputs = {"task": "LaMP_5", "golds": [{"id": "q1", "output": "On pouring"}]}
    answers = file_of(tmp_path, "dev_outputs.json", json.dumps(outputs))
    (only,) = good(list(read(questions)))
    assert (only.user, only.input, only.response) == ("q1", "We brew.", "On tea")
    last = good(list(read(questions, outputs=answers)))[-1]
    assert (last.input, last.response) == ("Title for: We pour.", "On pouring")
    with pytest.raises(DataError, match="not a LaMP outputs file"):
        read(questions, outputs=questions)


def test_a_pgraphrag_split(tmp_path: Path) -> None:
    review = {"review_title": "Good", "review_text": "Boils", "overall_rating": 4, "product_id": 9}
    path = file_of(tmp_path, "dev.json", json.dumps([{"id": "ann", "profile": [review]}]))
    (row,) = good(list(read(path)))
    assert (row.user, row.response, row.item, row.rating) == ("ann", "Good\nBoils", "9", 4.0)


def test_a_named_format_is_taken_at_its_word(tmp_path: Path) -> None:
    path = file_of(tmp_path, "in.txt", "user\ttext\nann\tone, two\n")
    assert good(list(read(path, format="tsv")))[0].response == "one, two"
    with pytest.raises(DataError):
        read(path, format="jsonl")
    assert [row.field for row in rejected(list(read(path, format="lamp")))] == ["profile"]


def parquet_bytes() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"user": ["ann"] * 50, "text": ["one two"] * 50}), sink)
    return sink.getvalue()


SEEDS = (
    TABLE.encode(),
    b'user,text\nann,"open\n',
    json.dumps([CHAT, {"user": 1, "profile": [1]}]).encode(),
    b'{"user": "\\ud800", "text": [[[]]], "at": 1e999}\n{"user": {}}\n',
    b'[{"id": null, "input": 3, "profile": [{"score": {}}]}]',
    b'[{"user": "a", "mapping": {"x": {"message": {"author": {"role": "user"}}}}}]',
    parquet_bytes(),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """One of the seeds with a few bytes changed and its end perhaps cut off."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for place in draw(st.lists(st.integers(0, len(data) - 1), max_size=5)):
        data[place] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


KEYS = [
    "user", "user_id", "name", "id", "input", "output", "text", "title", "score",
    "tag", "profile", "messages", "role", "content", "parts", "conversations", "from", "value",
    "mapping", "message", "author", "parent", "current_node", "at", "rating", "metadata",
]  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["user", "gpt"])
JSON = st.recursive(
    SCALARS | st.text(max_size=5),
    lambda part: (
        st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(KEYS), part, max_size=5)
    ),
    max_leaves=25,
)
RECORDS = st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=8), max_size=4)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=st.binary(max_size=400)
    | st.text(max_size=200).map(str.encode)
    | damaged()
    | RECORDS.map(lambda records: json.dumps(records).encode()),
    suffix=st.sampled_from([".csv", ".jsonl", ".json", ".parquet"]),
    user=st.sampled_from([None, "ann"]),
    format=st.sampled_from([None, *FORMATS]),
)
@example(content=b'{"user": "a", "text": ' + b"[" * 50_000, suffix=".json", user=None, format=None)
@example(content=parquet_bytes()[:-1], suffix=".parquet", user=None, format=None)
@example(content=b'a,b\n"', suffix=".csv", user="ann", format=None)
def test_no_bytes_raise_anything_but_a_data_error(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    suffix: str,
    user: str | None,
    format: str | None,
) -> None:
    path = file_of(tmp_path_factory.getbasetemp(), f"fuzz{suffix}", content)
    try:
        rows = list(read(path, user=user, format=format))
    except DataError:
        return
    assert [row.index for row in rejected(rows)] == [
        place for place, row in enumerate(rows) if isinstance(row, RowOutcome)
    ]
