"""What routes share: who asks, and the names in a path.

The path comes as it was sent, so that a name may hold a slash; here it is read once.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Path, Request

from copersona.errors import DataError
from copersona.service.access import Access
from copersona.service.gateway import Gateway
from copersona.service.requests import checked_user
from copersona.service.watch import Notes


async def _access(request: Request) -> Access:
    access: Access = request.state.access  # noted by the guard, without which nothing is reached
    return access


async def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


async def _notes(request: Request) -> Notes:
    notes: Notes = request.state.notes
    return notes


async def _user(
    user: Annotated[str, Path(description="A user id; a slash in it is written %2F.")],
) -> str:
    return checked_user(_read(user, "user"))


async def _alias(
    alias: Annotated[str, Path(description="An id that stands for the user.")],
) -> str:
    return checked_user(_read(alias, "alias"))


async def _trace(
    trace_id: Annotated[str, Path(description="As it came with the context.")],
) -> str:
    return _read(trace_id, "trace_id")


def _read(sent: str, field: str) -> str:
    try:
        return unquote(sent, errors="strict")
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8", field=field) from error


Asker = Annotated[Access, Depends(_access)]
TheGateway = Annotated[Gateway, Depends(_gateway)]
Noting = Annotated[Notes, Depends(_notes)]
PathUser = Annotated[str, Depends(_user)]
PathAlias = Annotated[str, Depends(_alias)]
PathTrace = Annotated[str, Depends(_trace)]
