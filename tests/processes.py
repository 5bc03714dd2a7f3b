"""Processes of tests: copies of this one, which need no start of an interpreter."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable


def begin(work: Callable[[], object]) -> int:
    """A process that does the work, and its id; it ends with 0, or with 1 after an error.

    What it works with is opened in it: connections and locks are not for two processes.
    """
    process_id = os.fork()
    if process_id:
        return process_id
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001  the last handler
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(code)


def ended(process_id: int) -> int:
    """How a process ended: its exit code, or the negative number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1])
