"""A client's messages and a context, woven into one conversation for any chat model.

A client brings a whole conversation, a context was made for its last request. What the context adds
goes where it can neither displace the client's own words nor pass for them: its system message
after the client's leading ones, its examples after that, and what it quotes at the head of the last
thing the user said. Knows no service and no library of anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from copersona.records import Context

Message = Mapping[str, Any]

_LEADING_ROLES = frozenset({"system", "developer"})


@dataclass(frozen=True)
class Placement:
    """Where what a context adds goes in a client's messages.

    Attributes:
        added: messages of the context.
        at: of the client's, the message that they stand before.
        request: the last thing the user said.
        quoted: what stands before its words.
    """

    added: tuple[dict[str, Any], ...]
    at: int
    request: int
    quoted: str


def asked_in(messages: Sequence[Message]) -> str:
    """What the user said last: the text to make a context for; empty where there is none."""
    place = place_of_request(messages)
    return "" if place is None else words_of(messages[place])


def place_of_request(messages: Sequence[Message]) -> int | None:
    """Where the last thing the user said stands; None where there is none."""
    places = (n for n in reversed(range(len(messages))) if messages[n].get("role") == "user")
    return next(places, None)


def words_of(message: Message) -> str:
    """The words of a message, without its images and whatever else is in it."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if _is_text(part))


def first_text(parts: Sequence[object]) -> int | None:
    """Of a content in parts, the first that is words; None where none is."""
    return next((n for n, part in enumerate(parts) if _is_text(part)), None)


def placed(messages: Sequence[Message], context: Context) -> Placement | None:
    """Where a context goes; None where it adds nothing, or nobody asked anything.

    Our instructions take the role of the client's leading ones: a model that knows developers may
    know no system.

    Args:
        context: made for the text of `asked_in`.
    """
    request = place_of_request(messages)
    if request is None or not context.is_personalised:
        return None
    leading = [*takewhile(lambda one: one.get("role") in _LEADING_ROLES, messages)]
    role = leading[-1]["role"] if leading else "system"
    *before, last = context.messages
    added = tuple({**one, "role": role if one["role"] == "system" else one["role"]}
                  for one in before)  # fmt: skip
    quoted = last["content"].removesuffix(context.query.text)
    return Placement(added, len(leading), request, quoted)


def woven(messages: Sequence[Message], context: Context) -> list[dict[str, Any]]:
    """The client's messages with what a context adds; they are not changed themselves.

    Args:
        messages: chat messages with `role` and `content`, which is a text or a list of parts;
            whatever else they hold is kept.
        context: made for the text of `asked_in`.
    """
    found, place = [dict(message) for message in messages], placed(messages, context)
    if place is None:
        return found
    if place.quoted:
        asked = found[place.request]
        asked["content"] = _headed(place.quoted, asked.get("content"))
    return [*found[: place.at], *map(dict, place.added), *found[place.at :]]


def _headed(quoted: str, content: object) -> object:
    """The content with the quoted text before its own; parts that are no text stay as they are."""
    if not isinstance(content, list):
        return f"{quoted}{content or ''}"
    place = first_text(content)
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
