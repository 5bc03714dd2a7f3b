"""Export of one namespace: everything stored, in two documented forms, with a manifest.

`interactions.jsonl` and `interactions.parquet` hold the same rows; `consent.json` who differs from
the default; and a file each all else that the export of one user has, by user. `readers` takes
either of the first two back to the letter; `open_export` consents, instructions and aliases. Knows
files and records, no store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from copersona.errors import DataError
from copersona.records import Consent, Interaction, Lend

_BATCH = 10_000
_TEXT = ("id", "user", "input", "response", "item", "label", "facet", "thread", "source",
         "metadata")  # fmt: skip
_SCHEMA = pa.schema(
    [(name, pa.large_string()) for name in _TEXT] + [("rating", pa.float64()), ("at", pa.float64())]
)


@dataclass(frozen=True, slots=True)
class UserExport:
    """Everything that is stored of one user.

    Attributes:
        traces: what was kept of the user's requests, by trace id.
        aliases: other ids that stand for the user.
        feedback: what the user said of answers, by trace id.
        usage: what their chats took, by key, model and day.
    """

    user: str
    consent: Consent
    instructions: tuple[str, ...]
    interactions: tuple[Interaction, ...]
    traces: Mapping[str, Mapping[str, Any]]
    aliases: tuple[str, ...]
    feedback: Mapping[str, Mapping[str, str]]
    usage: tuple[Mapping[str, Any], ...] = ()


_OTHERS = tuple(
    field.name for field in fields(UserExport)
    if field.name not in ("user", "consent", "interactions")
)  # fmt: skip


def export_namespace(
    directory: Path,
    namespace: str,
    interactions: Iterable[Interaction],
    consents: Mapping[str, Consent],
    people: Iterable[UserExport],
) -> Path:
    """Write everything into a folder that is new or empty, and give it back.

    Args:
        consents: of those who differ from the default.
        people: everybody, in order, for what is neither interactions nor consent.

    Raises:
        DataError: the folder holds something already; nothing is overwritten.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DataError(f"{directory} is not an empty folder; name a new one")
    directory.mkdir(parents=True, exist_ok=True)
    n = _write_rows(directory, interactions)
    _write_json(directory / "consent.json", {user: asdict(c) for user, c in consents.items()})
    _write_people(directory, people)
    _write_json(directory / "manifest.json", {"namespace": namespace, "n_interactions": n})
    return directory


def _write_rows(directory: Path, interactions: Iterable[Interaction]) -> int:
    rows, n = iter(interactions), 0
    with (
        (directory / "interactions.jsonl").open("w", encoding="utf-8") as lines,
        pq.ParquetWriter(directory / "interactions.parquet", _SCHEMA) as table,
    ):
        while batch := list(islice(rows, _BATCH)):
            records = [asdict(row) for row in batch]
            lines.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
            for record in records:
                record["metadata"] = json.dumps(record["metadata"], ensure_ascii=False)
            table.write_table(pa.Table.from_pylist(records, schema=_SCHEMA))
            n += len(batch)
    return n


def _write_people(directory: Path, people: Iterable[UserExport]) -> None:
    """One object by user in each file, a user a line: all traces at once may be too much."""
    with ExitStack() as at_end:
        files = {
            name: at_end.enter_context((directory / f"{name}.json").open("w", encoding="utf-8"))
            for name in _OTHERS
        }
        before = dict.fromkeys(files, "{\n")
        for person in people:
            for name, file in files.items():
                if value := getattr(person, name):
                    text = json.dumps(value, ensure_ascii=False, default=bytes.hex)
                    file.write(
                        f"{before[name]}{json.dumps(person.user, ensure_ascii=False)}: {text}"
                    )
                    before[name] = ",\n"
        for name, file in files.items():
            file.write("\n}\n" if before[name] == ",\n" else "{}\n")


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)
    path.write_text(text + "\n", "utf-8")


@dataclass(frozen=True, slots=True)
class Export:
    """An export as it lies in its folder.

    Attributes:
        rows: the file with the interactions, for a reader.
        n_interactions: rows it was written with; fewer means that the file was cut.
    """

    rows: Path
    namespace: str
    n_interactions: int
    consents: Mapping[str, Consent]
    instructions: Mapping[str, tuple[str, ...]]
    aliases: Mapping[str, tuple[str, ...]]


def open_export(directory: Path) -> Export:
    """What `export_namespace` wrote into a folder.

    Raises:
        DataError: a file is missing or is not what it should be.
    """
    manifest = _read_json(directory / "manifest.json")
    n_interactions, namespace = manifest.get("n_interactions"), manifest.get("namespace")
    if not isinstance(n_interactions, int) or not isinstance(namespace, str):
        raise DataError("not the manifest of an export", source=str(directory / "manifest.json"))
    path = directory / "consent.json"
    consents = {user: _consent(path, user, given) for user, given in _read_json(path).items()}
    said, aliases = (
        _read_texts(directory / f"{name}.json") for name in ("instructions", "aliases")
    )
    rows = directory / "interactions.jsonl"
    return Export(rows, namespace, n_interactions, consents, said, aliases)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", source=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"broken JSON: {error}", source=str(path)) from error
    if not isinstance(value, dict):
        raise DataError("must be a JSON object", source=str(path))
    return value


def _consent(path: Path, user: str, given: Any) -> Consent:
    """Every purpose must be there: what is missing must not become a yes."""
    purposes = asdict(Consent()).keys()
    if not isinstance(given, dict) or given.keys() != purposes:
        raise DataError(
            f"must be an object with {', '.join(purposes)}", source=str(path), field=user
        )
    lend = given["lend"]
    if lend not in get_args(Lend) or not all(
        isinstance(given[name], bool) for name in purposes - {"lend"}
    ):
        raise DataError("true or false, and no, aggregate or text for lend", source=str(path),
                        field=user)  # fmt: skip
    return Consent(**given)


def _read_texts(path: Path) -> dict[str, tuple[str, ...]]:
    """Lists of texts by user."""
    found = _read_json(path)
    for user, given in found.items():
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise DataError("must be a list of texts", source=str(path), field=user)
    return {user: tuple(given) for user, given in found.items()}
