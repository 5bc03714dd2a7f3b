"""Keys of the service: how they look, what they allow, and whom they are for.

A key is 32 random bytes behind a public id. Kept is its SHA-256: a slow hash would protect what
people choose, which can be guessed; of 2**256 equally likely keys none can be, however fast one
tries. Keys are bound to a namespace, and tokens to one user of it. Changing a key is making a new
one and revoking the old one. Knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from copersona.errors import ConfigError, UnknownUserError
from copersona.interactions import check
from copersona.records import Interaction
from copersona.storage.key_ring import KeptKey, KeyRing

Scope = Literal["admin", "write", "read"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""`read` asks, `write` adds and changes, `admin` does all, and takes out and erases whole users."""

_PREFIX = "cp"
_NOTHING = bytes(32)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: what the key they hold allows.

    Attributes:
        mark: of the only user they are; None where they speak for the whole namespace.
    """

    key_id: str
    namespace: str
    scopes: frozenset[str]
    mark: bytes | None

    def has(self, scope: Scope) -> bool:
        """Whether the key has a scope, by name or as an administrator's."""
        return scope in self.scopes or "admin" in self.scopes


class Keys:
    """The keys that open the service."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    def create(
        self, namespace: str, scopes: Collection[str], *, user: str | None = None
    ) -> tuple[KeptKey, str]:
        """A new key as it is kept, and as it is handed out, which is never shown again.

        Args:
            user: whom a token is for; it sees and changes this user only.

        Raises:
            ConfigError: no scope, an unknown one, or `admin` for one user.
            DataError: no such user can be, or they were forgotten.
        """
        if not scopes or set(scopes) - set(SCOPES):
            raise ConfigError(f"a key needs scopes out of {', '.join(SCOPES)}")
        if user is not None:
            check(Interaction(user=user, response="-"))
            if "admin" in scopes:
                raise ConfigError("a token for one user cannot have the scope admin")
        secret = secrets.token_urlsafe(32)
        key = KeptKey(
            secrets.token_hex(6), namespace, _hash(secret), frozenset(scopes),
            None if user is None else self.mark(namespace, user), time.time(),
        )  # fmt: skip
        self._ring.add(key)
        return key, f"{_PREFIX}_{key.id}_{secret}"

    def caller(self, text: str) -> Caller | None:
        """Who holds this key; None where there is no such key, or none any more."""
        prefix, _, rest = text.partition("_")
        key_id, _, secret = rest.partition("_")
        kept = self._ring.find(key_id) if prefix == _PREFIX else None
        # Also without a key of that id, so that the time taken does not tell whether there is one.
        is_right = hmac.compare_digest(_hash(secret), kept.hash if kept else _NOTHING)
        if kept is None or not is_right:
            return None
        return Caller(kept.id, kept.namespace, kept.scopes, kept.mark)

    def of(self, namespace: str, *, user: str | None = None) -> list[KeptKey]:
        """The keys of a namespace, oldest first; only the tokens of a user where one is named."""
        kept = self._ring.all(namespace)
        mark = None if user is None else self.mark(namespace, user)
        return [key for key in kept if mark is None or key.mark == mark]

    def revoke(self, namespace: str, key_id: str) -> None:
        """Let a key open nothing any more, from the next request on.

        Raises:
            UnknownUserError: this namespace has no key of that id.
        """
        if not self._ring.remove(namespace, key_id):
            raise UnknownUserError(f"no key {key_id!r} in namespace {namespace!r}")

    def first(self, namespace: str) -> str | None:
        """An administrator's key, where the namespace has none yet; None where it has one."""
        if any("admin" in key.scopes for key in self._ring.all(namespace)):
            return None
        return self.create(namespace, ["admin"])[1]

    def check(self) -> None:
        """Ask the database something.

        Raises:
            StoreError: it does not answer.
        """
        self._ring.find("")

    def mark(self, namespace: str, user: str) -> bytes:
        """What stands for a user where the name must not: in tokens and in the audit log."""
        return self.marks(namespace, [user])[0]

    def marks(self, namespace: str, users: Sequence[str]) -> list[bytes]:
        """The same of several; an alias has the mark of its user."""
        return self._ring.marks(namespace, users)

    def mark_of_trace(self, namespace: str, trace_id: str) -> bytes | None:
        """What stands for the user of a trace; None where there is no such trace."""
        return self._ring.mark_of_trace(namespace, trace_id)

    def user_of(self, mark: bytes) -> str | None:
        """Whom a mark stands for; None where nothing is kept of them."""
        return self._ring.user_of(mark)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
