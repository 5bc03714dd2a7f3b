"""Export of one namespace: everything stored, in two documented forms, with a manifest.

`interactions.jsonl` and `interactions.parquet` hold the same rows; `consent.json` who differs from
the default; `instructions.json` what users said outright. Knows files and records, no store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from copersona.errors import DataError
from copersona.records import Consent, Interaction

_BATCH = 10_000
_TEXT = ("id", "user", "input", "response", "item", "label", "facet", "thread", "source",
         "metadata")  # fmt: skip
_SCHEMA = pa.schema(
    [(name, pa.large_string()) for name in _TEXT] + [("rating", pa.float64()), ("at", pa.float64())]
)


def export_namespace(
    directory: Path,
    namespace: str,
    interactions: Iterable[Interaction],
    consents: Mapping[str, Consent],
    instructions: Mapping[str, Any],
) -> Path:
    """Write everything into a folder that is new or empty, and give it back.

    Raises:
        DataError: the folder holds something already; nothing is overwritten.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DataError(f"{directory} is not an empty folder; name a new one")
    directory.mkdir(parents=True, exist_ok=True)
    n = _write_rows(directory, interactions)
    _write_json(directory / "consent.json", {user: asdict(c) for user, c in consents.items()})
    _write_json(directory / "instructions.json", instructions)
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


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n")
