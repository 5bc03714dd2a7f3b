"""What `import copersona` shows: a small sorted list, all of it explained."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from typing import Any

import pytest

import copersona
from copersona import CoPersona, CoPersonaError, errors


def public(owner: Any) -> list[str]:
    bases = owner.__mro__[:-1] if inspect.isclass(owner) else [owner]
    return [name for base in bases for name in vars(base) if not name.startswith("_")]


def test_all_is_sorted_and_is_what_is_visible() -> None:
    assert copersona.__all__ == sorted(copersona.__all__)
    assert dir(copersona) == copersona.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        copersona.nothing  # noqa: B018 – asking is the test


def test_names_for_type_checkers_are_those_that_are_loaded() -> None:
    (block,) = (
        node for node in ast.parse(inspect.getsource(copersona)).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name)
    )  # fmt: skip
    imported = {
        alias.name: part.module
        for part in block.body if isinstance(part, ast.ImportFrom) for alias in part.names
    }  # fmt: skip
    assert {*imported, "open", "__version__"} == set(copersona.__all__)
    for name, module in imported.items():
        assert getattr(copersona, name) is getattr(importlib.import_module(str(module)), name)


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys, copersona; print(*(m for m in sys.modules if m.startswith('copersona.')))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == []


def test_the_version_is_that_of_the_package() -> None:
    assert copersona.__version__.count(".") == 2
    assert copersona.open == CoPersona.open


@pytest.mark.parametrize("name", [n for n in copersona.__all__ if n != "__version__"])
def test_every_public_name_is_explained(name: str) -> None:
    value = getattr(copersona, name)
    assert inspect.getdoc(value)
    assert value.__module__.startswith("copersona.") or inspect.ismethod(value)


def test_every_verb_is_explained_and_annotated() -> None:
    for name in public(CoPersona):
        verb = getattr(CoPersona, name)
        assert inspect.getdoc(verb), name
        if callable(verb):
            assert "return" in inspect.get_annotations(verb), name


def test_the_verbs_of_the_product_are_there() -> None:
    verbs = {"add", "ingest", "fit", "train", "persona", "prompt", "chat", "explain", "consent",
             "forget", "export", "doctor"}  # fmt: skip
    assert verbs <= set(public(CoPersona))


def test_every_error_is_one_of_ours() -> None:
    for name in public(errors):
        value = getattr(errors, name)
        if inspect.isclass(value):
            assert issubclass(value, CoPersonaError), name
            assert inspect.getdoc(value), name
