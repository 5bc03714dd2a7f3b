"""The way of audit lines into the database: at once for changes, within a second for questions.

The line of a change is committed before the change is begun, and the change takes it to the disk
(see `storage.audit_log`), so no acknowledged change is without its line, whatever ends the process.
Lines of questions, and of what was refused, are gathered; a killed process may lose the last second
of them. While the database fails they are kept, and where they become too many, nothing more is
answered.
"""

from __future__ import annotations

import logging
import threading
import time

from copersona.errors import StoreError
from copersona.storage.audit_log import AuditLine, AuditLog

GATHERED_S = 0.5
MAX_WAITING = 10_000

_EXPIRE_S = 3_600.0
_DAY_S = 86_400.0
_log = logging.getLogger("copersona.service")


class Trail:
    """Audit lines on their way, and how long they stay.

    Args:
        days: older lines are let go.
    """

    def __init__(self, log: AuditLog, days: int) -> None:
        self._log, self._days = log, days
        self._waiting: list[AuditLine] = []
        self._flushing = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write what is gathered; again after `stop`, too."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="audit trail", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write all there is, and end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def add(self, line: AuditLine, *, at_once: bool) -> None:
        """Keep a line; with `at_once` it is in the database when this returns.

        Raises:
            StoreError: it cannot be kept, so what it is about must not happen.
        """
        self._waiting.append(line)
        if at_once or len(self._waiting) > MAX_WAITING:
            self.flush()

    def flush(self) -> None:
        """Write all lines that were added before.

        Raises:
            StoreError: the database failed; the lines are kept for the next time.
        """
        with self._flushing:
            lines = self._waiting[:]
            if lines:  # otherwise another thread has written them along with its own
                self._log.append(lines)
                del self._waiting[: len(lines)]

    def _run(self) -> None:
        expires_at = 0.0
        while not self._stopping.wait(GATHERED_S):
            try:
                self.flush()
                if time.monotonic() > expires_at:
                    self._log.expire(time.time() - self._days * _DAY_S)
                    expires_at = time.monotonic() + _EXPIRE_S
            except StoreError as error:
                _log.error("audit lines wait to be written: %s", error)
