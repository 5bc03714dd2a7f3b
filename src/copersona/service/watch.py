"""What is noted of every request: counted, timed, traced, logged, by its route, never its path.

`Watch` stands in front of the guard, so that what is refused is noted as well; handlers add to the
`Notes` of their request what only they know.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from copersona.records import Status
from copersona.service.access import Access
from copersona.service.metrics import Metrics
from copersona.service.tracing import Tracing

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

_log = logging.getLogger("copersona.requests")


class Notes:
    """What is noted of one request while it is answered.

    Attributes:
        trace_id: of the context that was made, for `/v1/explain`; empty where there is none.
    """

    def __init__(self, metrics: Metrics, tracing: Tracing) -> None:
        self._metrics, self._tracing = metrics, tracing
        self.trace_id = ""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A part of the request that has a span of its own."""
        with self._tracing.span(name):
            yield

    def context(self, namespace: str, trace_id: str, *, is_personalised: bool) -> None:
        """Note a context that was made."""
        self.trace_id = trace_id
        self._metrics.context(namespace, is_personalised=is_personalised)

    def interactions(self, namespace: str, outcomes: Mapping[Status, int]) -> None:
        """Note what became of interactions."""
        self._metrics.interactions(namespace, outcomes)


class Watch:
    """Notes every request of an application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing) -> None:
        self._app, self._metrics, self._tracing = app, metrics, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        notes = scope.setdefault("state", {})["notes"] = Notes(self._metrics, self._tracing)
        start, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with (
            self._metrics.in_flight.track_inprogress(),
            self._tracing.span("request", Headers(scope=scope)) as note,
        ):
            try:
                await self._app(scope, receive, sending)
            finally:
                seconds = time.perf_counter() - start
                fields = _fields(scope, status, notes.trace_id)
                self._metrics.answered(fields["route"], fields["method"], status, seconds)
                for name, value in fields.items():
                    note(f"copersona.{name}", value)
                _write(fields, seconds)


def _fields(scope: Scope, status: int, trace_id: str) -> dict[str, Any]:
    access: Access | None = scope["state"].get("access")
    method = scope["method"] if scope["method"] in _METHODS else "other"  # it may be any word
    return {"method": method, "route": _template(scope), "status": status,
            "key": access.key_id if access else "", "trace_id": trace_id}  # fmt: skip


def _write(fields: Mapping[str, Any], seconds: float) -> None:
    fields = {**fields, "ms": round(1_000 * seconds, 1)}
    text = " ".join(f"{name}={value}" for name, value in fields.items() if value != "")
    _log.info("%s", text, extra={"fields": fields})


def _template(scope: Scope) -> str:
    """The path as it is declared; empty where none is, or where nobody got that far."""
    # The route itself knows the part of its own router only.
    whole = scope.get("fastapi", {}).get("effective_route_context")
    return getattr(whole or scope.get("route"), "path", "")
