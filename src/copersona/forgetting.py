"""The independent look after a user was forgotten: is anything left in any file?

Uses the scanner of `unlearn`, which shares no code with the deleter, on the database's files and on
every fitted state. What a database keeps in unused space is rewritten once and looked at again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from copersona.erasure import ForgetCounts
from copersona.records import Interaction
from copersona.store import Store
from copersona.unlearn import find_traces

_LONGEST = 200


def scan(
    store: Store, root: Path, user: str, history: Sequence[Interaction]
) -> tuple[tuple[str, ...], int]:
    """Files that still hold the user's id, interaction ids or words, and how many were read."""
    words = [user, *(text for i in history for text in (i.response, i.id) if text)]
    needles = sorted({needle for word in words for needle in _spellings(word)})
    places = [root] if root.exists() else []
    is_file = store.dialect == "sqlite"
    if is_file:
        base = Path(store.url.split("///", 1)[-1])
        places += [path for path in base.parent.glob(base.name + "*") if path.is_file()]
    found = find_traces(places, needles)
    if found and is_file:
        store.compact()
        found = find_traces(places, needles)
    return tuple(found), sum(1 for place in places for path in _files(place))


def counted(counts: ForgetCounts) -> dict[str, int]:
    """Removed rows per kind."""
    return {name: int(value) for name, value in asdict(counts).items() if name != "is_scrubbed"}


def _spellings(word: str) -> list[bytes]:
    """As written, and as JSON escapes it."""
    head = word[:_LONGEST]
    return [head.encode("utf-8", "surrogatepass"), json.dumps(head)[1:-1].encode()]


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
