"""What stands in front of every request: its key, its size, and how every answer leaves.

Only the paths that are named here are open; every other needs a key, before a byte of the body is
read and whether or not there is such a path. Nothing that goes wrong behind it leaves as anything
but a problem, and the log gets where it arose, never what the error says: that may quote somebody.
"""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from copersona.errors import StoreError
from copersona.service.access import Access
from copersona.service.limits import Limits
from copersona.service.metrics import Metrics
from copersona.service.problems import of_ours, problem

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json"})
MAX_BODY_BYTES = 10 * 2**20

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_NO_KEY = "a valid key is needed: Authorization: Bearer KEY"
_TOO_MANY = "too many requests; the header Retry-After says when to ask again"
_TOO_LARGE = f"the body is larger than {MAX_BODY_BYTES:,} bytes"

_log = logging.getLogger("copersona.service")


class Guard:
    """Lets in who has a key, and gives every answer its headers.

    Args:
        access_of: what the holder of a key may do; None where there is no such key.
        limits: how much is let in.
        metrics: counts what is not.
    """

    def __init__(
        self,
        app: ASGIApp,
        access_of: Callable[[str], Access | None],
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._app, self._access_of = app, access_of
        self._limits, self._metrics = limits, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        is_begun = False

        async def sending(message: Message) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            await self._serve(scope, receive, sending)
        except Exception as error:  # noqa: BLE001  the last handler
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("a bug: %s\n%s", type(error).__name__, where)
            if not is_begun:
                await problem(scope["path"], 500, "a bug; see the log of the server")(
                    scope, receive, sending
                )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        # As it was sent: a user id may have a slash in it, which must not end a path segment.
        scope["path"] = scope["raw_path"].decode("ascii", "replace")
        refused = await self._refused(scope)
        if refused is None:
            await self._app(scope, _counted(receive), send)
        else:
            await refused(scope, receive, send)

    async def _refused(self, scope: Scope) -> Response | None:
        """The answer to a request that is not served; None where the key fits, and is noted."""
        path, headers = scope["path"], Headers(scope=scope)
        if path not in OPEN_PATHS:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            key = key.strip() if scheme.lower() == "bearer" else ""
            try:
                access = await run_in_threadpool(self._access_of, key) if key else None
            except StoreError as error:
                return of_ours(path, error)
            if access is None:
                return self._unknown(scope)
            scope.setdefault("state", {})["access"] = access
            if wait_s := self._limits.requests.take(access.key_id):
                return self._too_many(path, wait_s)
        if _declared(headers) > MAX_BODY_BYTES:
            return problem(path, 413, _TOO_LARGE)
        return None

    def _unknown(self, scope: Scope) -> Response:
        """The answer where no key fits."""
        # A key that fits is never held up by others' failures: one address may be everybody's.
        self._metrics.no_key.inc()
        address, _ = scope.get("client") or ("", 0)
        if wait_s := self._limits.failures.take(address):
            return self._too_many(scope["path"], wait_s)
        return problem(scope["path"], 401, _NO_KEY, headers={"www-authenticate": "Bearer"})

    def _too_many(self, path: str, wait_s: float) -> Response:
        self._metrics.rate_limited.inc()
        return problem(path, 429, _TOO_MANY, headers={"retry-after": str(math.ceil(wait_s))})


def _declared(headers: Headers) -> int:
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


def _counted(receive: Receive) -> Receive:
    """The same body, which must not be longer than it may be, whatever was declared."""
    n_bytes = 0

    async def receiving() -> Message:
        nonlocal n_bytes
        message = await receive()
        n_bytes += len(message.get("body", b""))
        if n_bytes > MAX_BODY_BYTES:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return receiving
