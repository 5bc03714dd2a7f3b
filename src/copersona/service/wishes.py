"""What a client may ask of the gateway, by headers of ours; nothing of it goes any further."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from starlette.datastructures import Headers

from copersona.errors import DataError
from copersona.records import BOTH, Branches
from copersona.service.requests import MAX_BUDGET_TOKENS, checked_user

USER, SWITCH, BRANCHES = "X-CoPersona-User", "X-CoPersona", "X-CoPersona-Branches"
BUDGET, CAPTURE, THREAD = "X-CoPersona-Budget", "X-CoPersona-Capture", "X-CoPersona-Thread"
PERSONALISED, TRACE = "X-CoPersona-Personalised", "X-CoPersona-Trace"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the headers of one request say; what they leave out is None, or the usual.

    Attributes:
        user: who asks.
        is_off: nothing is to be personalised.
        captures: whether the user's words are to be kept.
        thread: the conversation these belong to.
    """

    user: str | None = None
    is_off: bool = False
    branches: Branches = BOTH
    budget_tokens: int | None = None
    captures: bool | None = None
    thread: str | None = None

    @classmethod
    def of(cls, headers: Headers) -> Wishes:
        """The wishes of a request.

        Raises:
            DataError: a header does not say what it may; names it.
            ConfigError: it names no branches.
        """
        user, branches = _text(headers, USER), headers.get(BRANCHES)
        return cls(
            checked_user(user) if user else None, _switch(headers, SWITCH) is False,
            Branches.named(branches) if branches else BOTH, _budget(headers),
            _switch(headers, CAPTURE), _text(headers, THREAD),
        )  # fmt: skip


def _text(headers: Headers, name: str) -> str | None:
    """A header can hold no more than ASCII, so that names come percent-encoded."""
    try:
        return unquote(headers.get(name, ""), errors="strict") or None
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8, percent-encoded", field=name) from error


def _switch(headers: Headers, name: str) -> bool | None:
    said = headers.get(name, "").lower()
    if said not in ("", "on", "off"):
        raise DataError("must be on or off", field=name)
    return said == "on" if said else None


def _budget(headers: Headers) -> int | None:
    said = headers.get(BUDGET, "")
    if not said:
        return None
    if not (said.isascii() and said.isdecimal() and 1 <= int(said[:9]) <= MAX_BUDGET_TOKENS):
        raise DataError(f"must be a number from 1 to {MAX_BUDGET_TOKENS:,}", field=BUDGET)
    return int(said)
