"""When a new fit is due: once enough users have changed since the state in force was fitted.

Looks, at most once a minute, at the namespaces that this process has opened. A namespace that was
never fitted stays so until somebody asks for it, and one whose last job came to nothing has an hour
of rest.
"""

from __future__ import annotations

import time

from copersona.errors import ArtifactError, NotFittedError
from copersona.pipeline import CoPersona
from copersona.service.engines import Engines

LOOK_S = 60.0
REST_S = 3_600.0


class Refits:
    """Makes jobs that fit again.

    Args:
        share: of users who changed; 0 makes no jobs.
    """

    def __init__(self, engines: Engines, share: float) -> None:
        self._engines, self._share = engines, share
        self._looks_at = 0.0

    def check(self) -> None:
        """Make a job for every namespace that needs one, where it is time to look."""
        opened = self._engines.opened()
        if self._share and opened and time.monotonic() >= self._looks_at:
            self._looks_at = time.monotonic() + LOOK_S
            for engine in opened:
                if is_due(engine, self._share):
                    engine.store.jobs.add_if_idle(engine.namespace, "fit")


def is_due(engine: CoPersona, share: float) -> bool:
    """Whether at least this share of the users changed since the state in force was fitted."""
    store, namespace = engine.store, engine.namespace
    try:
        revision = engine.state().revision
    except (NotFittedError, ArtifactError):
        return False
    if store.revision(namespace) == revision:
        return False
    newest = next(iter(store.jobs.all(namespace, limit=1)), None)
    is_in_vain = newest is not None and newest.state in ("failed", "cancelled")
    if newest is not None and is_in_vain and newest.created_at > time.time() - REST_S:
        return False
    n_changed = store.jobs.n_changed_users(namespace, revision)
    return n_changed > 0 and n_changed >= share * store.n_users(namespace)
