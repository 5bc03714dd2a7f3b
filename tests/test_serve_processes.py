"""Two `copersona serve` over one database and one folder of fitted states, and a third process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

import copersona
from copersona import CoPersona
from copersona.service.keys import Keys
from databases import KINDS, database
from service_people import BO, SHOP, rows_of


@contextmanager
def serving(url: str, root: Path, key: str) -> Iterator[httpx2.Client]:
    """A process that serves, and what asks it."""
    environment = {name: value for name, value in os.environ.items() if "COPERSONA" not in name}
    command = [sys.executable, "-m", "copersona", "--store", url, "--encoder", "hashing", "serve",
               "--port", "0"]  # fmt: skip
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        env={**environment, "COPERSONA_STATE": str(root)},
    ) as process:  # fmt: skip
        assert process.stderr
        try:
            address = next(line for line in process.stderr if line.startswith("http://")).strip()
            # Somebody has to read what it writes down, or it waits.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            headers = {"authorization": f"Bearer {key}"}
            with httpx2.Client(base_url=address, headers=headers, timeout=60) as client:
                yield client
        finally:
            process.terminate()


@dataclass(frozen=True)
class Deployment:
    """Two clients, one for each process, and a third process: this one."""

    first: httpx2.Client
    second: httpx2.Client
    beside: CoPersona

    @property
    def both(self) -> tuple[httpx2.Client, httpx2.Client]:
        return self.first, self.second


@pytest.fixture(scope="module", params=KINDS)
def deployed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployed")
    with ExitStack() as held:
        url = held.enter_context(database(request.param, folder))
        beside = held.enter_context(
            copersona.open(url, namespace=SHOP, encoder="hashing", state_dir=folder / "states")
        )
        beside.add(rows_of(SHOP))
        beside.fit()
        key = Keys(beside.store.keys).create(SHOP, ("admin",))[1]
        clients = [held.enter_context(serving(url, folder / "states", key)) for _ in range(2)]
        yield Deployment(*clients, beside)


def asked(client: httpx2.Client, user: str, text: str) -> Any:
    answer = client.post("/v1/context", json={"user": user, "text": text})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_one_adds_is_in_the_others_next_context(deployed: Deployment) -> None:
    for here, there in (deployed.both, deployed.both[::-1]):
        said = f"Only a tinplate watering can will do, says port {here.base_url.port}."
        user = f"newcomer{here.base_url.port}"
        row = {"user": user, "input": "garden tool: watering can", "response": said}
        assert here.post("/v1/interactions", json={"interactions": [row]}).is_success
        assert said in str(asked(there, user, "Which garden tool, a watering can?")["messages"])


def test_a_state_published_beside_them_is_served_by_both(deployed: Deployment) -> None:
    for _ in range(2):
        version = deployed.beside.fit().state
        assert [client.get(f"/v1/users/{BO}").json()["state"] for client in deployed.both] == [
            version, version,
        ]  # fmt: skip


def test_who_is_forgotten_by_one_is_unknown_to_the_other_at_once(deployed: Deployment) -> None:
    receipt = deployed.first.delete("/v1/users/user5").json()
    assert receipt["traces_found"] == []
    assert deployed.second.get("/v1/users/user5").json()["n_interactions"] == 0
    assert deployed.second.get(f"/v1/users/{BO}").json()["state"] == receipt["state"]
    refused = {"user": "user5", "input": "Again?", "response": "Again."}
    answer = deployed.second.post("/v1/interactions", json={"interactions": [refused]}).json()
    assert [one["status"] for one in answer["outcomes"]] == ["rejected"]


def test_states_are_swapped_under_load_without_an_error(deployed: Deployment) -> None:
    is_over, failed, counts = threading.Event(), list[str](), list[int]()

    def load(client: httpx2.Client, user: str) -> None:
        count = 0
        while not is_over.is_set():
            for answer in (client.post("/v1/context", json={"user": user, "text": "A kettle?"}),
                           client.get(f"/v1/users/{user}")):  # fmt: skip
                if answer.status_code != 200:
                    failed.append(answer.text)
            count += 1
        counts.append(count)

    users = (BO, "user1", "nobody")
    threads = [
        threading.Thread(target=load, args=(client, user))
        for client in deployed.both for user in users
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for gone in ("user2", "user3"):
        deployed.beside.fit()
        deployed.beside.forget(gone)
    is_over.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert min(counts) >= 1
    assert [client.get(f"/v1/users/{BO}").json()["state"] for client in deployed.both] == [
        deployed.beside._required().version
    ] * 2
