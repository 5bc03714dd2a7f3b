"""The documentation names what the code has, and stays short where it promises to."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import copersona
from copersona import errors, records

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))
MODULES = {path.stem for path in Path(copersona.__file__).parent.rglob("*.py")}
PARTS = {path.name for path in Path(copersona.__file__).parent.iterdir() if path.is_dir()}
UNBUILT = "not built yet"


def read(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def test_every_record_is_in_the_glossary() -> None:
    glossary = read("concepts.md")
    public = [
        name
        for name, value in inspect.getmembers(records, inspect.isclass)
        if dataclasses.is_dataclass(value) and value.__module__ == records.__name__
    ]
    assert len(public) > 10
    assert [name for name in public if f"`{name}`" not in glossary] == []


def test_every_error_is_in_the_error_page() -> None:
    page = read("errors.md")
    public = [
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.CoPersonaError)
    ]
    assert [name for name in public if name not in page] == []


def test_the_drawn_tree_is_the_one_in_the_code() -> None:
    drawn = re.findall(r"[├└]─ (\w+)", errors.__doc__ or "")
    assert drawn
    assert re.findall(r"[├└]─ (\w+)", read("errors.md")) == drawn


def test_glossary_words_have_one_entry_each() -> None:
    words = [
        line.split("|")[1].strip().lower()
        for line in read("concepts.md").splitlines()
        if line.startswith("| ") and not line.startswith(("| word", "|--"))
    ]
    assert len(words) > 30
    assert sorted({word for word in words if words.count(word) > 1}) == []


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_decisions_fit_on_a_page(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 40
    for part in ("**Context.**", "**Choice.**", "**Rejected.**", "**Consequences.**"):
        assert part in text
    assert re.match(r"\d{4}-[a-z0-9-]+$", path.stem)


def test_every_step_of_the_method_is_described_with_its_source() -> None:
    page = read("method.md")
    sections = re.split(r"^## Step ", page, flags=re.MULTILINE)[1:]
    assert [section.split()[0] for section in sections] == [str(step) for step in range(15)]
    assert [s.split()[0] for s in sections if "\nSource: " not in s] == []


def test_modules_named_in_the_table_of_steps_exist() -> None:
    rows = [
        line.split("|") for line in read("architecture.md").splitlines() if re.match(r"\| \d", line)
    ]
    assert len(rows) == 15
    named = {
        module for row in rows if UNBUILT not in row[3] for module in re.findall(r"`(\w+)`", row[3])
    }
    assert named - MODULES - PARTS == set()


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", path.read_text("utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert code
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code.group(1), "README.md", "exec"), names)
    names["cp"].close()
    shown = capsys.readouterr().out
    assert "request: Plan two days in Porto" in shown
