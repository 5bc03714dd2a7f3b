"""Jobs over HTTP in real processes: seen, cancelled, given back, and finished after a kill -9."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from copersona import CoPersona
from copersona.service.engines import Engines
from copersona.service.jobs import Runner
from copersona.service.refits import Refits, is_due
from copersona.storage.job_log import LOST
from copersona.storage.store import Store
from job_service import patient
from service_people import ANA, SHOP, check_problem, opened, served, stocked, until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return stocked(tmp_path / "people", fits=False)


class Admin:
    """Asks a service for jobs."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client

    def make(self) -> str:
        answer = self.client.post("/v1/jobs", json={"kind": "fit"})
        assert answer.status_code == 202
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/v1/jobs/{job_id}").json()
        return found

    def in_state(self, job_id: str, state: str) -> dict[str, Any]:
        """The job once it is in a state."""
        found: dict[str, Any] = until(lambda: (job := self.job(job_id))["state"] == state and job)
        return found

    def waits_for_the_file(self, job_id: str) -> dict[str, Any]:
        """The job once its process is at work."""
        found: dict[str, Any] = until(
            lambda: (job := self.job(job_id))["stage"] == "waiting for the file" and job
        )
        return found


@contextmanager
def serving(folder: Path) -> Iterator[Admin]:
    """A service whose fits wait for a file, and an administrator of it."""
    with (
        served(folder, opens=patient, lost_after_s=2.0) as service,
        service.client(service.key("admin")) as client,
    ):
        yield Admin(client)


def fits(folder: Path) -> list[str]:
    return (folder / "fits").read_text().splitlines() if (folder / "fits").exists() else []


def test_progress_is_seen_and_requests_are_answered_meanwhile(folder: Path) -> None:
    asked = {"user": ANA, "text": "hello"}
    with serving(folder) as admin:
        job_id = admin.make()
        job = admin.waits_for_the_file(job_id)
        assert (job["state"], job["done"], job["total"], job["attempts"]) == ("running", 1, 7, 1)
        before = admin.client.post("/v1/context", json=asked).json()
        (folder / "go").touch()
        job = admin.in_state(job_id, "done")
        after = admin.client.post("/v1/context", json=asked).json()
    assert (before["is_personalised"], after["is_personalised"]) == (False, True)
    assert job["result"]["n_users"] == 9
    assert fits(folder)[0].endswith(job["result"]["state"])


def test_a_job_outlives_a_killed_service_and_the_next_one_finishes_it(folder: Path) -> None:
    with opened(folder, SHOP) as engine:
        jobs = engine.store.jobs
        job_id = jobs.add(SHOP, "fit", {}).id
        command = [sys.executable, str(Path(__file__).parent / "job_service.py"), str(folder)]
        with subprocess.Popen(command) as first:
            until(lambda: jobs.get(SHOP, job_id).stage == "waiting for the file")
            first.kill()
        with serving(folder) as admin:
            until(lambda: admin.job(job_id)["attempts"] == 2)
            (folder / "go").touch()
            job = admin.in_state(job_id, "done")
    assert [line.split()[1] for line in fits(folder)] == [job["result"]["state"]]


def test_two_services_never_run_one_job_twice(folder: Path) -> None:
    (folder / "go").touch()
    with serving(folder) as one, serving(folder) as other:
        made = [one.make(), other.make()]
        attempts = [other.in_state(job_id, "done")["attempts"] for job_id in made]
    assert attempts == [1, 1]
    assert len(fits(folder)) == len(made)


def test_a_cancelled_job_ends_with_its_process(folder: Path) -> None:
    with serving(folder) as admin:
        job_id, waiting = admin.make(), admin.make()
        admin.waits_for_the_file(job_id)
        (process,) = multiprocessing.active_children()
        place = Path(f"/proc/{process.pid}")
        assert place.exists()
        for one in (waiting, job_id):
            assert admin.client.delete(f"/v1/jobs/{one}").json()["state"] == "cancelled"
        until(lambda: not place.exists())
        (folder / "go").touch()
        admin.in_state(admin.make(), "done")
        found = admin.client.get("/v1/jobs").json()["jobs"]
    assert [job["state"] for job in found] == ["done", "cancelled", "cancelled"]
    assert len(fits(folder)) == 1


def test_a_service_that_ends_gives_its_job_back(folder: Path) -> None:
    with serving(folder) as admin:
        admin.waits_for_the_file(job_id := admin.make())
    with opened(folder, SHOP) as engine:
        job = engine.store.jobs.get(SHOP, job_id)
    assert (job.state, job.attempts, job.claim) == ("waiting", 0, None)


def dying(_namespace: str) -> CoPersona:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_process_that_is_killed_is_an_attempt_and_three_are_enough(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db") as store:
        job_id = store.jobs.add(SHOP, "fit", {}).id
        runner = Runner(store.jobs, dying, Refits(Engines(dying), 0), 60)
        runner.start()
        until(lambda: store.jobs.get(SHOP, job_id).state == "failed")
        runner.stop()
        job = store.jobs.get(SHOP, job_id)
    assert (job.attempts, job.error) == (3, LOST)


def test_what_cannot_be_done_has_failed_with_the_reason(tmp_path: Path) -> None:
    with (
        served(stocked(tmp_path / "bare", fits=False)) as service,
        service.client(service.key("admin")) as shop,
    ):
        job_id = shop.post("/v1/jobs", json={"kind": "train"}).json()["id"]
        job = until(
            lambda: (found := shop.get(f"/v1/jobs/{job_id}").json())["state"] == "failed" and found
        )
        assert job["error"]["class"] == "NotFittedError"
        assert "nothing is fitted" in job["error"]["message"]
        for wrong in ({"kind": "walk"}, {"kind": "fit", "options": {"steps": 3}},
                      {"kind": "train", "options": {"speed": 1}}):  # fmt: skip
            check_problem(shop.post("/v1/jobs", json=wrong), 422)


def test_a_fit_is_due_once_enough_users_changed(tmp_path: Path) -> None:
    with opened(stocked(tmp_path / "x", fits=False), SHOP) as engine:
        assert not is_due(engine, 0.1)
        engine.fit()
        assert not is_due(engine, 0.1)
        engine.instruct(ANA, "Be brief.")
        assert is_due(engine, 0.1)
        assert not is_due(engine, 0.5)
        engine.store.jobs.cancel(SHOP, engine.store.jobs.add(SHOP, "fit", {}).id)
        assert not is_due(engine, 0.1)  # the last one came to nothing
        engine.fit()
        assert engine.state().revision == engine.store.revision(SHOP)


def test_a_due_fit_is_made_without_being_asked(tmp_path: Path) -> None:
    folder = stocked(tmp_path / "x")
    with opened(folder, SHOP) as engine:
        engine.instruct(ANA, "Be brief.")
        engine.instruct("bo", "Be brief.")
        before = engine.state_version()
    with served(folder, refit_after=0.2) as service, service.client(service.key("admin")) as shop:
        shop.get(f"/v1/users/{ANA}")
        until(lambda: shop.get("/v1/users/bo").json()["state"] != before)
