"""The service as one application: routes, problems, the guard, and what is closed at the end.

Nothing is global: whoever makes an application brings the keys and what opens a namespace.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from copersona.pipeline import CoPersona
from copersona.service import asking, chat, histories, operating, people, spending
from copersona.service.access import Access
from copersona.service.answers import Health
from copersona.service.engines import Engines
from copersona.service.examples import add_examples
from copersona.service.gateway import Gateway
from copersona.service.guard import Guard
from copersona.service.jobs import Runner
from copersona.service.keys import Keys
from copersona.service.limits import Limits
from copersona.service.metrics import Metrics
from copersona.service.operation import Operation
from copersona.service.problems import MEDIA_TYPE, Problem, handle_problems
from copersona.service.refits import Refits
from copersona.service.tracing import Tracing
from copersona.service.trail import Trail
from copersona.service.watch import Watch

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": said}
    for status, said in {
        400: "the body cannot be read",
        401: "no key, or none that opens anything",
        403: "the key does not allow that",
        404: "not there, or not for this key",
        409: "nothing is fitted yet",
        413: "the body is too large",
        422: "something is wrong in the request",
        429: "too many requests",
        502: "the language model, or an encoder, failed",
        503: "the store, or the fitted state, cannot be read",
        504: "the language model did not answer in time",
    }.items()
}


class Service(FastAPI):
    """An application whose document says in which form problems come."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        if self.openapi_schema is None:
            document = super().openapi()
            add_examples(document)
            for routes in document["paths"].values():
                for route in routes.values():
                    for status, response in route["responses"].items():
                        if int(status) in _PROBLEMS:
                            response["content"] = {MEDIA_TYPE: response["content"].popitem()[1]}
        return super().openapi()


def build_app(
    engine_of: Callable[[str], CoPersona],
    keys: Keys,
    operation: Operation,
    gateway: Gateway | None = None,
) -> FastAPI:
    """The service over the front doors of any number of namespaces.

    Args:
        engine_of: opens the front door of a namespace; called once for each, and closed at the end.
            Jobs open it in processes of their own, so it is picklable.
        keys: who may ask; not closed.
        gateway: how chats are let through; where None, no language model answers them.
    """
    engines, metrics, tracing = Engines(engine_of), Metrics(), Tracing(operation.tracers)
    trail = Trail(operation.store.audit, operation.audit_days)
    refits = Refits(engines, operation.refit_after)
    runner = Runner(operation.store.jobs, engine_of, refits, operation.lost_after_s)
    gateway = gateway or Gateway()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        trail.start()
        runner.start()
        yield
        if gateway.upstream is not None:
            await gateway.upstream.close()
        await run_in_threadpool(runner.stop)
        engines.close()
        trail.stop()

    def access_of(key: str) -> Access | None:
        caller = keys.caller(key)
        return None if caller is None else Access(caller, keys, engines.of, trail)

    app = Service(
        title="CoPersona", version=version("copersona"), lifespan=lifespan,
        description="Personalise any LLM from a user's first interactions.",
        docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.gateway, app.state.metrics = gateway, metrics
    limits = Limits.of(operation.requests_per_minute, operation.failures_per_minute)
    app.add_middleware(Guard, access_of=access_of, limits=limits, metrics=metrics)
    app.add_middleware(Watch, metrics=metrics, tracing=tracing)
    handle_problems(app)
    # Says in the document that a key is needed; whether it fits, the guard has seen.
    bearer = HTTPBearer(auto_error=False, description="A key of the service.")
    v1 = APIRouter(prefix="/v1", responses=_PROBLEMS, dependencies=[Depends(bearer)])
    v1.include_router(histories.router)
    v1.include_router(asking.router)
    v1.include_router(people.router)
    v1.include_router(chat.router)
    v1.include_router(spending.router)
    v1.include_router(operating.router)
    app.include_router(v1)
    app.include_router(_health(keys))
    app.include_router(operating.metrics_router)
    return app


def _health(keys: Keys) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> Health:
        """Whether the process answers."""
        return Health(status="ok")

    @router.get("/readyz")
    def readyz() -> Health:
        """Whether the store answers as well."""
        keys.check()
        return Health(status="ok")

    return router
