"""Export: everything there is, readable again without this package and by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from copersona import Consent, CoPersona, Interaction
from copersona.errors import DataError
from copersona.exporting import export_namespace
from demo_people import PEOPLE, ROWS, opened

FULL = Interaction(
    user="zoë 'x'", input="Which tea?\nline two", response="the grün one \U0001f375",
    item="tea-7", rating=4.25, label="liked", at=1_700_000_000.125, facet="drinks", thread="t-1",
    metadata={"tags": ["a", None, True], "deep": {"n": 12, "f": 0.1}}, source="made-up.csv",
)  # fmt: skip


@pytest.fixture
def cp(tmp_path: Path) -> Iterator[CoPersona]:
    with opened(tmp_path / "one") as cp:
        cp.ingest(PEOPLE)
        cp.add([FULL, FULL, Interaction("only-input", "Just this.", source="app"),
                Interaction("r", "", "That", source="app")])  # fmt: skip
        yield cp


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()


def test_an_export_gives_the_same_rows_in_a_fresh_store(cp: CoPersona, tmp_path: Path) -> None:
    folder = cp.export(tmp_path / "export")
    with opened(tmp_path / "two") as fresh:
        report = fresh.ingest(folder / "interactions.jsonl")
        assert (report.stored, report.rejected) == (len(ROWS) + 4, ())
        again = list(fresh.store.export("default"))
    before = list(cp.store.export("default"))
    assert [row.id for row in again] == [row.id for row in before]
    assert [row for row in again if row.user != FULL.user] == [
        row for row in before if row.user != FULL.user
    ]


@pytest.mark.xfail(reason="columns that are empty in the first rows are not guessed; nested "
                          "metadata is not read")  # fmt: skip
def test_rare_fields_survive_an_export(cp: CoPersona, tmp_path: Path) -> None:
    folder = cp.export(tmp_path / "export")
    with opened(tmp_path / "two") as fresh:
        fresh.ingest(folder / "interactions.jsonl")
        assert replace(fresh.store.history("default", FULL.user)[0], id="") == FULL


def test_parquet_and_jsonl_hold_the_same_rows(cp: CoPersona, tmp_path: Path) -> None:
    folder = cp.export(tmp_path / "export")
    lines = (folder / "interactions.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    table = pq.read_table(folder / "interactions.parquet").to_pylist()
    for row in table:
        row["metadata"] = json.loads(row["metadata"])
    assert table == records
    assert len(records) == json.loads((folder / "manifest.json").read_text())["n_interactions"]


def test_parquet_can_be_ingested_too(cp: CoPersona, tmp_path: Path) -> None:
    folder = cp.export(tmp_path / "export")
    with opened(tmp_path / "two") as fresh:
        assert fresh.ingest(folder / "interactions.parquet").stored == len(ROWS) + 4
        ids = [i.id for i in fresh.store.export("default")]
    assert ids == [i.id for i in cp.store.export("default")]


def test_consents_and_instructions_are_part_of_it(cp: CoPersona, tmp_path: Path) -> None:
    cp.set_consent("kofi", lend="text")
    cp.instruct("ines", "Always grams – never cups.")
    folder = cp.export(tmp_path / "export")
    consents = json.loads((folder / "consent.json").read_text("utf-8"))
    assert {user: Consent(**given) for user, given in consents.items()} == {
        "kofi": Consent(lend="text")
    }
    said = json.loads((folder / "instructions.json").read_text("utf-8"))
    assert said == {"ines": ["Always grams – never cups."]}


def test_only_its_own_namespace_is_exported(cp: CoPersona, tmp_path: Path) -> None:
    with opened(tmp_path / "one", namespace="other") as other:
        other.add([Interaction("kofi", "q", "another kofi")])
        folder = other.export(tmp_path / "export")
    assert (folder / "interactions.jsonl").read_text().count("\n") == 1


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "there"
    target.mkdir()
    export_namespace(target, "n", [FULL], {}, {})
    before = (target / "interactions.jsonl").read_bytes()
    with pytest.raises(DataError, match="not an empty folder"):
        export_namespace(target, "n", [], {}, {})
    with pytest.raises(DataError, match="not an empty folder"):
        export_namespace(target / "manifest.json", "n", [], {}, {})
    assert (target / "interactions.jsonl").read_bytes() == before
