"""Work beside requests: one job at a time, each in a process of its own.

A fit keeps a core busy for minutes, and in a thread it would hold up every request that wants to
run Python meanwhile. A process leaves them alone, gives its memory back, and can be ended at any
moment, which a thread cannot: so a job is cancelled. The runner here is a thread that takes jobs,
follows their processes and says how far they are; what it says stops with this process, so that
another one takes the job up again. States are published whole or not at all, and trainings go on
from their checkpoints, so an ended process leaves nothing half done.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from copersona.errors import StoreError
from copersona.pipeline import CoPersona
from copersona.service.job_process import Done, Failed, Said, do
from copersona.service.refits import Refits
from copersona.storage.job_log import Job, JobLog

BEAT_S = 0.5

_SPAWN = multiprocessing.get_context("spawn")  # a forked copy of a threaded process may hang
_log = logging.getLogger("copersona.service")


class Runner:
    """Takes jobs of all namespaces, one after the other.

    Args:
        opens: opens the front door of a namespace; goes to another process, so it is picklable.
        lost_after_s: without a heartbeat for so long, the job of another process is taken.
    """

    def __init__(
        self, jobs: JobLog, opens: Callable[[str], CoPersona], refits: Refits, lost_after_s: float
    ) -> None:
        self._jobs, self._opens, self._refits = jobs, opens, refits
        self._lost_after_s = lost_after_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    def stop(self) -> None:
        """Give back the job that runs, and end."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._refits.check()
                job = self._jobs.take(lost_after_s=self._lost_after_s)
                if job is not None:
                    self._work(job)
                    continue
            except StoreError as error:
                _log.error("jobs wait: %s", error)
            except Exception as error:  # noqa: BLE001  the last handler of this thread
                where = "".join(traceback.format_tb(error.__traceback__))
                _log.error("a bug: %s\n%s", type(error).__name__, where)
            self._stopping.wait(BEAT_S)

    def _work(self, job: Job) -> None:
        """Have a job done, and note what came of it."""
        here, there = _SPAWN.Pipe(duplex=False)
        process = _SPAWN.Process(
            target=do, args=(there, self._opens, job.namespace, job.kind, dict(job.options)),
            daemon=True,
        )  # fmt: skip
        with here:
            with there:
                process.start()
            try:
                said = self._followed(job, here)
            finally:
                process.kill()
                process.join()
                process.close()
        self._end(job, said)

    def _followed(self, job: Job, here: Connection) -> Said | None:
        """The last that the process said; None where it is to end, or ended, without a word."""
        stage, done, total, beats_at = "", 0, 0, 0.0
        while True:
            if here.poll(BEAT_S):
                try:
                    said: Said = here.recv()
                except EOFError:
                    return None
                if isinstance(said, Done | Failed):
                    return said
                stage, done, total = said
            if time.monotonic() < beats_at:
                continue
            beats_at = time.monotonic() + BEAT_S
            if self._stopping.is_set() or not self._beat(job, stage, done, total):
                return None

    def _beat(self, job: Job, stage: str, done: int, total: int) -> bool:
        """Whether the job is still ours, as far as is known."""
        try:
            return self._jobs.beat(job, stage, done, total)
        except StoreError as error:
            _log.error("no heartbeat of a job: %s", error)
            return True

    def _end(self, job: Job, said: Said | None) -> None:
        if isinstance(said, Done):
            self._jobs.finish(job, said.result)
        elif isinstance(said, Failed):
            _log.error("job %s: %s", job.id, said.for_log)
            self._jobs.fail(job, said.error)
        else:
            self._jobs.give_back(job, counts=not self._stopping.is_set())
