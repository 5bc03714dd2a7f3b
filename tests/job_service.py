"""A service of its own process, whose fits wait until they may: for tests of jobs.

    python tests/job_service.py FOLDER

Prints its address and a key. A fit waits for the file `go` in the folder, and adds a line to the
file `fits` when it has published.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

from copersona import CoPersona
from copersona.pipeline import Progress
from copersona.reports import FitReport
from copersona.service.app import build_app
from copersona.service.keys import Keys
from copersona.service.operation import Operation
from copersona.service.server import listen, run
from service_people import SHOP


class Patient(CoPersona):
    """A front door whose fits wait for a file."""

    folder: Path

    def fit(self, *, progress: Progress | None = None) -> FitReport:
        assert progress
        progress("waiting for the file", 1, 7)
        while not (self.folder / "go").exists():
            time.sleep(0.02)
        report = super().fit(progress=progress)
        with (self.folder / "fits").open("a") as fits:
            fits.write(f"{os.getpid()} {report.state}\n")
        return report


def opened(folder: Path, namespace: str) -> CoPersona:
    engine = Patient.open(folder / "people.db", namespace=namespace, encoder="hashing")
    engine.folder = folder
    return engine


def main() -> None:
    folder = Path(sys.argv[1])
    with opened(folder, SHOP) as engine, listen("127.0.0.1", 0) as listening:
        keys = Keys(engine.store.keys)
        key = keys.create(SHOP, ["admin"])[1]
        sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]} {key}\n")
        sys.stdout.flush()
        operation = Operation(engine.store, lost_after_s=2.0)
        run(build_app(partial(opened, folder), keys, operation), listening)


if __name__ == "__main__":
    main()
