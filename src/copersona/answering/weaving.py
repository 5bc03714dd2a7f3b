"""A client's messages and a context, woven into one conversation for any chat model.

A client brings a whole conversation, a context was made for its last request. What the context adds
goes where it can neither displace the client's own words nor pass for them: its system message
after the client's leading ones, its examples after that, and what it quotes at the head of the last
thing the user said. Knows no service and no library of anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from copersona.records import Context

Message = Mapping[str, Any]

_LEADING_ROLES = frozenset({"system", "developer"})


def asked_in(messages: Sequence[Message]) -> str:
    """What the user said last: the text to make a context for; empty where there is none."""
    place = _place_of_request(messages)
    return "" if place is None else _text_of(messages[place].get("content"))


def woven(messages: Sequence[Message], context: Context) -> list[dict[str, Any]]:
    """The client's messages with what a context adds; they are not changed themselves.

    Args:
        messages: chat messages with `role` and `content`, which is a text or a list of parts;
            whatever else they hold is kept.
        context: made for the text of `asked_in`.
    """
    found = [dict(message) for message in messages]
    place = _place_of_request(found)
    if place is None or not context.is_personalised:
        return found
    *added, request = context.messages
    quoted = request["content"].removesuffix(context.query.text)
    if quoted:
        found[place]["content"] = _headed(quoted, found[place].get("content"))
    n_leading = len(list(takewhile(lambda one: one.get("role") in _LEADING_ROLES, found)))
    return [*found[:n_leading], *map(dict, added), *found[n_leading:]]


def _place_of_request(messages: Sequence[Message]) -> int | None:
    places = (n for n in reversed(range(len(messages))) if messages[n].get("role") == "user")
    return next(places, None)


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if _is_text(part))


def _headed(quoted: str, content: object) -> object:
    """The content with the quoted text before its own; parts that are no text stay as they are."""
    if not isinstance(content, list):
        return f"{quoted}{content or ''}"
    place = next((n for n, part in enumerate(content) if _is_text(part)), None)
    if place is None:
        return [{"type": "text", "text": quoted}, *content]
    first = {**content[place], "text": quoted + content[place]["text"]}
    return [*content[:place], first, *content[place + 1 :]]


def _is_text(part: object) -> bool:
    return (
        isinstance(part, Mapping)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
    )
