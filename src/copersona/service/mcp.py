"""The MCP server's two ways in: standard input and output, and HTTP.

Over standard input and output it is a process of the operator, who may do everything in one
namespace, or what the only user it is for may do. Over HTTP it is the service by another protocol:
every request needs a key, seen by the same guard, and a key allows what it allows there. There are
no sessions, so that nothing outlives the request a key came with.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from copersona.pipeline import CoPersona
from copersona.service.access import Access
from copersona.service.engines import Engines
from copersona.service.guard import MAX_BODY_BYTES, Guard
from copersona.service.keys import Caller, Keys
from copersona.service.limits import Limits
from copersona.service.metrics import Metrics
from copersona.service.operation import AUDIT_DAYS, Operation
from copersona.service.requests import checked_user
from copersona.service.tools import build_server
from copersona.service.trail import Trail

PATH = "/mcp"


def build_local_server(engine: CoPersona, *, user: str | None = None) -> MCPServer[Any]:
    """The server of a process that the operator runs.

    Args:
        user: the only user it is for, as a token would be.

    Raises:
        DataError: nobody can be called that.
    """
    keys, everything = Keys(engine.store.keys), frozenset({"admin"})
    caller = Caller("stdio", engine.namespace, everything, None)
    about = ""
    if user is not None:
        mark = keys.mark(engine.namespace, checked_user(user))
        caller = Caller("stdio", engine.namespace, frozenset({"read", "write"}), mark)
        about = f"It is for one user, whose id is {user!r}."
    trail = Trail(engine.store.audit, AUDIT_DAYS)
    return build_server(
        lambda _: Access(caller, keys, lambda _: engine, trail), about=about,
        lifespan=partial(_lived, trail, None),
    )  # fmt: skip


def build_mcp_app(
    engine_of: Callable[[str], CoPersona], keys: Keys, operation: Operation, host: str
) -> Starlette:
    """The server over HTTP, for the front doors of any number of namespaces.

    Args:
        engine_of: opens the front door of a namespace; called once for each, and closed at the end.
        keys: who may ask; not closed.
        operation: how it is run.
        host: where it will listen; on this machine's own addresses the SDK refuses requests that a
            web page of elsewhere had sent here under another name. On others any name may be that
            of a server in front; such a page has no key, and a browser adds none.
    """
    engines, trail = Engines(engine_of), Trail(operation.store.audit, operation.audit_days)
    limits = Limits.of(operation.requests_per_minute, operation.failures_per_minute)

    def access_of(key: str) -> Access | None:
        caller = keys.caller(key)
        return None if caller is None else Access(caller, keys, engines.of, trail)

    app = build_server(_noted, lifespan=partial(_lived, trail, engines.close)).streamable_http_app(
        streamable_http_path=PATH, host=host, json_response=True, stateless_http=True,
        max_request_body_size=MAX_BODY_BYTES,
    )  # fmt: skip
    (route,) = app.routes
    assert isinstance(route, Route)
    route.methods = {"POST"}  # what the SDK would keep open for the others has nothing to say
    app.add_middleware(Guard, access_of=access_of, limits=limits, metrics=Metrics())
    return app


@asynccontextmanager
async def _lived(
    trail: Trail, close: Callable[[], None] | None, _: MCPServer[Any]
) -> AsyncIterator[None]:
    """What lives as long as a server: the audit log is written, and at the end all is closed."""
    trail.start()
    yield
    await run_in_threadpool(trail.stop)
    if close is not None:
        close()


def _noted(context: Context[Any, Any]) -> Access:
    """What the guard noted of the request, without which nothing is reached."""
    request = context.request_context.request
    assert request is not None
    access: Access = request.state.access
    return access
