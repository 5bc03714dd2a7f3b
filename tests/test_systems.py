"""Systems by name: the registry that ships, and those of other people."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from copersona.contenders import baselines, dual, ladder, systems, vote_baselines
from copersona.contenders.systems import ANY, SYSTEMS, TEXT, VOTES, Entry, find_systems, register
from copersona.contenders.world import World
from copersona.errors import ConfigError
from copersona.tasks.cases import Prediction, Request

MODULE = """
from copersona.contenders.systems import register


@register("planted", source="made up")
class Planted:
    pass


class Unregistered:
    pass
"""


class Silent:
    """A system that says nothing."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world

    def predict(self, request: Request) -> Prediction:
        return Prediction()


class Mute(Silent):
    """Another one."""


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Entry]:
    """A registry of four, in the place of the real one."""
    empty: dict[str, Entry] = {}
    monkeypatch.setattr(systems, "SYSTEMS", empty)
    register("one", source="s", family="baseline")(Silent)
    register("ladder.b", source="s", family="ladder", kinds=ANY)(Mute)
    register("two", source="s", family="baseline", kinds=VOTES, is_random=True)(Mute)
    register("ladder.a", source="s", family="ladder")(Silent)
    return empty


def names(*asked: str) -> list[str]:
    return [entry.name for entry in find_systems(asked)]


def test_registration_is_one_line(registry: dict[str, Entry]) -> None:
    assert registry["two"] == Entry("two", "baseline", "s", Mute, VOTES, is_random=True)
    assert registry["one"].kinds == TEXT
    assert not registry["one"].is_random
    assert register("mine", source="s")(Silent) is Silent
    assert registry["mine"].family == "yours"


def test_systems_are_found_in_the_order_of_the_registry(registry: dict[str, Entry]) -> None:
    assert names("two", "one", "two") == ["one", "two"]
    assert names("ladder.*") == ["ladder.b", "ladder.a"]
    assert names("ladder.a", "baseline.*") == ["one", "two", "ladder.a"]
    assert names("all") == list(registry)
    assert names() == []


@pytest.mark.parametrize("unknown", ["three", "ladder", "ladder.c", "control.*", "lad*", ""])
def test_an_unknown_name_lists_the_known_ones(registry: dict[str, Entry], unknown: str) -> None:
    message = f"no system is called '{unknown}'; known: one, ladder.b, two, ladder.a"
    with pytest.raises(ConfigError) as caught:
        find_systems(["one", unknown])
    assert str(caught.value) == message


def test_a_name_is_given_once(registry: dict[str, Entry]) -> None:
    before = dict(registry)
    with pytest.raises(ConfigError, match="there is a system 'one' already"):
        register("one", source="s")(Mute)
    register("one", source="s", family="baseline")(Silent)  # a module that is loaded again
    assert registry == before


def test_others_systems_are_imported(
    registry: dict[str, Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted_systems.py").write_text(MODULE, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "planted_systems", raising=False)
    assert names("planted_systems:Planted", "one") == ["one", "planted"]
    assert names("planted_systems:Planted") == ["planted"]
    with pytest.raises(ConfigError, match=r"not registered; put @register\(…\) above it"):
        find_systems(["planted_systems:Unregistered"])
    with pytest.raises(
        ConfigError, match=r"planted_systems:Missing: cannot be imported: .*Missing"
    ):
        find_systems(["planted_systems:Missing"])


@pytest.mark.parametrize("name", ["no_such_module:Class", ":Class", "json:"])
def test_what_cannot_be_imported_is_named(registry: dict[str, Entry], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: cannot be imported"):
        find_systems([name])


def test_the_registry_is_whole() -> None:
    modules = {m.__name__ for m in (baselines, dual, ladder, vote_baselines)}
    ours = [entry for entry in SYSTEMS.values() if entry.family != "yours"]
    assert {e.family for e in ours} == {"baseline", "ladder", "dual", "control", "ablation"}
    assert {e.make.__module__ for e in ours if isinstance(e.make, type)} == modules
    for entry in ours:
        assert SYSTEMS[entry.name] is entry
        assert entry.source
        assert entry.kinds <= ANY
        assert entry.kinds
        head = entry.name.partition(".")[0]
        if entry.family == "dual":  # its upper rungs, soft prompts, and the gate over text
            assert head in ("ladder", "soft", "gated")
        else:
            assert head == entry.family if "." in entry.name else entry.family == "baseline"


def test_the_family_of_the_ladder_is_the_ladder() -> None:
    rungs = ["0", "1", "2", "2p", "3", "4", "5", "6"]
    assert names("ladder.*") == [f"ladder.{rung}" for rung in rungs]
    assert "user_knn" in names("baseline.*")
    assert set(names("ladder.*")).isdisjoint(names("baseline.*", "control.*", "ablation.*"))
