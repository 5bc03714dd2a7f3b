"""OpenAI's chat completions, personalised on their way to a language model.

An existing application is personalised by changing its base URL and sending `user`. A chat is never
lost to personalisation: where that fails, the request goes on as it came, and says so.
"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import anyio
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from copersona.errors import CoPersonaError
from copersona.pipeline import CoPersona
from copersona.records import Context
from copersona.service.access import Access
from copersona.service.capturing import own_words
from copersona.service.gateway import Gateway
from copersona.service.metering import Meter
from copersona.service.parameters import Asker, TheGateway
from copersona.service.personalising import Chat
from copersona.service.problems import problem
from copersona.service.requests import checked_text, is_user
from copersona.service.upstream import NoAnswer, Received, Sent, Upstream
from copersona.service.wishes import PERSONALISED, TRACE, Wishes

Personalised = Literal["yes", "no", "holdout", "off"]
_ACTIONS: dict[Personalised, str] = {
    "yes": "chat", "no": "chat", "holdout": "chat, held out", "off": "chat, switched off"
}  # fmt: skip
_NOT_JSON = "the body must be a JSON object in UTF-8"
_NO_UPSTREAM = "no language model is configured"
_CLIENT_GONE = 499
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {
    "type": "object", "description": "As OpenAI has it; what is not known is passed on.",
}}}}}  # fmt: skip

_T = TypeVar("_T")
_log = logging.getLogger("copersona.service")

router = APIRouter(tags=["chat"])


@router.post("/chat/completions", openapi_extra=_BODY, response_class=Response)
async def complete(request: Request, access: Asker, gateway: TheGateway) -> Response:
    """A chat completion of the language model behind this service, personalised for its user.

    Everything is passed through untouched, but for the messages that personalisation adds. The user
    is that of the token, else of the header `X-CoPersona-User`, else of the field `user`; without
    any, and where personalisation fails, the request goes on as it came.
    """
    try:
        chat = Chat.read(await request.body())
    except ValueError as error:
        raise HTTPException(400, _NOT_JSON) from error
    wishes = Wishes.of(request.headers)
    ready = await run_in_threadpool(_prepare, access, gateway, chat, wishes)
    sent = Sent(ready.text, chat, ready.context, request.url.query)

    async def answered(upstream: Upstream) -> Response:
        received = await upstream.complete(sent)
        meter = Meter(is_stream=received.is_stream)

        async def finish() -> None:
            await received.close()
            if received.status < 400:
                await run_in_threadpool(_note, ready, gateway, meter, access.key_id, sent)

        headers = {**received.headers, **ready.headers}
        if received.is_stream:
            return _Passing(_watched(received, meter), received.status, headers, finish)
        try:
            body = await received.read()
            meter.feed(body)
        finally:
            await finish()
        return Response(body, received.status, headers)

    return await _of_upstream(request, gateway, answered, ready.headers)


@router.get("/models", response_class=Response)
async def models(request: Request, access: Asker, gateway: TheGateway) -> Response:
    """The models that can be asked for, as the language model behind this service tells them."""
    await run_in_threadpool(access.to, [], "models", "read")

    async def answered(upstream: Upstream) -> Response:
        received = await upstream.models()
        try:
            return Response(await received.read(), received.status, dict(received.headers))
        finally:
            await received.close()

    return await _of_upstream(request, gateway, answered, {})


# ---- before: whose chat it is, and what is added ------------------------------------------------


@dataclass(frozen=True)
class _Ready:
    """A request as it is to be sent.

    Attributes:
        engine: None where the store cannot be reached.
    """

    text: str
    how: Personalised
    engine: CoPersona | None = None
    user: str | None = None
    context: Context | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What the client is told of it."""
        trace = self.context.trace_id if self.context else ""
        return {PERSONALISED: self.how} | ({TRACE: trace} if trace else {})


def _prepare(access: Access, gateway: Gateway, chat: Chat, wishes: Wishes) -> _Ready:
    """Who asks, whether they may, and what goes to the model."""
    users = _users(access, chat, wishes)
    how: Personalised = "yes" if users else "no"
    if wishes.is_off:
        how = "off"
    elif users and gateway.is_held_out(access.mark_of(users[0]), chat.text):
        how = "holdout"
    try:
        engine = access.to(users, _ACTIONS[how], "read")
    except CoPersonaError as error:
        _say_why(error)
        return _Ready(chat.text, "no" if how == "yes" else how)
    if not users or not is_user(users[0]):
        return _Ready(chat.text, "no" if how == "yes" else how, engine)
    user, is_captured = users[0], gateway.captures and access.has("write")
    if wishes.captures is not None:
        is_captured = wishes.captures
    if wishes.captures:
        access.to(users, "capture", "write")
    ready = _Ready(chat.text, how, engine, user)
    if how == "yes":
        ready = _personalised(chat, wishes, engine, user)
    if is_captured:
        _capture(engine, chat, user, wishes.thread or chat.thread, gateway)
    return ready


def _users(access: Access, chat: Chat, wishes: Wishes) -> list[str]:
    """Whoever the request says it is of; of a token all whom it names must be its user."""
    named = [name for name in (wishes.user, chat.named("user")) if name]
    if not access.is_for_one_user:
        return named[:1]
    try:
        own = [access.own_user] if not named else []
        return [*dict.fromkeys(named), *filter(None, own)]
    except CoPersonaError as error:
        _say_why(error)
        return []


def _personalised(chat: Chat, wishes: Wishes, engine: CoPersona, user: str) -> _Ready:
    try:
        checked_text(chat.asked)
        context = engine.prompt(
            user, chat.asked, budget_tokens=wishes.budget_tokens, branches=wishes.branches
        )
        text = chat.personalised(context)
    except Exception as error:  # noqa: BLE001  whatever it is, the chat goes on
        _say_why(error)
        return _Ready(chat.text, "no", engine, user)
    how: Personalised = "yes" if context.is_personalised else "no"
    return _Ready(text, how, engine, user, context)


def _capture(
    engine: CoPersona, chat: Chat, user: str, thread: str | None, gateway: Gateway
) -> None:
    try:
        found = own_words(chat, user, thread, gateway.echoes, engine.namespace)
        if found is not None:
            engine.add([found])
    except Exception as error:  # noqa: BLE001  the same
        _say_why(error)


def _say_why(error: Exception) -> None:
    """Kind and place: what an error says may quote somebody."""
    where = "" if isinstance(error, CoPersonaError) else "\n" + "".join(
        traceback.format_tb(error.__traceback__)
    )  # fmt: skip
    _log.warning("a chat goes on without: %s%s", type(error).__name__, where)


# ---- after: the answer --------------------------------------------------------------------------


async def _of_upstream(
    request: Request,
    gateway: Gateway,
    answered: Callable[[Upstream], Coroutine[Any, Any, Response]],
    headers: dict[str, str],
) -> Response:
    """The answer, or the problem that there is none; stops asking where the client is gone."""
    path = request.url.path
    if gateway.upstream is None:
        return problem(path, 502, _NO_UPSTREAM, headers=headers)
    try:
        return await _unless_gone(request, answered(gateway.upstream)) or Response(
            status_code=_CLIENT_GONE
        )
    except NoAnswer as failure:
        return problem(path, failure.status, str(failure), headers=headers)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T | None:
    """What comes of it; None, and it is stopped, where the client goes away before."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for one in (working, leaving):
            one.cancel()
        await asyncio.wait({working, leaving})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _watched(received: Received, meter: Meter) -> AsyncIterator[bytes]:
    """The answer as it comes; one that breaks off ends with an event that says so."""
    try:
        async for piece in received.body:
            meter.feed(piece)
            yield piece
    except NoAnswer as failure:
        error = {"message": str(failure), "type": "upstream_error", "code": failure.status}
        yield f"\n\ndata: {json.dumps({'error': error})}\n\n".encode("ascii")


class _Passing(StreamingResponse):
    """A stream that is finished properly however it ends, also where the client goes away."""

    def __init__(
        self,
        body: AsyncIterator[bytes],
        status: int,
        headers: dict[str, str],
        finish: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(body, status, headers)
        self._finish = finish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._finish()


def _note(ready: _Ready, gateway: Gateway, meter: Meter, key_id: str, sent: Sent) -> None:
    """Remember what the model said, as hashes, and count what it took."""
    gateway.echoes.note(meter.said)
    if ready.engine is None or gateway.upstream is None:
        return
    used = meter.usage(key_id, gateway.upstream.model(sent.chat), sent)
    try:
        ready.engine.store.usage.add(ready.engine.namespace, ready.user, used)
    except CoPersonaError as error:
        _say_why(error)
