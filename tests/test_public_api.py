"""What `import copersona` shows: a small sorted list, all of it explained."""

from __future__ import annotations

import inspect
import types
from typing import Any

import pytest

import copersona
from copersona import CoPersona, CoPersonaError, errors


def public(owner: Any) -> list[str]:
    return [name for name in vars(owner) if not name.startswith("_")]


def test_all_is_sorted_and_is_what_is_visible() -> None:
    assert copersona.__all__ == sorted(copersona.__all__)
    visible = {
        name for name, value in vars(copersona).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }  # fmt: skip
    assert visible | {"__version__"} == set(copersona.__all__)


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
    verbs = {"add", "ingest", "fit", "persona", "prompt", "chat", "explain", "consent", "forget",
             "export", "doctor"}  # fmt: skip
    assert verbs <= set(public(CoPersona))


def test_every_error_is_one_of_ours() -> None:
    for name in public(errors):
        value = getattr(errors, name)
        if inspect.isclass(value):
            assert issubclass(value, CoPersonaError), name
            assert inspect.getdoc(value), name
