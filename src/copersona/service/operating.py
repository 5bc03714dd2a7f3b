"""Routes by which a service is run: jobs, the audit log and metrics; for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BeforeValidator

from copersona.interactions import parse_time
from copersona.service.answers import AuditAnswer, AuditLineAnswer, JobAnswer, JobsAnswer
from copersona.service.metrics import Metrics
from copersona.service.parameters import Asker
from copersona.service.requests import NewJob, User

router = APIRouter(tags=["operating"])
metrics_router = APIRouter(include_in_schema=False)

JobId = Annotated[str, Path(description="As it came when the job was made.")]
Since = Annotated[
    float | None,
    BeforeValidator(parse_time),
    Query(description="Nothing older: seconds since 1970-01-01 UTC, or a date."),
]
MAX_LINES = 10_000


@router.post("/jobs", status_code=202)
def make_job(body: NewJob, access: Asker) -> JobAnswer:
    """Have a state fitted, or parts of it trained, beside requests; it waits for its turn."""
    engine = access.to([], "make job", "admin")
    made = engine.store.jobs.add(engine.namespace, body.kind, body.asked)
    return JobAnswer.model_validate(made)


@router.get("/jobs")
def jobs(access: Asker) -> JobsAnswer:
    """The newest jobs of the namespace, newest first."""
    engine = access.to([], "jobs", "admin")
    found = engine.store.jobs.all(engine.namespace)
    return JobsAnswer(jobs=[JobAnswer.model_validate(job) for job in found])


@router.get("/jobs/{job_id}")
def job(job_id: JobId, access: Asker) -> JobAnswer:
    """How far a job is, and what came of it."""
    engine = access.to([], "job", "admin")
    return JobAnswer.model_validate(engine.store.jobs.get(engine.namespace, job_id))


@router.delete("/jobs/{job_id}")
def cancel_job(job_id: JobId, access: Asker) -> JobAnswer:
    """Let a job be done by nobody; its process is ended within a second."""
    engine = access.to([], "cancel job", "admin")
    return JobAnswer.model_validate(engine.store.jobs.cancel(engine.namespace, job_id))


@router.get("/audit")
def audit(
    access: Asker,
    user: Annotated[User | None, Query(description="Only what was asked about this user.")] = None,
    since: Since = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LINES, description="Most lines.")] = 1_000,
) -> AuditAnswer:
    """Who asked or did what, newest first."""
    engine = access.to([] if user is None else [user], "audit", "admin")
    found = engine.store.audit.lines(
        engine.namespace, user=user, since=since or 0.0, limit=limit
    )  # fmt: skip
    return AuditAnswer(lines=[AuditLineAnswer.model_validate(line) for line in found])


@metrics_router.get("/metrics")
def metrics(request: Request, access: Asker) -> Response:
    """What Prometheus reads."""
    counted: Metrics = request.app.state.metrics
    page = counted.page(access.to([], "metrics", "admin"))
    return Response(page, media_type=CONTENT_TYPE_LATEST)
