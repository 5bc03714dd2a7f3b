"""The one way to a user's data: who may do what to whom is decided here, and written down.

No handler has a front door until it has named the users it is about. A token that is for another
user is refused before anything is read, and with the same words whether or not that user exists.
The audit log names users by their mark, so that no log keeps the name of somebody who was
forgotten, and holds no text of anybody. What changes something is in it before it is done.
"""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Callable, Collection
from typing import Any

from starlette.exceptions import HTTPException

from copersona.errors import UnknownUserError
from copersona.pipeline import CoPersona
from copersona.service.keys import Caller, Keys, Scope
from copersona.service.trail import Trail
from copersona.storage.audit_log import AuditLine, mark_text

NOT_ALLOWED = "this key does not allow that"
NO_TRACE = "no such trace"

audit = logging.getLogger("copersona.audit")


class Access:
    """What one caller may do, for the length of one request."""

    def __init__(
        self, caller: Caller, keys: Keys, engine_of: Callable[[str], CoPersona], trail: Trail
    ) -> None:
        self._caller, self._keys, self._engine_of = caller, keys, engine_of
        self._trail = trail

    @property
    def key_id(self) -> str:
        """Of the key that was shown."""
        return self._caller.key_id

    @property
    def namespace(self) -> str:
        """Where the key is good."""
        return self._caller.namespace

    @property
    def is_for_one_user(self) -> bool:
        """Whether the key is a token, and not for the whole namespace."""
        return self._caller.mark is not None

    @property
    def mark(self) -> bytes | None:
        """Of the only user a token is for; None of any other key."""
        return self._caller.mark

    @property
    def own_user(self) -> str | None:
        """Whom a token is for, as far as anything is kept of them."""
        mark = self._caller.mark
        return None if mark is None else self._keys.user_of(mark)

    def has(self, scope: Scope) -> bool:
        """Whether the key has a scope."""
        return self._caller.has(scope)

    def mark_of(self, user: str) -> bytes:
        """What stands for a user of the caller's namespace."""
        return self._keys.mark(self._caller.namespace, user)

    def to(
        self, users: Collection[str], action: str, needs: Scope, *, by_self: Scope | None = None
    ) -> CoPersona:
        """The front door, to do something to these users.

        Args:
            action: what the audit log calls it.
            by_self: the scope that is enough for a token, where it is another one.

        Raises:
            HTTPException: 403, the key lacks the scope or is for somebody else.
            StoreError: what is to be done cannot be written down, and so is not done.
        """
        scope = by_self if by_self and self.is_for_one_user else needs
        marks = self._keys.marks(self._caller.namespace, list(users))
        is_allowed = self._caller.has(scope) and all(map(self._is_theirs, marks))
        self._write_down(action, marks, is_allowed=is_allowed, is_change=needs != "read")
        if not is_allowed:
            raise HTTPException(403, NOT_ALLOWED)
        return self._engine_of(self._caller.namespace)

    def to_trace(self, trace_id: str, action: str, needs: Scope) -> CoPersona:
        """The front door, to do something about one trace.

        Args:
            action: what the audit log calls it.

        Raises:
            HTTPException: 403, the key lacks the scope.
            UnknownUserError: no such trace, or one of a user whom a token is not for.
        """
        if not self._caller.has(needs):
            self._write_down(action, [], is_allowed=False)
            raise HTTPException(403, NOT_ALLOWED)
        # Nothing of the trace is read before, so that a refusal takes as long as an unknown one.
        mark = self._keys.mark_of_trace(self._caller.namespace, trace_id)
        is_allowed = mark is not None and self._is_theirs(mark)
        marks, is_change = [mark] if mark else [], needs != "read"
        self._write_down(action, marks, is_allowed=is_allowed, is_change=is_change)
        if not is_allowed:
            raise UnknownUserError(NO_TRACE)
        return self._engine_of(self._caller.namespace)

    def _is_theirs(self, mark: bytes) -> bool:
        """Whether the key is for this user, or for everybody of the namespace."""
        return self._caller.mark is None or hmac.compare_digest(mark, self._caller.mark)

    def _write_down(
        self, action: str, marks: list[bytes], *, is_allowed: bool, is_change: bool = False
    ) -> None:
        caller = self._caller
        line = AuditLine(
            round(time.time(), 3), caller.namespace, caller.key_id, action,
            tuple(map(mark_text, marks)), is_allowed,
        )  # fmt: skip
        self._trail.add(line, at_once=is_allowed and is_change)
        said: dict[str, Any] = {
            "at": line.at, "action": action, "namespace": line.namespace, "key": line.key_id,
            "users": list(line.marks), "allowed": is_allowed,
        }  # fmt: skip
        audit.info(json.dumps(said))
