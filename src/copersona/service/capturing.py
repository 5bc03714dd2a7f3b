"""What of a chat may be kept as a user's own words, and what is only an echo.

Kept is the last message of the user as the client sent it, with the turn before it as what it
answers. Never kept: what we put into a prompt, and what a language model said. The first is known
by its frame. The second is looked for in the conversation itself, and among the last answers of
this process, of which only keyed hashes are held.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable

from copersona.answering.prompting import is_framed
from copersona.answering.weaving import words_of
from copersona.interactions import ID_CHARACTERS
from copersona.records import Interaction
from copersona.service.personalising import Chat

SOURCE = "gateway"
MAX_ANSWERS = 10_000
"""Answers that are remembered, as hashes."""
_SHORTEST_QUOTE = 20
"""Characters from which on an answer inside another text counts as an echo of it."""


class Echoes:
    """The last answers of this process, known again without being kept."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._marks: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, answers: Iterable[str]) -> None:
        """Remember that a model said these."""
        with self._lock:
            for answer in filter(str.strip, answers):
                self._marks[self._mark(answer)] = None
            while len(self._marks) > MAX_ANSWERS:
                self._marks.popitem(last=False)

    def has(self, text: str) -> bool:
        """Whether a model said just this."""
        with self._lock:
            return self._mark(text) in self._marks

    def _mark(self, text: str) -> bytes:
        said = " ".join(text.split()).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(said, key=self._key, digest_size=16).digest()


def own_words(
    chat: Chat, user: str, thread: str | None, echoes: Echoes, namespace: str
) -> Interaction | None:
    """The last message of the user as an interaction; None where there is none, or only an echo."""
    text = chat.asked
    if not text.strip() or _is_echo(chat, text) or echoes.has(text):
        return None
    answers = _answers(chat)
    return Interaction(
        user, input=answers[-1] if answers else "", response=text, at=time.time(), thread=thread,
        source=SOURCE, id=_id(chat, namespace, user, thread),
    )  # fmt: skip


def _answers(chat: Chat) -> list[str]:
    """What the model said before the last message of the user, as far as it said anything."""
    texts = [words_of(one) for one in chat.so_far[:-1] if one.get("role") == "assistant"]
    return [text for text in texts if text.strip()]


def _is_echo(chat: Chat, text: str) -> bool:
    if any(is_framed(words_of(message)) for message in chat.messages):
        return True
    said = " ".join(text.split())
    answers = [" ".join(answer.split()) for answer in _answers(chat)]
    return any(
        answer == said or (len(answer) >= _SHORTEST_QUOTE and answer in said) for answer in answers
    )


def _id(chat: Chat, namespace: str, user: str, thread: str | None) -> str:
    """The same for the same message of the same conversation, however often it is sent."""
    turns = [
        (one.get("role"), words_of(one))
        for one in chat.so_far
        if one.get("role") in ("user", "assistant")
    ]
    joined = json.dumps([SOURCE, namespace, user, thread, turns]).encode("ascii")
    return hashlib.sha256(joined).hexdigest()[:ID_CHARACTERS]
