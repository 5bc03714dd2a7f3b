"""OpenAI's chat completions, personalised on their way to a language model.

An existing application is personalised by changing its base URL and sending `user`. A chat is never
lost to personalisation: where that fails, the request goes on as it came, and says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from copersona.service.gateway import Gateway
from copersona.service.metering import Meter
from copersona.service.parameters import Asker, Noting, TheGateway
from copersona.service.personalising import Chat
from copersona.service.preparing import Ready, going_on, prepare
from copersona.service.problems import problem
from copersona.service.upstream import NoAnswer, Received, Sent, Upstream
from copersona.service.wishes import Wishes

_NOT_JSON = "the body must be a JSON object in UTF-8"
_NO_UPSTREAM = "no language model is configured"
_CLIENT_GONE = 499
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {
    "type": "object", "description": "As OpenAI has it; what is not known is passed on.",
}}}}}  # fmt: skip

_T = TypeVar("_T")

router = APIRouter(tags=["chat"])


@router.post("/chat/completions", openapi_extra=_BODY, response_class=Response)
async def complete(request: Request, access: Asker, gateway: TheGateway, notes: Noting) -> Response:
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
    with notes.step("context"):
        ready = await run_in_threadpool(prepare, access, gateway, chat, wishes)
    if ready.context is not None:
        notes.context(access.namespace, ready.context.trace_id, is_personalised=ready.how == "yes")
    sent = Sent(ready.text, chat, ready.context, request.url.query)

    async def answered(upstream: Upstream) -> Response:
        with notes.step("upstream"):
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


def _note(ready: Ready, gateway: Gateway, meter: Meter, key_id: str, sent: Sent) -> None:
    """Remember what the model said, as hashes, and count what it took."""
    gateway.echoes.note(meter.said)
    if ready.engine is None or gateway.upstream is None:
        return
    with going_on():
        used = meter.usage(key_id, gateway.upstream.model(sent.chat), sent)
        ready.engine.store.usage.add(ready.engine.namespace, ready.user, used)
