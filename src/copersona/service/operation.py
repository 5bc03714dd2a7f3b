"""How a service is run: where it keeps what is not asked of it, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from copersona.storage.store import Store

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

AUDIT_DAYS = 90


@dataclass(frozen=True)
class Operation:
    """How one service is run.

    Attributes:
        store: holds jobs and the audit log; not closed by the service.
        refit_after: share of users who changed since the last fit that makes a new one; 0: none.
        requests_per_minute: of one key; 0 is no limit.
        failures_per_minute: requests with no key that fits, from one address; 0 is no limit.
        audit_days: how long audit lines are kept.
        tracers: where spans go; None makes none.
        lost_after_s: a job without a heartbeat for so long is taken up again, by any process.
    """

    store: Store
    refit_after: float = 0.1
    requests_per_minute: int = 0
    failures_per_minute: int = 60
    audit_days: int = AUDIT_DAYS
    tracers: TracerProvider | None = None
    lost_after_s: float = 30.0
