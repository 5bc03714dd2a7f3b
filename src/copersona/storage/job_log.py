"""Jobs as rows: what is to be done beside requests, who works on it, and what came of it.

Whoever takes a job claims it in a transaction that no other process can be in, and writes under
that claim only; a claim whose heartbeat stops is lost, and the job is taken up again. Of one
namespace one job runs at a time. What a job does is not known here.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa

from copersona.errors import UnknownUserError
from copersona.storage.database import Database, Scope
from copersona.storage.schema import dump_json, jobs, namespaces, user_states, users

JobState = Literal["waiting", "running", "done", "failed", "cancelled"]
JOB_STATES: tuple[JobState, ...] = get_args(JobState)

MAX_ATTEMPTS = 3
LOST: Mapping[str, str] = {
    "class": "ProcessLost", "message": f"the process that ran it ended, {MAX_ATTEMPTS} times"
}  # fmt: skip

_OPEN = ("waiting", "running")


@dataclass(frozen=True, slots=True)
class Job:
    """One job as it is stored.

    Attributes:
        stage, done, total: how far it is; `total` is 0 where nobody knows.
        created_at, started_at, ended_at: seconds since 1970-01-01 UTC.
        result: what came of it, as data.
        error: `class` and `message`, where it failed.
        attempts: how often it was begun without being given back.
        claim: of whom works on it.
    """

    id: str
    namespace: str
    kind: str
    options: Mapping[str, Any]
    state: JobState
    stage: str
    done: int
    total: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    result: Mapping[str, Any] | None
    error: Mapping[str, str] | None
    attempts: int
    claim: str | None


_KEPT = sa.select(jobs, namespaces.c.name.label("namespace")).join_from(jobs, namespaces)


class JobLog:
    """The jobs of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, namespace: str, kind: str, options: Mapping[str, Any]) -> Job:
        """A new job, which waits."""
        with self._database.changing(namespace) as scope:
            return self._new(scope, kind, options)

    def add_if_idle(self, namespace: str, kind: str) -> Job | None:
        """The same, unless one of the namespace waits or runs."""
        with self._database.changing(namespace) as scope:
            query = sa.select(jobs.c.id).where(_of(scope), jobs.c.state.in_(_OPEN)).limit(1)
            return None if scope.connection.scalar(query) else self._new(scope, kind, {})

    def get(self, namespace: str, job_id: str) -> Job:
        """One job.

        Raises:
            UnknownUserError: this namespace has no such job.
        """
        with self._database.viewing(namespace) as scope:
            return _found(scope, job_id)

    def all(self, namespace: str, *, limit: int = 100) -> list[Job]:
        """The newest jobs of a namespace, newest first."""
        query = _KEPT.where(namespaces.c.name == namespace)
        query = query.order_by(jobs.c.created_at.desc(), jobs.c.id).limit(limit)
        with self._database.reading() as connection:
            return [_job(row) for row in connection.execute(query)]

    def counts(self, namespace: str) -> dict[str, int]:
        """How many jobs there are in each state."""
        query = sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)
        with self._database.viewing(namespace) as scope:
            found = {state: n for state, n in scope.connection.execute(query.where(_of(scope)))}
        return {state: found.get(state, 0) for state in JOB_STATES}

    def n_changed_users(self, namespace: str, since: int) -> int:
        """How many users changed after a revision: what makes a job necessary."""
        query = sa.select(sa.func.count()).select_from(user_states.join(users))
        with self._database.viewing(namespace) as scope:
            query = query.where(users.c.namespace_id == scope.id, user_states.c.revision > since)
            return scope.connection.scalar(query) or 0

    def cancel(self, namespace: str, job_id: str) -> Job:
        """Let a job be done by nobody; one that has ended stays as it is.

        Raises:
            UnknownUserError: this namespace has no such job.
        """
        with self._database.changing(namespace) as scope:
            if _found(scope, job_id).state in _OPEN:
                _change(scope.connection, jobs.c.id == job_id, state="cancelled", claim=None,
                        ended_at=time.time())  # fmt: skip
            return _found(scope, job_id)

    # ---- whoever works on jobs -----------------------------------------------------------------

    def take(self, *, lost_after_s: float) -> Job | None:
        """The oldest job that nobody works on, claimed; None where there is none.

        Args:
            lost_after_s: without a heartbeat for so long, a claim counts no more.
        """
        is_free = _is_free(time.time() - lost_after_s)
        query = sa.select(namespaces.c.name).join_from(jobs, namespaces).where(is_free)
        query = query.group_by(namespaces.c.name).order_by(sa.func.min(jobs.c.created_at))
        with self._database.reading() as connection:
            waiting = connection.scalars(query).all()
        for namespace in waiting:
            with self._database.changing(namespace) as scope:  # nobody else takes one of it now
                job = _take(scope, is_free)
            if job is not None:
                return job
        return None

    def beat(self, job: Job, stage: str, done: int, total: int) -> bool:
        """Say how far the job is, and that it is worked on; False where the claim is lost."""
        return self._change_own(
            job, durable=False, stage=stage, done=done, total=total, heartbeat_at=time.time()
        )

    def finish(self, job: Job, result: Mapping[str, Any]) -> bool:
        """Note what came of it; False where the claim was lost."""
        return self._change_own(
            job, state="done", result=dump_json(result), claim=None, ended_at=time.time()
        )

    def fail(self, job: Job, error: Mapping[str, str]) -> bool:
        """Note why it failed; False where the claim was lost."""
        return self._change_own(
            job, state="failed", error=dump_json(error), claim=None, ended_at=time.time()
        )

    def give_back(self, job: Job, *, counts: bool) -> bool:
        """Let the job wait again; False where the claim was lost.

        Args:
            counts: the attempt counts; after the last one the job has failed.
        """
        if counts and job.attempts >= MAX_ATTEMPTS:
            return self.fail(job, LOST)
        attempts = job.attempts if counts else job.attempts - 1
        return self._change_own(
            job, state="waiting", claim=None, heartbeat_at=None, attempts=attempts
        )

    def _new(self, scope: Scope, kind: str, options: Mapping[str, Any]) -> Job:
        job_id = secrets.token_hex(8)
        row = {"id": job_id, "namespace_id": scope.id, "kind": kind, "options": dump_json(options),
               "state": "waiting", "stage": "", "done": 0, "total": 0, "created_at": time.time(),
               "attempts": 0}  # fmt: skip
        scope.connection.execute(sa.insert(jobs), row)
        return _found(scope, job_id)

    def _change_own(self, job: Job, *, durable: bool = True, **values: Any) -> bool:
        is_own = (jobs.c.id == job.id) & (jobs.c.claim == job.claim)
        with self._database.writing(durable=durable) as connection:
            return bool(_change(connection, is_own, **values))


def _take(scope: Scope, is_free: sa.ColumnElement[bool]) -> Job | None:
    """The oldest free job of a namespace in which none runs; those begun too often have failed."""
    connection = scope.connection
    is_worn_out = is_free & (jobs.c.attempts >= MAX_ATTEMPTS)
    _change(connection, _of(scope) & is_worn_out, state="failed", error=dump_json(LOST),
            claim=None, ended_at=time.time())  # fmt: skip
    is_running = _of(scope) & (jobs.c.state == "running") & ~is_free
    if connection.scalar(sa.select(jobs.c.id).where(is_running).limit(1)):
        return None
    oldest = sa.select(jobs.c.id).where(_of(scope), is_free).order_by(jobs.c.created_at).limit(1)
    job_id = connection.scalar(oldest)
    if job_id is None:
        return None
    now = time.time()
    _change(
        connection, jobs.c.id == job_id, state="running", claim=secrets.token_hex(8),
        attempts=jobs.c.attempts + 1, started_at=now, heartbeat_at=now,
        stage="", done=0, total=0,
    )  # fmt: skip
    return _found(scope, job_id)


def _is_free(lost_before: float) -> sa.ColumnElement[bool]:
    is_lost = (jobs.c.state == "running") & (jobs.c.heartbeat_at < lost_before)
    return (jobs.c.state == "waiting") | is_lost


def _of(scope: Scope) -> sa.ColumnElement[bool]:
    return jobs.c.namespace_id == scope.id


def _change(connection: sa.Connection, condition: sa.ColumnElement[bool], **values: Any) -> int:
    return connection.execute(sa.update(jobs).where(condition).values(**values)).rowcount


def _found(scope: Scope, job_id: str) -> Job:
    row = scope.connection.execute(_KEPT.where(_of(scope), jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise UnknownUserError("no such job")
    return _job(row)


def _job(row: sa.Row[Any]) -> Job:
    return Job(
        row.id, row.namespace, row.kind, json.loads(row.options), row.state, row.stage, row.done,
        row.total, row.created_at, row.started_at, row.ended_at, _read(row.result),
        _read(row.error), row.attempts, row.claim,
    )  # fmt: skip


def _read(text: str | None) -> Any:
    return None if text is None else json.loads(text)
