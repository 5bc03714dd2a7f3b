"""A chat as a client sent it, and the same with a context put in: nothing else is changed.

The body stays the text that it was. What a context adds is inserted: its own messages behind the
leading instructions of the client, and what it quotes in front of the words of the last message of
the user. Knows the form of OpenAI's chat completions as far as that takes, and leaves alone what it
does not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from copersona.records import Context
from copersona.service.json_text import elements, members, with_insertions

_INSTRUCTING = ("system", "developer")


def text_of(message: Mapping[str, Any]) -> str:
    """The words of a message, without its images and whatever else is in it."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if _is_text(part))
    return content if isinstance(content, str) else ""


@dataclass(frozen=True)
class Chat:
    """The body of one request.

    Attributes:
        text: as it was sent.
        body: what it says.
    """

    text: str
    body: Mapping[str, Any]

    @classmethod
    def read(cls, raw: bytes) -> Chat:
        """The chat that was sent.

        Raises:
            ValueError: not a JSON object in UTF-8.
        """
        text = raw.decode("utf-8")
        try:
            body = json.loads(text)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(body, dict):
            raise ValueError("not an object")  # noqa: TRY004  whoever sent it used no wrong type
        return cls(text, body)

    def named(self, field: str) -> str | None:
        """The text of a field; None where it is empty, missing, or something else."""
        value = self.body.get(field)
        return value if isinstance(value, str) and value else None

    @property
    def thread(self) -> str | None:
        """The conversation, where the client's metadata names one."""
        metadata = self.body.get("metadata")
        thread = metadata.get("thread") if isinstance(metadata, dict) else None
        return thread if isinstance(thread, str) and thread else None

    @cached_property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The messages; none where they are not what messages are."""
        found = self.body.get("messages")
        is_sound = isinstance(found, list) and all(isinstance(one, dict) for one in found)
        return found if found and is_sound else ()

    @cached_property
    def place(self) -> int:
        """Where the last message of the user stands; -1 where there is none."""
        roles = [message.get("role") for message in self.messages]
        return len(roles) - 1 - roles[::-1].index("user") if "user" in roles else -1

    @property
    def asked(self) -> str:
        """The words of the last message of the user; empty where there are none."""
        return text_of(self.messages[self.place]) if self.place >= 0 else ""

    def personalised(self, context: Context) -> str:
        """The body with what a context for `asked` adds."""
        *before, last = context.messages
        head = last["content"].removesuffix(self.asked)
        spans = elements(self.text, members(self.text, self._start)["messages"][0])
        insertions = [(self._words_at(spans[self.place][0]), json.dumps(head)[1:-1])]
        n_leading = next(
            n for n, one in enumerate(self.messages) if one.get("role") not in _INSTRUCTING
        )
        leading = self.messages[n_leading - 1]["role"] if n_leading else "system"
        added = ",".join(
            json.dumps({**one, "role": leading} if one["role"] == "system" else dict(one))
            for one in before
        )
        if added and n_leading:
            insertions.append((spans[n_leading - 1][1], f",{added}"))
        elif added:
            insertions.append((spans[0][0], f"{added},"))
        return with_insertions(self.text, insertions)

    @property
    def _start(self) -> int:
        return self.text.index("{")

    def _words_at(self, message: int) -> int:
        """Where the words of a message begin that begins here and has some."""
        start = members(self.text, message)["content"][0]
        if self.text[start] == "[":
            content = self.messages[self.place]["content"]
            first = next(n for n, part in enumerate(content) if _is_text(part))
            start = members(self.text, elements(self.text, start)[first][0])["text"][0]
        return start + 1


def _is_text(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(
        part.get("text"), str
    )  # fmt: skip
