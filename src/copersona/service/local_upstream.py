"""The language model of this process behind OpenAI's form of a chat.

It answers with text to text: what a request asks for beyond that is refused, since it would
otherwise be lost without a word. Which model is asked for is not looked at; there is one.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, cast

from starlette.concurrency import run_in_threadpool

from copersona.answering.weaving import words_of
from copersona.errors import BackendError, ConfigError
from copersona.language import generation
from copersona.service.personalising import Chat
from copersona.service.upstream import NoAnswer, Received, Sent

MAX_TOKENS = 1024
"""Longest answer where the client names no limit."""

_JSON, _EVENTS = {"content-type": "application/json"}, {"content-type": "text/event-stream"}
_REFUSED = ("tools", "functions", "response_format", "stop", "logprobs", "audio", "modalities")

_PLAIN: tuple[object, ...] = (None, False, [], {"type": "text"}, ["text"])


class LocalUpstream:
    """A language model in this process; answers asked for at once take turns.

    Args:
        opens: gives the model, opened on first use.
    """

    def __init__(self, opens: Callable[[], generation.Generator]) -> None:
        self._opens = opens

    def model(self, chat: Chat) -> str:
        """The name of the one that is there."""
        del chat
        return self._opens().name

    async def complete(self, sent: Sent) -> Received:
        """The answer to a chat; see `Upstream`."""
        if refused := _refused(sent.chat):
            said = {"message": refused, "type": "invalid_request_error", "param": None}
            return _received(json.dumps({"error": {**said, "code": "unsupported"}}), status=400)
        body = json.loads(sent.text)
        model = await self._opened()
        answer = _Answer(model, body, sent)
        pieces = answer.pieces()
        try:  # so that a failure still has a status of its own
            first = await run_in_threadpool(next, pieces, None)
        except BackendError as error:
            raise NoAnswer(502, "the language model failed") from error
        if body.get("stream"):
            return Received(
                200, _EVENTS, answer.events(_one_by_one(first, pieces)), _closing(pieces)
            )
        return Received(200, _JSON, answer.whole(_one_by_one(first, pieces)), _closing(pieces))

    async def models(self) -> Received:
        """The one model; see `Upstream`."""
        one = {"id": (await self._opened()).name, "object": "model", "created": 0}
        return _received(json.dumps({"object": "list", "data": [{**one, "owned_by": "copersona"}]}))

    async def close(self) -> None:
        """Nothing: the model belongs to whoever opened it."""

    async def _opened(self) -> generation.Generator:
        try:
            return await run_in_threadpool(self._opens)
        except ConfigError as error:
            raise NoAnswer(502, str(error)) from error
        except BackendError as error:
            raise NoAnswer(502, "the language model cannot be opened") from error


class _Answer:
    """One answer, in the form of OpenAI's."""

    def __init__(self, model: generation.Generator, body: Mapping[str, Any], sent: Sent) -> None:
        self._model, self._body, self._sent = model, body, sent
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time())}
        self._limit = next(
            (n for name in ("max_completion_tokens", "max_tokens") if (n := body.get(name))),
            MAX_TOKENS,
        )
        self._messages = [
            {"role": _role(one), "content": words_of(one)} for one in body.get("messages", ())
        ]

    def pieces(self) -> Generator[str]:
        """What the model says, piece by piece."""
        asked: dict[str, Any] = {
            "max_tokens": self._limit, "temperature": self._body.get("temperature") or 0.0,
            "seed": self._body.get("seed"),
        }  # fmt: skip
        context = self._sent.context
        if context is not None and context.soft is not None:
            asked["soft"] = context.soft
        return cast(Generator[str], iter(self._model.stream(self._messages, **asked)))

    async def whole(self, said: AsyncIterator[str]) -> AsyncIterator[bytes]:
        """One JSON object."""
        text = "".join([piece async for piece in said])
        usage = await run_in_threadpool(self._usage, text)
        choice = {"message": {"role": "assistant", "content": text}, "logprobs": None}
        yield self._encoded(
            "chat.completion", [{"index": 0, **choice, "finish_reason": self._end(usage)}],
            usage=usage,
        )  # fmt: skip

    async def events(self, said: AsyncIterator[str]) -> AsyncIterator[bytes]:
        """A stream of events, the last of which says what was used, if asked for."""
        text: list[str] = []
        yield self._event({"role": "assistant", "content": ""})
        async for piece in said:
            text.append(piece)
            yield self._event({"content": piece})
        usage = await run_in_threadpool(self._usage, "".join(text))
        yield self._event({}, self._end(usage))
        if (self._body.get("stream_options") or {}).get("include_usage"):
            yield _line(self._encoded("chat.completion.chunk", [], usage=usage))
        yield _line(b"[DONE]")

    def _event(self, delta: Mapping[str, str], end: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}
        return _line(self._encoded("chat.completion.chunk", [choice]))

    def _encoded(self, kind: str, choices: Sequence[Mapping[str, Any]], **more: Any) -> bytes:
        head = {**self._head, "object": kind, "model": self._model.name}
        return json.dumps({**head, "choices": choices, **more}).encode("ascii")

    def _usage(self, text: str) -> dict[str, int]:
        asked = sum(self._model.count_tokens(one["content"]) for one in self._messages)
        said = self._model.count_tokens(text)
        return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}

    def _end(self, usage: Mapping[str, int]) -> str:
        return "length" if usage["completion_tokens"] >= self._limit else "stop"


def _refused(chat: Chat) -> str:
    """Why a chat cannot be answered; empty where it can."""
    body = chat.body
    if named := [name for name in _REFUSED if body.get(name) not in _PLAIN]:
        return f"this language model cannot do: {', '.join(named)}"
    if body.get("n") not in (None, 1):
        return "this language model gives one answer at a time"
    if not chat.messages:
        return "messages must be a list of at least one message"
    contents = [one["content"] for one in chat.messages if isinstance(one.get("content"), list)]
    if any(
        not isinstance(part, dict) or part.get("type") != "text" for c in contents for part in c
    ):
        return "this language model takes text only"
    limits = [body.get(name) for name in ("max_completion_tokens", "max_tokens", "seed")]
    if any(one is not None and (type(one) is not int or one < 0) for one in limits):
        return "max_completion_tokens, max_tokens and seed must be whole numbers from 0"
    temperature = body.get("temperature")
    if temperature is not None and (type(temperature) not in (int, float) or temperature < 0):
        return "temperature must be a number from 0"
    return ""


def _role(message: Mapping[str, Any]) -> str:
    role = str(message.get("role"))
    return "system" if role == "developer" else role


def _received(body: str, status: int = 200) -> Received:
    async def pieces() -> AsyncIterator[bytes]:
        yield body.encode("ascii")

    async def close() -> None:
        pass

    return Received(status, _JSON, pieces(), close)


async def _one_by_one(first: str | None, pieces: Iterator[str]) -> AsyncIterator[str]:
    piece = first
    while piece is not None:
        yield piece
        try:
            piece = await run_in_threadpool(next, pieces, None)
        except BackendError as error:
            raise NoAnswer(502, "the language model failed") from error


def _closing(pieces: Generator[str]) -> Callable[[], Any]:
    async def close() -> None:
        await run_in_threadpool(pieces.close)

    return close


def _line(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
