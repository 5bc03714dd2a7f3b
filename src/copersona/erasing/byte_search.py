"""Which byte strings stand in which files: a search of raw bytes that knows nothing of formats.

It runs in a process of its own. A process that opens and closes a database file gives up every lock
it holds on that file, whereupon another process takes the database for unused and removes its log:
writes would be lost. What is looked for goes in on standard input, places come out on standard
output, so that nobody's words stand in a list of processes. It shares no code with any deleter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MIN_BYTES = 8
"""Shorter needles stand everywhere by chance, and are refused."""

_CHUNK_BYTES = 2**25
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_TABLE_BITS = 16


@dataclass(frozen=True, slots=True)
class Findings:
    """What a search came to.

    Attributes:
        n_read: files that were read to the end.
        found: file -> numbers of the needles it holds.
    """

    n_read: int
    found: Mapping[str, tuple[int, ...]]


def find_bytes(places: Iterable[Path], needles: Sequence[bytes]) -> Findings:
    """Search files, and folders with everything below them, in another process.

    Args:
        needles: of at least `MIN_BYTES` each.

    Raises:
        OSError: a file cannot be read, or no process can be started; nothing is known then.
    """
    order = {"places": [str(place) for place in places], "needles": [n.hex() for n in needles]}
    done = subprocess.run(
        [sys.executable, "-I", __file__], input=json.dumps(order), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        raise OSError(f"the search of files failed: {' '.join(said) or done.returncode}")
    answer = json.loads(done.stdout)
    return Findings(answer["n_read"], {path: tuple(n) for path, n in answer["found"].items()})


class Matcher:
    """Finds many needles in one pass, by the last eight bytes of each."""

    def __init__(self, needles: Sequence[bytes]) -> None:
        if any(len(needle) < MIN_BYTES for needle in needles):
            raise ValueError(f"a needle of under {MIN_BYTES} bytes")
        self.longest = max(map(len, needles), default=MIN_BYTES)
        self._by_key: dict[int, list[tuple[int, bytes]]] = {}
        for number, needle in enumerate(needles):
            key = int.from_bytes(needle[-MIN_BYTES:], "little")
            self._by_key.setdefault(key, []).append((number, needle))
        self._keys = np.array(sorted(self._by_key), np.uint64)
        self._is_near = np.zeros(2**_TABLE_BITS, bool)
        self._is_near[_places_of(self._keys)] = True

    def found_in(self, data: bytes) -> set[int]:
        """Numbers of the needles that stand in the data."""
        found: set[int] = set()
        for shift in range(min(MIN_BYTES, max(0, len(data) - MIN_BYTES + 1))):
            count = (len(data) - shift) // MIN_BYTES
            values = np.frombuffer(data, "<u8", count, shift)
            near = np.flatnonzero(self._is_near[_places_of(values)])
            for place in near[np.isin(values[near], self._keys)].tolist():
                end = shift + MIN_BYTES * (place + 1)
                for number, needle in self._by_key[int(values[place])]:
                    start = end - len(needle)
                    if number not in found and start >= 0 and data.startswith(needle, start):
                        found.add(number)
        return found


def _places_of(values: Array) -> Array:
    return np.asarray((values.astype(np.uint64) * _SPREAD) >> np.uint64(64 - _TABLE_BITS))


def _search_file(path: Path, matcher: Matcher) -> set[int]:
    found: set[int] = set()
    rest = b""
    with path.open("rb") as file:
        while data := file.read(_CHUNK_BYTES):
            window = rest + data
            found |= matcher.found_in(window)
            rest = window[1 - matcher.longest :]
    return found


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        # Not by `rglob`, which fails where a folder goes meanwhile.
        below = (Path(folder) / name for folder, _, names in os.walk(place) for name in names)
        yield from filter(Path.is_file, sorted(below) if place.is_dir() else [place])


def _answer(order: Mapping[str, list[str]]) -> dict[str, Any]:
    matcher = Matcher([bytes.fromhex(needle) for needle in order["needles"]])
    n_read, found = 0, {}
    for path in _files(map(Path, order["places"])):
        try:
            numbers = _search_file(path, matcher)
        except FileNotFoundError:  # gone meanwhile: logs and staging folders come and go
            continue
        n_read += 1
        if numbers:
            found[str(path)] = sorted(numbers)
    return {"n_read": n_read, "found": found}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_answer(json.load(sys.stdin))))
