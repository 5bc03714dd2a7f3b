"""Other names of the same person: aliases, and two users who turn out to be one.

An alias is another id under which a user writes (a device, later the account). The registry turns
it into the user; here it is given, taken away, and made of a user who is merged into another one.
No name ever has two meanings: it is a user, an alias, buried, or free.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from copersona.errors import DataError, UnknownUserError
from copersona.interactions import check
from copersona.records import Consent, Interaction, Lend
from copersona.storage.database import Database, Scope
from copersona.storage.erasure import erase_traces
from copersona.storage.schema import (
    aliases,
    feedback,
    instructions,
    interactions,
    user_states,
    users,
)
from copersona.storage.usage_log import hand_over
from copersona.storage.user_registry import FORGOTTEN, UserRegistry, touch

_LENDING: tuple[Lend, ...] = ("no", "aggregate", "text")
_MEANT = (
    sa.select(users.c.name).join_from(aliases, users).where(aliases.c.mark == sa.bindparam("mark"))
)


@dataclass(frozen=True, slots=True)
class Merged:
    """What moved when a user was merged into another one.

    Attributes:
        user: who has it now, by their own name.
        traces: how many were dropped, of both.
    """

    user: str
    interactions: int
    instructions: int
    aliases: int
    traces: int
    consent: Consent


class AliasBook:
    """The aliases of one database."""

    def __init__(self, database: Database, registry: UserRegistry) -> None:
        self._database, self._registry = database, registry

    def name(self, namespace: str, user: str) -> str:
        """The name of the user whom a name stands for; itself where it is nobody's alias."""
        mark = self._registry.mark(namespace, user)
        with self._database.asking() as connection:
            return connection.scalar(_MEANT, {"mark": mark}) or user

    def of(self, namespace: str, user: str) -> tuple[str, ...]:
        """A user's aliases, in the order they were given."""
        with self._database.viewing(namespace) as scope:
            query = sa.select(aliases.c.name).order_by(aliases.c.seq)
            return tuple(scope.connection.scalars(
                query.where(aliases.c.user_id == self._registry.find(scope, user))
            ))  # fmt: skip

    def last(self) -> int:
        """A number that differs once anybody was given an alias, or merged."""
        with self._database.reading() as connection:
            return connection.scalar(sa.select(sa.func.max(aliases.c.seq))) or 0

    def add(self, namespace: str, user: str, alias: str) -> None:
        """Let an id stand for a user from now on; the same one twice is kept once.

        Raises:
            DataError: the id cannot be one, was forgotten, stands for somebody else, or is a user
                who said or decided something: they can be merged.
        """
        with self._database.changing(namespace) as scope:
            user_id = self._registry.enter(scope, user)
            other = self._free(scope, alias)
            if other == user_id:
                if self._is_name(scope, alias):
                    raise DataError("a user's own id is no alias", field="alias")
                return
            if other and (not self._is_name(scope, alias) or _has_said(scope, other)):
                raise DataError("stands for somebody else already; merge them", field="alias")
            self._let_stand(scope, alias, user_id, instead_of=other)
            touch(scope, [user_id])

    def remove(self, namespace: str, user: str, alias: str) -> None:
        """Let an alias stand for nobody; what was said under it stays the user's.

        Raises:
            UnknownUserError: the user has no such alias.
        """
        with self._database.changing(namespace) as scope:
            user_id = self._registry.find(scope, user)
            mark = self._registry.mark(namespace, alias)
            chosen = (aliases.c.user_id == user_id) & (aliases.c.mark == mark)
            if not scope.connection.execute(sa.delete(aliases).where(chosen)).rowcount:
                raise UnknownUserError("the user has no such alias")
            touch(scope, [user_id])
        self._database.scrub()

    def merge(self, namespace: str, into: str, other: str) -> Merged:
        """Make two users one: what the other said is the first's, and the other id an alias.

        The stricter of both consents holds. Traces of both are dropped, and so are the tokens of
        the other.

        Raises:
            DataError: they are the same, one was forgotten, one id cannot be one, or one of them
                does not allow `remember`.
        """
        with self._database.changing(namespace) as scope:
            user_id = self._registry.enter(scope, into)
            other_id = self._free(scope, other)
            if other_id == user_id:
                raise DataError("they are one user already", field="from")
            allowed = self._stricter(scope, into, other)
            name: str = scope.connection.execute(
                sa.select(users.c.name).where(users.c.id == user_id)
            ).scalar_one()
            moved = _moved(scope, other_id, user_id) if other_id else (0, 0, 0, 0)
            if other_id and not self._is_name(scope, other):
                other = scope.connection.execute(
                    sa.select(users.c.name).where(users.c.id == other_id)
                ).scalar_one()
            self._let_stand(scope, other, user_id, instead_of=other_id)
            if allowed != self._registry.consent(scope, into):
                self._registry.set_consent(scope, into, allowed)
            touch(scope, [user_id])
        self._database.scrub()
        return Merged(name, *moved, allowed)

    def _free(self, scope: Scope, name: str) -> int:
        """The user of that name, if there is one; 0 where the name is free."""
        check(Interaction(user=name, response="-"))
        if self._registry.is_buried(scope, name):
            raise DataError(FORGOTTEN, field="alias")
        return self._registry.find(scope, name)

    def _is_name(self, scope: Scope, name: str) -> bool:
        """Whether somebody has this name as their own, not as an alias."""
        query = sa.select(users.c.id).where(
            users.c.mark == self._registry.mark(scope.namespace, name)
        )
        return scope.connection.scalar(query) is not None

    def _let_stand(self, scope: Scope, alias: str, user_id: int, *, instead_of: int) -> None:
        mark = self._registry.mark(scope.namespace, alias)
        self._registry.void_tokens(scope, mark)
        if instead_of:
            hand_over(scope, instead_of, user_id)
        scope.connection.execute(sa.delete(users).where(users.c.id == instead_of))
        row = {"user_id": user_id, "mark": mark, "name": alias}
        scope.connection.execute(sa.insert(aliases), row)

    def _stricter(self, scope: Scope, one: str, other: str) -> Consent:
        first, second = (self._registry.consent(scope, user) for user in (one, other))
        if not (first.remember and second.remember):
            raise DataError(
                "one of them does not allow `remember`: settle that first", field="from"
            )
        return Consent(
            remember=True,
            learn=first.learn and second.learn,
            lend=min(first.lend, second.lend, key=_LENDING.index),
            train=first.train and second.train,
        )


def _moved(scope: Scope, old: int, new: int) -> tuple[int, int, int, int]:
    """Give all that is one user's to another; how many rows of each kind, and traces dropped."""
    connection = scope.connection
    n_traces = erase_traces(scope, [old, new])
    said = sa.select(instructions.c.text).where(instructions.c.user_id == new)
    twice = (instructions.c.user_id == old) & instructions.c.text.in_(said)
    connection.execute(sa.delete(instructions).where(twice))
    rows = [
        connection.execute(
            sa.update(table).where(table.c.user_id == old).values(user_id=new)
        ).rowcount
        for table in (interactions, instructions, aliases, feedback)
    ]
    return rows[0], rows[1], rows[2], n_traces


def _has_said(scope: Scope, user_id: int) -> bool:
    """Whether there is anything of a user but traces."""
    said = [sa.exists().where(table.c.user_id == user_id)
            for table in (interactions, instructions, aliases, feedback)]  # fmt: skip
    decided = sa.exists().where(
        user_states.c.user_id == user_id, user_states.c.remember.is_not(None)
    )
    return bool(scope.connection.scalar(sa.select(sa.or_(*said, decided))))
