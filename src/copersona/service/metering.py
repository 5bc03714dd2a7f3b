"""What a chat took and what was said in it, read off an answer while it passes.

The answer is not changed and not waited for. Where the server does not say what was used, it is
estimated. Knows OpenAI's form of answers and keeps nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from copersona.answering.weaving import words_of
from copersona.language.generation import approximate_tokens
from copersona.service.personalising import Chat
from copersona.service.upstream import Sent
from copersona.storage.usage_log import Usage


class Meter:
    """Reads one answer.

    Args:
        is_stream: it comes as a stream of events, not as one JSON object.
    """

    def __init__(self, *, is_stream: bool) -> None:
        self._is_stream = is_stream
        self._rest = b""
        self._used: Mapping[str, Any] = {}
        self._said: defaultdict[str, list[str]] = defaultdict(list)

    def feed(self, piece: bytes) -> None:
        """Read the next bytes."""
        if not self._is_stream:
            self._read(piece, "message")
            return
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._read(line[5:], "delta")

    @property
    def said(self) -> list[str]:
        """The texts of the answer so far, one for each choice."""
        return ["".join(pieces) for pieces in self._said.values()]

    def usage(self, key_id: str, model: str, sent: Sent) -> Usage:
        """What the request took, as far as it was answered."""
        prompt, completion = (self._used.get(f"{one}_tokens") for one in ("prompt", "completion"))
        is_told = _is_count(prompt) and _is_count(completion)
        if not is_told:
            prompt = sum(approximate_tokens(words_of(one)) for one in _messages(sent))
            completion = sum(map(approximate_tokens, self.said))
        return Usage(
            key_id, model, datetime.now(UTC).date().isoformat(), int(prompt or 0),
            int(completion or 0), sent.context.tokens if sent.context else 0, int(not is_told),
        )  # fmt: skip

    def _read(self, data: bytes, part: str) -> None:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):  # `[DONE]`, or nothing that we know
            return
        if not isinstance(found, dict):
            return
        if isinstance(used := found.get("usage"), dict):
            self._used = used
        choices = found.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            said = choice.get(part) if isinstance(choice, dict) else None
            text = said.get("content") if isinstance(said, dict) else None
            if isinstance(text, str):
                self._said[str(choice.get("index"))].append(text)


def _messages(sent: Sent) -> Any:
    return Chat.read(sent.text.encode("utf-8")).messages


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
