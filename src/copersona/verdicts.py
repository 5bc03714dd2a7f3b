"""What a verdict on an answer says in words: the user's own, or a model's that the user took over.

A model's answer is never taken in as the user's words, except where the user accepted or rewrote
it; the source of the interaction tells which. Knows records only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from copersona.errors import DataError
from copersona.interactions import check
from copersona.records import Interaction, Verdict

SOURCES = {"edit": "feedback", "accept": "accepted"}
"""Where an interaction says that it comes from, by verdict."""


def words_of(
    user: str, trace_id: str, detail: Mapping[str, Any], verdict: str, answer: str, edited: str
) -> Interaction:
    """The interaction that a verdict on a trace amounts to; without a response where it is none.

    Args:
        detail: what was kept of the request.

    Raises:
        DataError: an unknown verdict, or words that do not go with it.
    """
    if verdict not in get_args(Verdict):
        raise DataError(f"must be one of {', '.join(get_args(Verdict))}", field="verdict")
    if verdict == "edit" and not edited.strip():
        raise DataError("an edit needs the edited text", field="edited")
    if edited and verdict != "edit":
        raise DataError("goes with `edit` only", field="edited")
    if answer and verdict != "accept":
        raise DataError("goes with `accept` only", field="answer")
    return check(Interaction(
        user, str(detail.get("text", "")) or "-", edited or answer, at=detail.get("at"),
        source=SOURCES.get(verdict), id=f"feedback {trace_id}",
    ))  # fmt: skip
