"""What mem0 and Zep export: the user's own words come in, what a model derived only if accepted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from copersona.commands import cli
from copersona.errors import DataError
from copersona.interactions import parse_time
from copersona.reading.columns import ColumnMap
from copersona.reading.readers import inspect, read
from copersona.records import Interaction, RowOutcome

PAGE = (Path(__file__).parents[1] / "docs" / "formats.md").read_text("utf-8")
MEM0, ZEP = re.findall(r"^```\n(.*?)```", PAGE.split("## Memories of other")[1], re.M | re.S)[:2]
DERIVED = "derived this with a model: not the user's own words"


def written(folder: Path, content: object, name: str = "x.json") -> Path:
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return file


def rows(file: Path, **options: Any) -> tuple[list[Interaction], list[RowOutcome]]:
    found = list(read(file, **options))
    good = [row for row in found if isinstance(row, Interaction)]
    return good, [row for row in found if isinstance(row, RowOutcome)]


def memory(text: str = "Likes tea", **more: Any) -> dict[str, Any]:
    return {"id": "m1", "memory": text, "user_id": "ann", "hash": "9c", **more}


@pytest.mark.parametrize(("example", "shape"), [(MEM0, "mem0"), (ZEP, "zep")])
def test_the_examples_of_the_manual_are_recognised_and_read(
    tmp_path: Path, example: str, shape: str
) -> None:
    file = written(tmp_path, example)
    assert inspect(file).shape == shape
    (own,), (refused,) = rows(file)
    assert (own.user, own.response, own.source) == ("ann", "Green, not too hot.", shape)
    assert own.at == parse_time("2026-05-31T19:39:21Z")
    assert DERIVED in refused.reason
    assert refused.field == "response"
    both, none = rows(file, accept_derived=True, format=shape)
    assert (len(both), none) == (2, [])
    assert both[1].metadata["derived_by"] == shape
    assert "green tea" in both[1].response
    assert (both[1].input, both[1].user) == ("", "ann")


def test_in_a_zep_session_the_turn_before_is_what_was_answered(tmp_path: Path) -> None:
    (own,), _ = rows(written(tmp_path, ZEP))
    assert (own.input, own.thread) == ("Which tea?", "s1")


def test_a_zep_thread_without_role_types_goes_by_its_roles(tmp_path: Path) -> None:
    thread = {
        "messages": [
            {"uuid": "1", "role": "assistant", "name": "bot", "content": "Which tea?"},
            {"uuid": "2", "role": "user", "name": "Ann", "content": "Green.", "processed": True},
            {"uuid": "3", "role": "tool", "content": "82 °C"},
        ],
        "row_count": 3, "total_count": 3, "user_id": "ann",
    }  # fmt: skip
    file = written(tmp_path, thread)
    assert inspect(file).shape == "zep"
    (own,), refused = rows(file)
    assert (own.user, own.input, own.response, refused) == ("ann", "Which tea?", "Green.", [])


@pytest.mark.parametrize("layout", ["list", "lines", "results", "results and relations"])
def test_memories_are_read_however_they_were_saved(tmp_path: Path, layout: str) -> None:
    entries = [memory(f"Likes tea {number}", id=f"m{number}") for number in range(3)]
    content: Any = {
        "list": entries,
        "lines": "\n".join(map(json.dumps, entries)),
        "results": {"results": entries, "count": 3},
        "results and relations": {"results": entries, "relations": [{"source": "ann"}]},
    }[layout]
    file = written(tmp_path, content)
    assert inspect(file).shape == "mem0"
    assert [len(part) for part in rows(file)] == [0, 3]
    good, refused = rows(file, accept_derived=True)
    assert [row.response for row in good] == [entry["memory"] for entry in entries]
    assert refused == []


@pytest.mark.parametrize(
    ("entry", "field", "reason"),
    [
        (memory(role="assistant"), "role", "not said by the user"),
        (memory(role="user", created_at="2026-05", updated_at="2026-06"), "response", DERIVED),
        (memory(user_id=None, agent_id="a1"), "user", "of nobody in particular"),
        (memory(None), "memory", "no memory"),
        ({"id": "h1", "memory_id": "m1", "old_memory": None, "new_memory": "Likes tea",
          "event": "ADD", "user_id": "ann"}, "event", "a change of a memory"),
        (memory(role="user", created_at="whenever"), "at", "cannot read"),
        (memory(" ", role="user"), "response", ""),
    ],
)  # fmt: skip
def test_a_bad_memory_says_why_and_the_rest_is_kept(
    tmp_path: Path, entry: dict[str, Any], field: str, reason: str
) -> None:
    good = memory("Green.", id="m2", role="user")
    kept, (refused,) = rows(written(tmp_path, [good, entry]), format="mem0")
    assert [row.response for row in kept] == ["Green."]
    assert refused.field == field
    assert reason in refused.reason


@pytest.mark.parametrize(
    ("entry", "field", "reason"),
    [
        ({"fact": "Ann likes tea", "uuid": "e1"}, "response", DERIVED),
        ({"fact": "Ann likes tea", "uuid": "e1", "invalid_at": "2026-05-31"}, "invalid_at", "true"),
        ({"user_id": "ann"}, "messages", "neither messages nor facts"),
        ({"messages": "hello"}, "messages", "neither messages nor facts"),
    ],
)
def test_a_bad_fact_says_why(
    tmp_path: Path, entry: dict[str, Any], field: str, reason: str
) -> None:  # fmt: skip
    file = written(tmp_path, [entry])
    _, (refused,) = rows(file, format="zep", user="ann")
    assert refused.field == field
    assert reason in refused.reason


def test_facts_alone_need_to_be_told_whose_they_are(tmp_path: Path) -> None:
    edges = {"edges": [{"uuid": "e1", "fact": "Ann likes tea", "valid_at": "2026-05-31"}]}
    file = written(tmp_path, edges)
    with pytest.raises(DataError, match="no user ids"):
        inspect(file)
    (row,), _ = rows(file, user="ann", accept_derived=True)
    assert (row.user, row.response, row.at) == ("ann", "Ann likes tea", parse_time("2026-05-31"))


def test_with_columns_named_memories_are_an_ordinary_table(tmp_path: Path) -> None:
    file = written(tmp_path, [memory("Green.")])
    (row,), _ = rows(file, columns=ColumnMap(user="user_id", response="memory"))
    assert row.response == "Green."


def test_from_the_command_line_a_dry_run_tells_and_the_switch_takes_them(tmp_path: Path) -> None:
    file = written(tmp_path, MEM0)
    head = ["--store", str(tmp_path / "s.db"), "--encoder", "hashing", "ingest", str(file)]
    for options, stored, rejected in (
        (["--dry-run"], 1, 1), (["--format", "mem0"], 1, 1), (["--accept-derived"], 1, 0),
    ):  # fmt: skip
        result = CliRunner().invoke(cli.app, [*head, *options, "--json"])
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert (report["stored"], len(report["rejected"])) == (stored, rejected)
        assert (DERIVED in result.output) is bool(rejected)
