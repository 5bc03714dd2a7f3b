"""Before a chat goes to a language model: whose it is, what is added to it, what of it is kept.

Whatever fails here, the chat goes on without it; only what is not allowed stops it.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from copersona.errors import CoPersonaError
from copersona.pipeline import CoPersona
from copersona.records import Context
from copersona.service.access import Access
from copersona.service.capturing import own_words
from copersona.service.gateway import Gateway
from copersona.service.personalising import Chat
from copersona.service.requests import checked_text, is_user
from copersona.service.wishes import PERSONALISED, TRACE, Wishes

Personalised = Literal["yes", "no", "holdout", "off"]
_ACTIONS: dict[Personalised, str] = {
    "yes": "chat", "no": "chat", "holdout": "chat, held out", "off": "chat, switched off"
}  # fmt: skip

_log = logging.getLogger("copersona.service")


@dataclass(frozen=True)
class Ready:
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


def prepare(access: Access, gateway: Gateway, chat: Chat, wishes: Wishes) -> Ready:
    """Who asks, whether they may, and what goes to the model."""
    users = _users(access, chat, wishes)
    how: Personalised = "yes" if users else "no"
    if wishes.is_off:
        how = "off"
    elif users and gateway.is_held_out(access.mark_of(users[0]), chat.text):
        how = "holdout"
    engine = None
    try:
        engine = access.to(users, _ACTIONS[how], "read")
    except CoPersonaError as error:  # it is allowed, but the store cannot be opened
        _say_why(error)
    if engine is None or not users or not is_user(users[0]):
        return Ready(chat.text, "no" if how == "yes" else how, engine)
    user, is_captured = users[0], gateway.captures and access.has("write")
    if wishes.captures is not None:
        is_captured = wishes.captures
    if wishes.captures:
        access.to(users, "capture", "write")
    text, context = chat.text, None
    if how == "yes":
        with going_on():
            context = _context(chat, wishes, engine, user)
            text = chat.personalised(context)
    if is_captured:
        with going_on():
            _capture(engine, chat, user, wishes.thread or chat.thread, gateway)
    if how == "yes" and not (context and context.is_personalised):
        how = "no"
    return Ready(text, how, engine, user, context)


def _users(access: Access, chat: Chat, wishes: Wishes) -> list[str]:
    """Whoever the request says it is of; of a token all whom it names must be its user."""
    named = [name for name in (wishes.user, chat.named("user")) if name]
    if not access.is_for_one_user:
        return named[:1]
    with going_on():
        named = named or list(filter(None, [access.own_user]))
    return list(dict.fromkeys(named))


def _context(chat: Chat, wishes: Wishes, engine: CoPersona, user: str) -> Context:
    return engine.prompt(
        user, checked_text(chat.asked),
        budget_tokens=wishes.budget_tokens, branches=wishes.branches,
    )  # fmt: skip


def _capture(
    engine: CoPersona, chat: Chat, user: str, thread: str | None, gateway: Gateway
) -> None:
    found = own_words(chat, user, thread, gateway.echoes, engine.namespace)
    if found is not None:
        engine.add([found])


@contextmanager
def going_on() -> Iterator[None]:
    """Whatever fails here, the chat goes on; the log gets kind and place, never what it says."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  no chat is lost to personalisation
        _say_why(error)


def _say_why(error: Exception) -> None:
    is_ours = isinstance(error, CoPersonaError)
    where = "" if is_ours else "\n" + "".join(traceback.format_tb(error.__traceback__))
    _log.warning("a chat goes on without: %s%s", type(error).__name__, where)
