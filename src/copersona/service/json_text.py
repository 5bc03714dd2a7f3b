"""JSON text and the places of what is in it, so that a part can be added and the rest not touched.

Reading and writing a document anew would change numbers, spaces and repeated names that somebody
else may look at. Expects valid JSON; knows nothing of what it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

Span = tuple[int, int]

_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\n\r]*")


def members(text: str, start: int) -> dict[str, Span]:
    """Where the values of an object are that begins here; of a repeated name, the last one."""
    found, at = {}, _after_blank(text, start + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _after_blank(text, _after_blank(text, at) + 1)
        end = _DECODER.raw_decode(text, at)[1]
        found[name] = (at, end)
        at = _next(text, end)
    return found


def elements(text: str, start: int) -> list[Span]:
    """Where the values of an array are that begins here."""
    found, at = [], _after_blank(text, start + 1)
    while text[at] != "]":
        end = _DECODER.raw_decode(text, at)[1]
        found.append((at, end))
        at = _next(text, end)
    return found


def with_insertions(text: str, insertions: Iterable[tuple[int, str]]) -> str:
    """The text with others put in at these places, which are those of the text as it was."""
    for at, more in sorted(insertions, reverse=True):
        text = text[:at] + more + text[at:]
    return text


def _next(text: str, at: int) -> int:
    at = _after_blank(text, at)
    return _after_blank(text, at + 1) if text[at] == "," else at


def _after_blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at
