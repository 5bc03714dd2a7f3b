"""Jobs over HTTP in real processes: seen, cancelled, given back, and finished after a kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
from service_people import ANA, SHOP, check_problem, opened, served, stocked, until

HERE = Path(__file__).parent


class Running:
    """A service in a process of its own."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(HERE / "job_service.py"), str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        url, key = self.process.stdout.readline().split()
        headers = {"authorization": f"Bearer {key}"}
        self.client = httpx2.Client(base_url=url, headers=headers, timeout=60)

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/v1/jobs/{job_id}").json()
        return found

    def make(self) -> str:
        answer = self.client.post("/v1/jobs", json={"kind": "fit"})
        assert answer.status_code == 202
        return str(answer.json()["id"])

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return stocked(tmp_path / "people", fits=False)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[], Running]]:
    with ExitStack() as at_end:

        def started() -> Running:
            running = Running(folder)
            at_end.callback(running.close)
            return running

        yield started


def waits_for_the_file(running: Running, job_id: str) -> Callable[[], bool]:
    return lambda: running.job(job_id)["stage"] == "waiting for the file"


def fits(folder: Path) -> list[str]:
    return (folder / "fits").read_text().splitlines() if (folder / "fits").exists() else []


def test_progress_is_seen_and_requests_are_answered_meanwhile(
    folder: Path, start: Callable[[], Running]
) -> None:
    service = start()
    job_id = service.make()
    until(waits_for_the_file(service, job_id))
    job = service.job(job_id)
    assert (job["state"], job["done"], job["total"], job["attempts"]) == ("running", 1, 7, 1)
    asked = {"user": ANA, "text": "hello"}
    assert not service.client.post("/v1/context", json=asked).json()["is_personalised"]
    (folder / "go").touch()
    until(lambda: service.job(job_id)["state"] == "done")
    job = service.job(job_id)
    assert job["result"]["n_users"] == 9
    assert fits(folder)[0].endswith(job["result"]["state"])
    assert service.client.post("/v1/context", json=asked).json()["is_personalised"]


def test_a_job_outlives_a_killed_service_and_the_next_one_finishes_it(
    folder: Path, start: Callable[[], Running]
) -> None:
    first = start()
    job_id = first.make()
    until(waits_for_the_file(first, job_id))
    first.process.kill()
    first.process.wait()
    second = start()
    until(lambda: second.job(job_id)["attempts"] == 2)
    (folder / "go").touch()
    job = until(lambda: (found := second.job(job_id))["state"] == "done" and found)
    assert [line.split()[1] for line in fits(folder)] == [job["result"]["state"]]


def test_two_services_never_run_one_job_twice(folder: Path, start: Callable[[], Running]) -> None:
    (folder / "go").touch()
    services = [start(), start()]
    made = [one.make() for one in services]
    for job_id in made:
        until(lambda job_id=job_id: services[0].job(job_id)["state"] == "done")
    assert len(fits(folder)) == len(made)
    assert {services[1].job(job_id)["attempts"] for job_id in made} == {1}


def test_a_cancelled_job_ends_with_its_process(folder: Path, start: Callable[[], Running]) -> None:
    service = start()
    job_id, waiting = service.make(), service.make()
    until(waits_for_the_file(service, job_id))
    assert service.client.delete(f"/v1/jobs/{waiting}").json()["state"] == "cancelled"
    assert service.client.delete(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"
    after = service.make()
    until(waits_for_the_file(service, after))  # one at a time: the cancelled one has ended
    (folder / "go").touch()
    until(lambda: service.job(after)["state"] == "done")
    assert len(fits(folder)) == 1
    assert [job["state"] for job in service.client.get("/v1/jobs").json()["jobs"]] == [
        "done", "cancelled", "cancelled",
    ]  # fmt: skip


def test_a_service_that_ends_gives_its_job_back(folder: Path, start: Callable[[], Running]) -> None:
    service = start()
    job_id = service.make()
    until(waits_for_the_file(service, job_id))
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(60) == 0
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
