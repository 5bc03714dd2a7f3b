"""Backups: whole or refused, and nobody who was forgotten comes back with one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import copersona
from copersona import CoPersona, Interaction
from copersona.backups import restore
from copersona.commands import cli
from copersona.errors import ConfigError, DataError
from copersona.storage.store import Store
from databases import KINDS, database

NAMES = ("alma", "ola", "vito", "wen", "kim")
THINGS = ("soup", "bread", "rice", "stew")


def rows_of(user: str) -> list[Interaction]:
    return [
        Interaction(user, f"How is the {thing}?", f"{user} says: {thing} with {place} cloves.",
                    id=f"{user}-{place}", item=thing, rating=1.0 + (len(user) + place) % 5)
        for place, thing in enumerate(THINGS)
    ]  # fmt: skip


def opened(url: str, folder: Path) -> CoPersona:
    return copersona.open(url, encoder="hashing", state_dir=folder)


@pytest.fixture
def cp(url: str, tmp_path: Path) -> Iterator[CoPersona]:
    with opened(url, tmp_path / "states") as found:
        for name in NAMES:
            found.add(rows_of(name))
        found.instruct("alma", "Always metric units.")
        found.fit()
        yield found


@pytest.fixture
def empty(cp: CoPersona, tmp_path: Path) -> Iterator[str]:
    """A database of the same kind with nothing in it."""
    (tmp_path / "new").mkdir()
    with database(cp.store.dialect, tmp_path / "new", is_migrated=False) as url:
        yield url


def test_a_backup_gives_the_same_store_and_state(cp: CoPersona, empty: str, tmp_path: Path) -> None:
    taken = cp.back_up(tmp_path / "backup")
    cp.add([Interaction("later", "And now?", "Not in the backup.")])
    done = restore(tmp_path / "backup", empty, tmp_path / "again", [cp.store])
    assert (done.backup, done.n_erased) == (taken, 0)
    with opened(empty, tmp_path / "again") as again:
        assert list(again.store.export("default")) == [
            row for row in cp.store.export("default") if row.user != "later"
        ]
        assert again.store.instructions("default", "alma") == ("Always metric units.",)
        assert again.persona("alma") == cp.persona("alma")
        assert again.doctor() == []
        assert again.store.backups.all() == cp.store.backups.all() == [taken]


@pytest.mark.parametrize("how", ["noted beside it", "moved, known to the store"])
def test_who_was_forgotten_since_does_not_come_back(
    cp: CoPersona, empty: str, tmp_path: Path, how: str
) -> None:
    cp.back_up(tmp_path / "backup")
    is_moved = how != "noted beside it"
    folder = tmp_path / ("moved" if is_moved else "backup")
    if is_moved:
        shutil.move(tmp_path / "backup", folder)
    receipt = cp.forget("ola")
    assert [one.is_noted for one in receipt.backups] == [not is_moved]
    assert receipt.traces_found == ()
    known = [cp.store] if is_moved else []
    assert restore(folder, empty, tmp_path / "again", known).n_erased == 1
    with opened(empty, tmp_path / "again") as again:
        assert again.store.history("default", "ola") == []
        assert [o.status for o in again.add(rows_of("ola"))] == ["rejected"] * len(THINGS)
        assert again.repair() == 1
        assert sorted(again.state().lenders) == sorted(set(NAMES) - {"ola"})
        assert again.forget("ola").traces_found == ()


def test_the_receipt_lists_every_backup_with_its_age(cp: CoPersona, tmp_path: Path) -> None:
    first, second = cp.back_up(tmp_path / "one"), cp.back_up(tmp_path / "two")
    shutil.rmtree(tmp_path / "one")
    listed = cp.forget("ola").backups
    assert [(one.id, one.place, one.is_noted) for one in listed] == [
        (first.id, str(tmp_path / "one"), False), (second.id, str(tmp_path / "two"), True),
    ]  # fmt: skip
    assert all(0 <= one.age_days < 1 for one in listed)
    cp.store.backups.remove(first.id)
    assert [one.id for one in cp.forget("vito").backups] == [second.id]
    with pytest.raises(ConfigError, match="no backup"):
        cp.store.backups.remove(first.id)


def test_restoring_overwrites_nothing(cp: CoPersona, empty: str, tmp_path: Path) -> None:
    cp.back_up(tmp_path / "backup")
    for url, root in ((str(cp.store._database._engine.url.database), tmp_path / "again"),
                      (empty, tmp_path / "states")):  # fmt: skip
        if cp.store.dialect == "postgresql" and url != empty:
            url = cp.store._database._engine.url.render_as_string(hide_password=False)
        with pytest.raises(ConfigError, match="overwrites nothing"):
            restore(tmp_path / "backup", url, root, [cp.store])
    with pytest.raises(ConfigError, match="not empty"):
        cp.back_up(tmp_path / "backup")
    assert cp.store.n_users("default") == len(NAMES)


@pytest.mark.parametrize("damage", ["a byte", "a file less", "a file more", "no manifest"])
def test_a_damaged_backup_is_refused(
    cp: CoPersona, empty: str, tmp_path: Path, damage: str
) -> None:
    cp.back_up(tmp_path / "backup")
    kept = sorted((tmp_path / "backup").rglob("*.safetensors"))[0]
    if damage == "a byte":
        kept.write_bytes(kept.read_bytes()[:-1] + b"\xff")
    elif damage == "a file less":
        kept.unlink()
    elif damage == "a file more":
        (tmp_path / "backup" / "states" / "stray").touch()
    else:
        (tmp_path / "backup" / "manifest.json").unlink()
    with pytest.raises(DataError):
        restore(tmp_path / "backup", empty, tmp_path / "again", [])
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", '{"format": 2}', '{"format": 1}', '{"format": 1, "files": []}', "[" * 100_000],
)
def test_what_is_no_manifest_of_a_backup_is_told(
    cp: CoPersona, empty: str, tmp_path: Path, manifest: str
) -> None:
    cp.back_up(tmp_path / "backup")
    (tmp_path / "backup" / "manifest.json").write_text(manifest)
    with pytest.raises(DataError, match="backup"):
        restore(tmp_path / "backup", empty, tmp_path / "again", [])


def test_the_tombstones_of_another_store_say_nothing(
    cp: CoPersona, empty: str, tmp_path: Path
) -> None:
    cp.back_up(tmp_path / "backup")
    with (
        Store.open(tmp_path / "stranger.db") as stranger,
        pytest.raises(ConfigError, match="another store"),
    ):
        restore(tmp_path / "backup", empty, tmp_path / "again", [stranger])


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_line_backs_up_restores_and_asks_who_was_forgotten(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in cli.read_settings.__globals__["NAMES"]:
        monkeypatch.delenv(f"COPERSONA_{name.upper()}", raising=False)
    (tmp_path / "new").mkdir()
    with database(kind, tmp_path) as old, database(
        kind, tmp_path / "new", is_migrated=False
    ) as new:  # fmt: skip
        with opened(old, tmp_path / "states") as cp:
            for name in NAMES:
                cp.add(rows_of(name))
            cp.fit()

        def run(store: str, states: str, *words: str) -> tuple[int, str]:
            environment = {"COPERSONA_STATE": str(tmp_path / states)}
            result = CliRunner().invoke(
                cli.app, ["--store", store, "--encoder", "hashing", *words], env=environment
            )
            return result.exit_code, result.stdout + result.stderr

        folder = str(tmp_path / "backup")
        assert run(old, "states", "backup", folder)[0] == 0
        assert "may be in a backup" in run(old, "states", "forget", "ola", "--yes")[1]
        code, said = run(new, "again", "restore", folder)
        assert (code, "--tombstones" in said, "--lost" in said) == (2, True, True)
        code, said = run(new, "again", "restore", folder, "--lost", "--json")
        assert (code, json.loads(said)["n_erased"]) == (0, 1)
        with opened(new, tmp_path / "again") as again:
            assert "ola" not in again.state().lenders
        assert run(new, "again", "repair")[1] == "completed: 0\n"
        (listed,) = json.loads(run(new, "again", "backups", "--json")[1])["backups"]
        assert run(new, "again", "backups", "--drop", listed["id"]) == (0, "")
