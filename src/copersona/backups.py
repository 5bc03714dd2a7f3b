"""Backups: the database and the fitted states as one folder with hashes, and back.

Whoever is forgotten after a backup is noted beside it, as the keyed mark of a tombstone, in a file
that its manifest does not cover; restoring erases them again before it is over. So a backup that
stays where it was put never brings anybody back. One that was moved does not learn of them: then
the store that was in use says who they are.

    folder/manifest.json  forgotten  store.db (or store.pgdump)  states/…
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from copersona import artifacts
from copersona.errors import ConfigError, DataError
from copersona.storage.backup_log import TakenBackup
from copersona.storage.copies import FILE_NAMES, load
from copersona.storage.database import parse_url
from copersona.storage.store import Store

FORMAT = 1
_MANIFEST, _NOTED, _STATES = "manifest.json", "forgotten", "states"


class _File(BaseModel):
    size: int
    sha256: str


class _Format(BaseModel):
    format: int


class _Manifest(_Format):
    id: str
    at: float
    dialect: Literal["sqlite", "postgresql"]
    store: str
    files: dict[str, _File]


@dataclass(frozen=True)
class Restored:
    """What came of a backup.

    Attributes:
        n_erased: users who were forgotten after it was taken, and erased again.
    """

    backup: TakenBackup
    n_erased: int


def back_up(store: Store, root: Path, folder: Path) -> TakenBackup:
    """Write a store and its fitted states to a folder that is new or empty.

    Others go on reading and writing; publishing and forgetting wait until it is done.

    Args:
        root: folder of the fitted states.

    Raises:
        ConfigError: the folder holds something, or the programs of PostgreSQL are not installed.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; give a new folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    taken = TakenBackup(secrets.token_hex(6), str(folder.absolute()), time.time())
    # Known before a byte is copied: who is forgotten from now on is noted.
    (folder / _NOTED).write_text(f"backup {taken.id}\n", "ascii")
    store.backups.add(taken)
    with ExitStack() as held:
        for home in artifacts.homes(root):
            held.enter_context(artifacts.replacing_in(home))
        store.backups.write(folder / FILE_NAMES[store.dialect])
        for home in artifacts.homes(root):
            artifacts.copy_home(home, folder / _STATES / home.name)
    files = {name: artifacts.describe_file(folder / name) for name in sorted(_files(folder))}
    manifest = _Manifest.model_validate({
        "format": FORMAT, "id": taken.id, "at": taken.at, "dialect": store.dialect,
        "store": _identity(store), "files": files,
    })  # fmt: skip
    (folder / _MANIFEST).write_text(manifest.model_dump_json(indent=1), "utf-8")
    artifacts.describe_file(folder / _MANIFEST)
    artifacts.sync_folder(folder)
    return taken


def restore(folder: Path, url: str | Path, root: Path, known_to: Iterable[Store]) -> Restored:
    """Make a store and fitted states of a backup, and erase again who was forgotten since.

    Of a restore that was cut off, delete what is there and begin again.

    Args:
        root: folder of the fitted states.
        known_to: stores that know who was forgotten, besides what stands beside the backup.

    Raises:
        ConfigError: there is a store or a fitted state already, or one of `known_to` is not the
            store that the backup is of.
        DataError: it is no backup, or damaged; nothing was restored.
    """
    manifest, marks = _checked(folder), set(_noted(folder))
    for other in known_to:
        if _identity(other) != manifest.store:
            raise ConfigError(f"{other.url} is another store than the one of this backup")
        marks.update(other.departures.all_marks())
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} is not empty; restoring overwrites nothing")
    load(folder / FILE_NAMES[manifest.dialect], parse_url(url, manifest.dialect))
    with Store.open(url, create=False) as store:
        n_erased = store.departures.apply(marks)
        taken = TakenBackup(manifest.id, str(folder.absolute()), manifest.at)
        store.backups.add(taken)
    if (folder / _STATES).exists():
        shutil.copytree(folder / _STATES, root, dirs_exist_ok=True)
    return Restored(taken, n_erased)


def noted_in(store: Store, marks: Collection[bytes]) -> frozenset[str]:
    """Note beside every backup that is at its place who was forgotten; the ids of these backups."""
    return frozenset(
        one.id for one in store.backups.all() if _is_noted(Path(one.place), one.id, marks)
    )


def _identity(store: Store) -> str:
    """Equal for a store and its copies: their tombstones can be compared."""
    return store.departures.mark("", "").hex()


def _is_noted(folder: Path, backup_id: str, marks: Collection[bytes]) -> bool:
    path = folder / _NOTED
    try:
        lines = path.read_text("ascii").splitlines()
        if lines[:1] != [f"backup {backup_id}"]:
            return False
        new = [mark.hex() for mark in marks if mark.hex() not in lines]
        if new:
            with path.open("a", encoding="ascii") as file:
                file.write("".join(f"{line}\n" for line in new))
                file.flush()
                os.fsync(file.fileno())
    except (OSError, UnicodeDecodeError):  # moved, deleted, or on a disk that is not written to
        return False
    return True


def _noted(folder: Path) -> list[bytes]:
    try:
        return [bytes.fromhex(x) for x in (folder / _NOTED).read_text("ascii").splitlines()[1:]]
    except (OSError, ValueError) as error:
        raise DataError(f"who was forgotten since cannot be read: {error}",
                        source=str(folder / _NOTED)) from error  # fmt: skip


def _files(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - {_MANIFEST, _NOTED}


def _checked(folder: Path) -> _Manifest:
    path = folder / _MANIFEST
    try:
        content = path.read_bytes()
        found = _Format.model_validate_json(content).format
        if found != FORMAT:
            raise DataError(f"a backup of format {found}; this program reads {FORMAT}",
                            source=str(path))  # fmt: skip
        manifest = _Manifest.model_validate_json(content)
    except (OSError, ValidationError) as error:
        raise DataError(f"not a whole backup: {_reason(error)}", source=str(path)) from error
    if _files(folder) != manifest.files.keys():
        raise DataError("files are missing, or there are others", source=str(folder))
    for name, kept in manifest.files.items():
        if artifacts.sha256_of(folder / name) != kept.sha256:
            raise DataError("damaged: another content than the manifest says",
                            source=str(folder / name))  # fmt: skip
    return manifest


def _reason(error: OSError | ValidationError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return " ".join([*map(str, first["loc"]), first["msg"]])
