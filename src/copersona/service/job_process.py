"""A job in a process of its own: one call of the front door, and what it says on its way.

The process ends with the one that started it, however that ends, so that a job is never done twice
at once. It is told to end by being killed; signals for the service are not for it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from copersona.errors import CoPersonaError
from copersona.pipeline import CoPersona, Progress
from copersona.service.problems import told

POLITENESS = 10
"""Added to the niceness, so that requests go first."""


class Progressed(NamedTuple):
    """How far the job is."""

    stage: str
    done: int
    total: int


class Done(NamedTuple):
    """What came of the job, as data."""

    result: Mapping[str, Any]


class Failed(NamedTuple):
    """Why it failed.

    Attributes:
        error: `class` and `message`, for who asked for it.
        for_log: the same and more, for who runs the service.
    """

    error: Mapping[str, str]
    for_log: str


Said = Progressed | Done | Failed


def do(
    there: Connection,
    opens: Callable[[str], CoPersona],
    namespace: str,
    kind: str,
    options: Mapping[str, Any],
) -> None:
    """Do a job in this process, and say what comes of it."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    os.nice(POLITENESS)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def progress(stage: str, done: int, total: int) -> None:
        there.send(Progressed(stage, done, total))

    try:
        with opens(namespace) as engine:
            there.send(Done(_result(engine, kind, options, progress)))
    except Exception as error:  # noqa: BLE001  the last handler of this process
        there.send(_failed(error))


def _result(
    engine: CoPersona, kind: str, options: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    if kind == "train":
        return asdict(engine.train(**options, progress=progress))
    report = asdict(engine.fit(progress=progress))
    # Words of users, which a `forget` takes out of the state but would not find in a job.
    return {**report, "facets": len(report["facets"])}


def _failed(error: Exception) -> Failed:
    name = type(error).__name__
    if isinstance(error, CoPersonaError):
        return Failed({"class": name, "message": told(error).detail}, f"{name}: {error}")
    where = "".join(traceback.format_tb(error.__traceback__))
    message = "a bug; see the log of the server"
    return Failed({"class": name, "message": message}, f"a bug: {name}\n{where}")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
