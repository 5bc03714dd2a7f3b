"""The registry of systems: every way to personalise that can be put to the test, by name.

A system is a class made once with a `World` and a seed, with a method `predict`; `@register` is its
one line. Systems of other people are named `module:Class` and registered by being imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from copersona.contenders.world import World
from copersona.errors import ConfigError
from copersona.tasks.cases import Kind, System

Family = Literal["baseline", "ladder", "dual", "control", "ablation", "yours"]
Make = Callable[[World, int], System]

TEXT: frozenset[Kind] = frozenset({"text", "answer"})
VOTES: frozenset[Kind] = frozenset({"label", "rating"})
ANY: frozenset[Kind] = TEXT | VOTES


@dataclass(frozen=True)
class Entry:
    """One registered system.

    Attributes:
        source: where the idea is from, and what was left out of it.
        is_random: its predictions depend on the seed.
    """

    name: str
    family: Family
    source: str
    make: Make
    kinds: frozenset[Kind]
    is_random: bool = False


SYSTEMS: dict[str, Entry] = {}


def register(
    name: str,
    *,
    source: str,
    family: Family = "yours",
    kinds: frozenset[Kind] = TEXT,
    is_random: bool = False,
) -> Callable[[Make], Make]:
    """Decorator that makes a system known under a name.

    Raises:
        ConfigError: another system has that name.
    """

    def add(make: Make) -> Make:
        known = SYSTEMS.get(name)
        if known is not None and known.make is not make:
            raise ConfigError(f"there is a system {name!r} already")
        SYSTEMS[name] = Entry(name, family, source, make, kinds, is_random)
        return make

    return add


def find_systems(names: Sequence[str]) -> list[Entry]:
    """Systems by name, by family, `family.*`, or `module:Class`; in the order of the registry.

    Raises:
        ConfigError: nothing has that name, or the module cannot be imported.
    """
    chosen: dict[str, Entry] = {}
    for name in names:
        found = _imported(name) if ":" in name else _named(name)
        chosen.update({entry.name: entry for entry in found})
    places = {name: place for place, name in enumerate(SYSTEMS)}
    return sorted(chosen.values(), key=lambda entry: places[entry.name])


def _named(name: str) -> list[Entry]:
    found = [
        entry for entry in SYSTEMS.values() if name in ("all", entry.name, f"{entry.family}.*")
    ]
    if not found:
        raise ConfigError(f"no system is called {name!r}; known: {', '.join(SYSTEMS)}")
    return found


def _imported(name: str) -> list[Entry]:
    module, _, attribute = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{name}: cannot be imported: {error}") from error
    found = [entry for entry in SYSTEMS.values() if entry.make is make]
    if not found:
        raise ConfigError(f"{name}: not registered; put @register(…) above it")
    return found
