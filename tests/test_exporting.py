"""Export: everything there is, readable again without this package and by it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copersona import Consent, CoPersona, Interaction
from copersona.errors import DataError
from copersona.exporting import UserExport, export_namespace, open_export
from copersona.interactions import check
from copersona.reading.readers import read
from copersona.records import RowOutcome
from copersona.storage.usage_log import Usage
from demo_people import PEOPLE, ROWS, opened

CONTROL = "[\x00-\x1f\x7f-\x9f\u2028\u2029]"

FULL = Interaction(
    user="zoë 'x'", input="Which tea?\nline two", response="the grün one \U0001f375",
    item="tea-7", rating=4.25, label="liked", at=1_700_000_000.125, facet="drinks", thread="t-1",
    metadata={"tags": ["a", None, True], "deep": {"n": 12, "f": 0.1}}, source="made-up.csv",
)  # fmt: skip


@pytest.fixture
def cp(url: str, tmp_path: Path) -> Iterator[CoPersona]:
    if "://" in url:
        (tmp_path / "one" / "url").write_text(url)
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


@pytest.mark.parametrize("name", ["interactions.jsonl", "interactions.parquet"])
def test_rare_fields_survive_an_export(cp: CoPersona, tmp_path: Path, name: str) -> None:
    folder = cp.export(tmp_path / "export")
    with opened(tmp_path / "two") as fresh:
        fresh.ingest(folder / name)
        assert replace(fresh.store.history("default", FULL.user)[0], id="") == FULL
        assert list(fresh.store.export("default")) == list(cp.store.export("default"))


def test_an_export_read_again_in_either_form_adds_nothing(cp: CoPersona, tmp_path: Path) -> None:
    folder = cp.export(tmp_path / "export")
    for name in ("interactions.jsonl", "interactions.parquet", "interactions.jsonl"):
        report = cp.ingest(folder / name)
        assert (report.stored, report.duplicates, report.rejected) == (0, len(ROWS) + 4, ())


def test_an_export_of_an_import_is_the_same_export(cp: CoPersona, tmp_path: Path) -> None:
    cp.set_consent("kofi", lend="text", train=True)
    cp.set_consent("vera", learn=False)
    for text in ("Always grams – never cups.", 'Say "du"\nto me.'):
        cp.instruct("ines", text)
    for name in ("ines-phone", "Ines"):
        cp.alias("ines", name)
    first = cp.export(tmp_path / "first")
    found = open_export(first)
    with opened(tmp_path / "two") as fresh:
        assert fresh.ingest(found.rows).stored == found.n_interactions
        for user, consent in found.consents.items():
            fresh.set_consent(user, **asdict(consent))
        for user, said in found.instructions.items():
            for text in said:
                fresh.instruct(user, text)
        for user, names in found.aliases.items():
            for name in names:
                fresh.alias(user, name)
        second = fresh.export(tmp_path / "second")
    for name in ("interactions.jsonl", "consent.json", "instructions.json", "aliases.json",
                 "manifest.json"):  # fmt: skip
        assert (first / name).read_bytes() == (second / name).read_bytes()


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
ODD = TEXTS | st.sampled_from(
    ["", " ", "\n", "a\r\nb", "\u2028x\u2029", "\x85\x1c", '"', "\\", "null", "NaN", "1e9", "🍵",
     "e\u0301", "\ufeffbom", "x" * 70_000, "2018-05-31", "{}", "[]", ","]
)  # fmt: skip
MAYBE = st.none() | ODD
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | ODD,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(ODD, part, max_size=2),
    max_leaves=6,
)
METADATA = st.dictionaries(ODD, JSON, max_size=3)
ROWS_OF_ANY_KIND = st.builds(
    Interaction, user=ODD.map(lambda text: "u " + re.sub(CONTROL, "?", text)[:500]), input=ODD,
    response=ODD, item=MAYBE, rating=st.none() | NUMBERS, label=MAYBE, at=st.none() | NUMBERS,
    facet=MAYBE, thread=MAYBE, metadata=METADATA, source=MAYBE, id=ODD,
).filter(lambda row: bool((row.input + row.response).strip()))  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(ROWS_OF_ANY_KIND, min_size=1, max_size=4))
def test_whatever_may_be_stored_reads_back_to_the_letter(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Interaction]
) -> None:
    assert [check(row) for row in rows] == rows
    folder = export_namespace(tmp_path_factory.mktemp("any") / "out", "n", rows, {}, [])
    assert list(read(folder / "interactions.jsonl")) == rows
    table = [row for row in read(folder / "interactions.parquet") if isinstance(row, Interaction)]
    assert table == rows


def test_a_row_of_an_export_that_was_changed_is_refused_alone(tmp_path: Path) -> None:
    folder = export_namespace(tmp_path / "out", "n", [FULL] * 6, {}, [])
    lines = (folder / "interactions.jsonl").read_text("utf-8").splitlines()
    changes: list[dict[str, object]] = [
        {"metadata": "[1]"}, {"metadata": "{"}, {"shelf": "x"}, {"response": "nul \0"},
        {"rating": "4"},
    ]  # fmt: skip
    for n, change in enumerate(changes, start=1):
        lines[n] = json.dumps(json.loads(lines[n]) | change)
    (folder / "interactions.jsonl").write_text("\n".join(lines), "utf-8")
    first, *rest = read(folder / "interactions.jsonl")
    assert first == FULL
    found = [(row.line, row.field) for row in rest if isinstance(row, RowOutcome)]
    assert found == [(2, "metadata"), (3, "metadata"), (4, None), (5, "response"), (6, "rating")]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("manifest.json", None, "cannot be read"),
        ("manifest.json", "{", "broken JSON"),
        ("manifest.json", "{}", "not the manifest"),
        ("consent.json", "[]", "must be a JSON object"),
        ("consent.json", '{"ann": {"lend": "no"}}', "remember, learn, lend, train"),
        ("consent.json", '{"ann": {"remember": 1, "learn": true, "lend": "no", "train": true}}',
         "true or false"),
        ("consent.json", '{"a": {"remember": true, "learn": true, "lend": [], "train": true}}',
         "true or false"),
        ("instructions.json", '{"ann": "one"}', "list of texts"),
        ("aliases.json", '{"ann": [1]}', "list of texts"),
    ],
)  # fmt: skip
def test_a_damaged_export_says_which_file(
    tmp_path: Path, name: str, content: str | None, reason: str
) -> None:
    folder = export_namespace(tmp_path / "out", "n", [FULL], {}, [])
    assert open_export(folder).n_interactions == 1
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(DataError, match=reason) as caught:
        open_export(folder)
    assert caught.value.source == str(folder / name)


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


def test_of_every_user_it_has_all_that_their_own_export_has(cp: CoPersona, tmp_path: Path) -> None:
    cp.fit()
    cp.instruct("quiet", "Only grams.")
    cp.alias("ines", "ines-phone")
    for user in ("ines", "kofi", "visitor"):
        cp.feedback(cp.prompt(user, "Which tea?").trace_id, "reject", note=f"No, {user}: milk.")
    cp.store.usage.add("default", "kofi", Usage("k1", "m", "2026-05-31", 10, 3, 2, 0))
    folder = cp.export(tmp_path / "export")
    fields = [field.name for field in dataclasses.fields(UserExport)]
    others = [name for name in fields if name not in ("user", "consent", "interactions")]
    there = {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in others}
    for user in ("ines", "kofi", "visitor", "quiet", "vera"):
        own = asdict(cp.export_user(user))
        for name in others:
            expected = json.loads(json.dumps(own[name], default=bytes.hex))
            assert there[name].get(user, type(expected)()) == expected, name
    assert [sorted(there[name]) for name in others] == [
        ["quiet"], ["ines", "kofi", "visitor"], ["ines"], ["ines", "kofi", "visitor"], ["kofi"],
    ]  # fmt: skip


def test_only_its_own_namespace_is_exported(cp: CoPersona, tmp_path: Path) -> None:
    with opened(tmp_path / "one", namespace="other") as other:
        other.add([Interaction("kofi", "q", "another kofi")])
        folder = other.export(tmp_path / "export")
    assert (folder / "interactions.jsonl").read_text().count("\n") == 1


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "there"
    target.mkdir()
    export_namespace(target, "n", [FULL], {}, [])
    before = (target / "interactions.jsonl").read_bytes()
    with pytest.raises(DataError, match="not an empty folder"):
        export_namespace(target, "n", [], {}, [])
    with pytest.raises(DataError, match="not an empty folder"):
        export_namespace(target / "manifest.json", "n", [], {}, [])
    assert (target / "interactions.jsonl").read_bytes() == before
