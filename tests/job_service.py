"""A front door whose fits wait until they may, for tests of jobs; and a service with it.

    python tests/job_service.py FOLDER

serves until it is killed. A fit waits for the file `go` in the folder, and adds a line to the file
`fits` when it has published.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from copersona import CoPersona
from copersona.pipeline import Progress
from copersona.reports import FitReport
from service_people import served


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


def patient(folder: Path, namespace: str) -> CoPersona:
    engine = Patient.open(folder / "people.db", namespace=namespace, encoder="hashing")
    engine.folder = folder
    return engine


if __name__ == "__main__":
    with served(Path(sys.argv[1]), opens=patient):
        signal.pause()
