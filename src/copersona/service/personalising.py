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

from copersona.answering.weaving import asked_in, first_text, place_of_request, placed
from copersona.records import Context
from copersona.service.json_text import elements, members, with_insertions


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
    def so_far(self) -> Sequence[Mapping[str, Any]]:
        """The messages up to the last one of the user; none where there is none."""
        place = place_of_request(self.messages)
        return () if place is None else self.messages[: place + 1]

    @property
    def asked(self) -> str:
        """The words of the last message of the user; empty where there are none."""
        return asked_in(self.messages)

    def personalised(self, context: Context) -> str:
        """The body with what a context for `asked` adds."""
        place = placed(self.messages, context)
        if place is None:
            return self.text
        spans = elements(self.text, members(self.text, self._start)["messages"][0])
        words = self._words_at(spans[place.request][0], place.request)
        added = "".join(f"{json.dumps(one)}," for one in place.added)
        quoted = json.dumps(place.quoted)[1:-1]
        return with_insertions(self.text, [(words, quoted), (spans[place.at][0], added)])

    @property
    def _start(self) -> int:
        return self.text.index("{")

    def _words_at(self, start: int, number: int) -> int:
        """Where the words of a message begin that begins here and has some."""
        start = members(self.text, start)["content"][0]
        if self.text[start] == "[":
            part = first_text(self.messages[number]["content"])
            assert part is not None  # something was asked
            start = members(self.text, elements(self.text, start)[part][0])["text"][0]
        return start + 1
