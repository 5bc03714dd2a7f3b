"""Errors over HTTP: one form for all of them, and one table from error classes to statuses.

The form is `application/problem+json` (RFC 9457). What went wrong inside is written to the log and
not into the answer: paths, addresses and other people's words stay here. Nothing of a request is
repeated but what the messages of our own errors say of it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response

from copersona.errors import (
    ArtifactError,
    BackendError,
    ConfigError,
    CoPersonaError,
    DataError,
    NotFittedError,
    StoreError,
    UnknownUserError,
)

MEDIA_TYPE = "application/problem+json"
TYPE_ROOT = "urn:copersona:problem:"

_log = logging.getLogger("copersona.service")

# The first class that fits gives kind and status; the detail is the error's own message where its
# words are about the request, and otherwise the sentence given here.
_TABLE: tuple[tuple[type[CoPersonaError], str, int, str], ...] = (
    (ConfigError, "wrong-setting", 422, ""),
    (DataError, "wrong-data", 422, ""),
    (UnknownUserError, "unknown", 404, ""),
    (NotFittedError, "not-fitted", 409, ""),
    (ArtifactError, "no-sound-state", 503, "no fitted state is sound; see the log of the server"),
    (StoreError, "store-failed", 503, "the store failed; see the log of the server"),
    (BackendError, "model-failed", 502, "an encoder or model failed; see the log of the server"),
    (CoPersonaError, "failed", 500, "see the log of the server"),
)
_KINDS = {400: "broken-request", 401: "no-key", 403: "not-allowed", 404: "unknown",
          405: "wrong-method", 413: "too-large", 422: "wrong-data", 429: "too-many",
          500: "bug", 502: "model-failed", 504: "model-late"}  # fmt: skip


class FieldProblem(BaseModel):
    """One field of a request that is wrong."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    field: str
    """Where it is, from the outside in."""
    reason: str
    """What is wrong with it."""


class Problem(BaseModel):
    """Why a request was not answered, as RFC 9457 has it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    """Which kind of problem, as a URN; stays the same from version to version."""
    title: str
    """The status in words."""
    status: int
    """The HTTP status."""
    detail: str
    """What was wrong, and what to do."""
    instance: str
    """The path that was asked."""
    errors: list[FieldProblem] = []
    """Where single fields are wrong: which, and why."""


def problem(
    path: str,
    status: int,
    detail: str,
    *,
    kind: str = "",
    fields: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer to a request that fails.

    Args:
        kind: last part of `type`; from the status where empty.
    """
    said = Problem(
        type=TYPE_ROOT + (kind or _KINDS.get(status, "failed")), title=HTTPStatus(status).phrase,
        status=status, detail=detail, instance=path, errors=list(fields),
    )  # fmt: skip
    exclude = set() if fields else {"errors"}
    # Not by pydantic: what the request says of itself may be no valid Unicode.
    body = json.dumps(said.model_dump(exclude=exclude))
    return Response(body, status, headers=headers, media_type=MEDIA_TYPE)


def handle_problems(app: FastAPI) -> None:
    """Have an application answer all that is raised on purpose with a problem."""
    app.add_exception_handler(CoPersonaError, _of_ours)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_fields)


class Told(NamedTuple):
    """What is said to the asker of one of our own errors."""

    kind: str
    status: int
    detail: str


def told(error: Exception) -> Told:
    """What is said of one of our own errors."""
    return next(
        Told(kind, status, detail or str(error))
        for one, kind, status, detail in _TABLE
        if isinstance(error, one)
    )


def answered(error: Exception) -> Told:
    """The same, with what it keeps from the asker written to the log."""
    said = told(error)
    if said.detail != str(error):
        _log.error("%s: %s", type(error).__name__, error)
    return said


def of_ours(path: str, error: Exception) -> Response:
    """The answer where one of our own errors was raised."""
    said = answered(error)
    return problem(path, said.status, said.detail, kind=said.kind)


async def _of_ours(request: Request, error: Exception) -> Response:
    return of_ours(request.url.path, error)


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(request.url.path, error.status_code, error.detail, headers=error.headers)


async def _of_fields(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = [FieldProblem(field=_place(one["loc"]), reason=reason(one)) for one in error.errors()]
    named = ", ".join(dict.fromkeys(one.field for one in fields))
    return problem(request.url.path, 422, f"wrong or missing: {named}", fields=fields)


def _place(location: Sequence[object]) -> str:
    inner = location[1:] if location[0] in ("body", "path", "query") else location
    return ".".join(map(str, inner)) or str(location[0])


def reason(error: Mapping[str, Any]) -> str:
    """What pydantic found wrong, in the words of our own error where it was one of ours."""
    cause = error.get("ctx", {}).get("error")
    return cause.reason if isinstance(cause, DataError) else str(error["msg"])
