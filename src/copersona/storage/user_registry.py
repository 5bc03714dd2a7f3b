"""Who is in the store: rows of users by keyed mark, what each allows, and who was forgotten.

A user is looked up by a keyed hash of namespace and id, so that the mark of a forgotten user can be
kept (the tombstone) without keeping the user. A user may have aliases; here, and nowhere else, an
alias becomes the user it stands for. A row here never outlives a tombstone: whoever has a
row was not forgotten. This module neither reads nor erases histories.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from copersona.errors import DataError
from copersona.interactions import check
from copersona.records import Consent, Interaction
from copersona.storage.database import (
    Database,
    Scope,
    among,
    chunks,
    insert_many,
    rows_among,
    rows_in,
)
from copersona.storage.schema import (
    aliases,
    api_keys,
    departures,
    interactions,
    namespaces,
    store_keys,
    tombstones,
    user_mark,
    user_states,
    users,
)

NOT_REMEMBERED = "the user does not allow `remember`"
FORGOTTEN = "the user was forgotten; `readmit` lifts that"
NOTHING_ALLOWED = Consent(remember=False, learn=False, lend="no", train=False)

_CONSENT = (user_states.c.remember, user_states.c.learn, user_states.c.lend, user_states.c.train)
_REMEMBERS = (users.c.id, user_states.c.remember)

# Built once, since every request runs them.
_MARKED: sa.BindParameter[bytes] = sa.bindparam("mark")
_ROW = sa.select(users.c.id).where(users.c.mark == _MARKED)
_ALIAS = sa.select(aliases.c.user_id).where(aliases.c.mark == _MARKED)
_MEANT = among(sa.select(aliases.c.mark, users.c.mark).join_from(aliases, users), aliases.c.mark)
_THERE = among(sa.select(users.c.mark, *_REMEMBERS).join(user_states), users.c.mark)
_THERE_BY_ALIAS = among(
    sa.select(aliases.c.mark, *_REMEMBERS).join_from(aliases, users).join(user_states),
    aliases.c.mark,
)
_BURIED = among(sa.select(tombstones.c.mark), tombstones.c.mark)

_MARK_KEY = "user marks"
_PSEUDONYM_KEY = "pseudonyms"


class UserRegistry:
    """Users, consents and tombstones of one database."""

    def __init__(self, database: Database, default: Consent) -> None:
        self._database = database
        self._default = default
        self._key = _store_key(database, _MARK_KEY)

    def mark(self, namespace: str, name: str) -> bytes:
        """What stands for a name in indices and tombstones, whoever it is a name of."""
        return user_mark(self._key, namespace, name)

    def marks(self, connection: sa.Connection, namespace: str, names: Sequence[str]) -> list[bytes]:
        """The marks of the users whom these names stand for; a name nobody has, for itself."""
        marks = [self.mark(namespace, name) for name in names]
        found = rows_among(connection, _MEANT, dict.fromkeys(marks))
        meant = {alias: mark for alias, mark in found}
        return [meant.get(mark, mark) for mark in marks]

    def find(self, scope: Scope, user: str) -> int:
        """The row of the user with this name or alias; 0, which no row has, where there is none."""
        asked = {"mark": self.mark(scope.namespace, user)}
        return scope.connection.scalar(_ROW, asked) or scope.connection.scalar(_ALIAS, asked) or 0

    def admit(self, scope: Scope, names: Iterable[str]) -> tuple[dict[str, int], dict[str, str]]:
        """Rows of those whose words may be kept, made where needed; and the reason for the rest."""
        marks = {self.mark(scope.namespace, name): name for name in names}
        rows: dict[str, int] = {}
        refused: dict[str, str] = {}
        for mark, user_id, remember in self._there(scope, marks):
            name = marks.pop(mark)
            if self._default.remember if remember is None else remember:
                rows[name] = user_id
            else:
                refused[name] = NOT_REMEMBERED
        for mark in self._buried(scope, list(marks)):
            refused[marks.pop(mark)] = FORGOTTEN
        if self._default.remember:
            rows.update(self._create(scope, marks))
        else:
            refused.update(dict.fromkeys(marks.values(), NOT_REMEMBERED))
        return rows, refused

    def consent(self, scope: Scope, user: str) -> Consent:
        """What the user allows; nothing at all once forgotten."""
        query = sa.select(*_CONSENT).where(user_states.c.user_id == self.find(scope, user))
        row = scope.connection.execute(query).one_or_none()
        if row is not None:
            return self._consent_of(row)
        return NOTHING_ALLOWED if self.is_buried(scope, user) else self._default

    def consents(self, scope: Scope) -> dict[str, Consent]:
        """The users who differ from the default."""
        query = sa.select(*_CONSENT, users.c.name).join(users)
        query = query.where(users.c.namespace_id == scope.id, user_states.c.remember.is_not(None))
        found = {row.name: self._consent_of(row) for row in scope.connection.execute(query)}
        return {name: found[name] for name in sorted(found) if found[name] != self._default}

    def set_consent(self, scope: Scope, user: str, consent: Consent) -> int:
        """Note what the user allows; returns the user's row.

        Raises:
            DataError: the user was forgotten, or the id cannot be one.
        """
        user_id = self.enter(scope, user)
        change = sa.update(user_states).where(user_states.c.user_id == user_id)
        allowed: dict[str, Any] = {c.name: getattr(consent, c.name) for c in _CONSENT}
        scope.connection.execute(change.values(**allowed))
        return user_id

    def introduce(self, scope: Scope, names: Iterable[str], consent: Consent) -> list[int]:
        """Rows made for users never seen before, with what they allow.

        Passed over: who is there already, who was forgotten, and ids that cannot be one.
        """
        marks = {self.mark(scope.namespace, name): name for name in names if _is_user_id(name)}
        for mark, *_ in list(self._there(scope, marks)):
            del marks[mark]
        for mark in self._buried(scope, list(marks)):
            del marks[mark]
        made = list(self._create(scope, marks).values())
        allowed: dict[str, Any] = {c.name: getattr(consent, c.name) for c in _CONSENT}
        for part in chunks(made):
            change = sa.update(user_states).where(user_states.c.user_id.in_(part))
            scope.connection.execute(change.values(**allowed))
        return made

    def bury(self, scope: Scope, user: str) -> None:
        """Leave a tombstone for every name of a user, and let their tokens open nothing any more.

        The row of the user must go in the same transaction.
        """
        user_id = self.find(scope, user)
        names = sa.select(users.c.mark).where(users.c.id == user_id)
        joined = sa.select(aliases.c.mark).where(aliases.c.user_id == user_id)
        marks = scope.connection.scalars(names.union(joined)).all()
        for mark in marks or [self.mark(scope.namespace, user)]:
            self.bury_mark(scope, mark)

    def bury_mark(self, scope: Scope, mark: bytes) -> None:
        """The same of somebody of whom only the mark is known."""
        row = {"mark": mark, "namespace_id": scope.id}
        scope.connection.execute(self._database.insert_new(tombstones), {"mark": mark})
        scope.connection.execute(self._database.insert_new(departures), row)
        self.void_tokens(scope, mark)

    def void_tokens(self, scope: Scope, mark: bytes) -> None:
        """Let the tokens that are for a mark open nothing any more."""
        scope.connection.execute(sa.delete(api_keys).where(api_keys.c.mark == mark))

    def lift(self, scope: Scope, user: str) -> None:
        """Take the tombstone away, if there is one."""
        mark = self.mark(scope.namespace, user)
        scope.connection.execute(sa.delete(tombstones).where(tombstones.c.mark == mark))

    def enter(self, scope: Scope, user: str) -> int:
        """The user's row, made where needed, whatever the user allows.

        Raises:
            DataError: the user was forgotten, or the id cannot be one.
        """
        check(_row_of(user))  # an id that no row could have is refused
        if self.is_buried(scope, user):
            raise DataError(FORGOTTEN, field="user")
        mark = self.mark(scope.namespace, user)
        return self.find(scope, user) or self._create(scope, {mark: user})[user]

    def is_buried(self, scope: Scope, name: str) -> bool:
        """Whether a tombstone stands for this name."""
        return bool(self._buried(scope, [self.mark(scope.namespace, name)]))

    def buried_users(self, connection: sa.Connection) -> int:
        """How many users are there although a tombstone stands for them; 0 when sound."""
        query = sa.select(sa.func.count()).select_from(
            users.join(tombstones, users.c.mark == tombstones.c.mark)
        )
        return connection.scalar(query) or 0

    def strays(self, connection: sa.Connection) -> int:
        """How many interactions stand in another namespace than their user; 0 when sound."""
        query = sa.select(sa.func.count()).select_from(interactions.join(users))
        query = query.where(users.c.namespace_id != interactions.c.namespace_id)
        return connection.scalar(query) or 0

    def _consent_of(self, row: sa.Row[*tuple[Any, ...]]) -> Consent:
        return self._default if row.remember is None else Consent(*row[:4])

    def _buried(self, scope: Scope, marks: list[bytes]) -> list[bytes]:
        return [row.mark for row in rows_among(scope.connection, _BURIED, marks)]

    def _there(
        self, scope: Scope, marks: Iterable[bytes]
    ) -> Iterator[tuple[bytes, int, bool | None]]:
        """Those of these names that somebody has: mark, row, and the word on `remember`."""
        left = set(marks)
        for mark, user_id, remember in rows_among(scope.connection, _THERE, list(left)):
            left.discard(mark)
            yield mark, user_id, remember
        yield from (tuple(row) for row in rows_among(scope.connection, _THERE_BY_ALIAS, left))

    def _create(self, scope: Scope, marks: dict[bytes, str]) -> dict[str, int]:
        if not marks:
            return {}
        connection = scope.connection
        new = [{"namespace_id": scope.id, "mark": m, "name": name} for m, name in marks.items()]
        insert_many(connection, users, new)
        query = sa.select(users.c.mark, users.c.id)
        made = {
            marks[mark]: user_id
            for mark, user_id in rows_in(connection, query, users.c.mark, list(marks))
        }
        states = [{"user_id": user_id, "revision": 0} for user_id in made.values()]
        insert_many(connection, user_states, states)
        return made


def _row_of(user: str) -> Interaction:
    return Interaction(user=user, input="-")


def _is_user_id(name: str) -> bool:
    try:
        check(_row_of(name))
    except DataError:
        return False
    return True


def touch(scope: Scope, user_ids: Iterable[int] = ()) -> None:
    """Say that the namespace changed, and which of its users.

    A user's revision is the namespace's at that moment: it never comes back, not even when the
    user is forgotten and readmitted.
    """
    change = sa.update(namespaces).where(namespaces.c.id == scope.id)
    change = change.values(revision=namespaces.c.revision + 1)
    revision = scope.connection.scalar(change.returning(namespaces.c.revision))
    for part in chunks(user_ids):
        moved = sa.update(user_states).where(user_states.c.user_id.in_(part))
        scope.connection.execute(moved.values(revision=revision))


def pseudonym_key(database: Database, namespace: str) -> bytes:
    """What the pseudonyms of a namespace are made with."""
    key = _store_key(database, _PSEUDONYM_KEY)
    return hmac.digest(key, namespace.encode("utf-8", "surrogatepass"), "sha256")


def _store_key(database: Database, name: str) -> bytes:
    """A random key of this database, made on first use and never changed."""
    query = sa.select(store_keys.c.value).where(store_keys.c.name == name)
    with database.reading() as connection:
        key = connection.scalar(query)
    if key is None:
        with database.writing() as connection:
            row = {"name": name, "value": secrets.token_bytes(32)}
            connection.execute(database.insert_new(store_keys), row)
            key = connection.scalar(query)
    return bytes(key or b"")
