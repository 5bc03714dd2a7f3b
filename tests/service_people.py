"""Two made-up namespaces behind a real HTTP server, for tests of the service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

import copersona
from copersona import CoPersona, Interaction
from copersona.language.generation import EchoGenerator
from copersona.service.app import build_app
from copersona.service.gateway import Gateway
from copersona.service.keys import Keys
from copersona.service.local_upstream import LocalUpstream
from copersona.service.operation import Operation
from copersona.service.server import listen, server_of

SHOP, BANK = "shop", "bank"
ANA, BO, ODD, STRANGER = "ana", "bo", "team/zoë one%2Fone", "nobody"
SECRETS = {SHOP: "vermilion kettle", BANK: "cobalt ledger"}
"""Words that ana of either namespace said, and nobody else."""

JSON = {"content-type": "application/json"}
THINGS = {"kitchen": ["kettle", "pan", "bread knife"], "garden": ["rake", "hose", "spade"]}


def rows_of(namespace: str) -> list[Interaction]:
    users = [ANA, BO, ODD, *(f"user{number}" for number in range(6))]
    return [
        Interaction(
            user, f"{kind} tool: {thing}",
            f"My {SECRETS[namespace]} {thing}." if user == ANA else
            f"{'Splendid' if number % 2 else 'Dull'} {thing} {number}, works in wet soil.",
            rating=5.0 if number % 2 else 2.0, at=1e9 + number * 1e5 + place,
        )
        for number, user in enumerate(users)
        for kind, things in THINGS.items()
        for place, thing in enumerate(things)
    ]  # fmt: skip


def opened(folder: Path, namespace: str) -> CoPersona:
    return copersona.open(folder / "people.db", namespace=namespace, encoder="hashing")


def stocked(folder: Path, *, fits: bool = True) -> Path:
    """A folder with both namespaces in one store; both fitted, if asked."""
    folder.mkdir(parents=True, exist_ok=True)
    for namespace in (SHOP, BANK):
        with opened(folder, namespace) as engine:
            engine.add(rows_of(namespace))
            if fits:
                engine.fit()
    return folder


@dataclass(frozen=True)
class Served:
    """A running service.

    Attributes:
        keys: its keys, to make more.
    """

    url: str
    keys: Keys

    def key(self, *scopes: Any, namespace: str = SHOP, user: str | None = None) -> str:
        return self.keys.create(namespace, scopes or ("read", "write"), user=user)[1]

    def client(self, key: str | None) -> httpx2.Client:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30)


@contextmanager
def served(
    folder: Path,
    gateway: Gateway | None = None,
    *,
    opens: Callable[[Path, str], CoPersona] = opened,
    **operation: Any,
) -> Iterator[Served]:
    """The service over a folder, on a free port of this machine, in a thread; chats are echoed.

    Args:
        operation: how it is run; wrong keys are not limited unless asked.
    """
    gateway = gateway or Gateway(LocalUpstream(EchoGenerator))
    with opened(folder, SHOP) as engine, listen("127.0.0.1", 0) as listening:
        keys = Keys(engine.store.keys)
        run = Operation(engine.store, **{"failures_per_minute": 0, **operation})
        server = server_of(build_app(partial(opens, folder), keys, run, gateway))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", keys)
        finally:
            server.should_exit = True
            thread.join()


def until(look: Callable[[], Any]) -> Any:
    """What is seen once it is not false; an error where it stays so for very long."""
    deadline = time.monotonic() + 120
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came to this"
        time.sleep(0.05)
    return found


def check_problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (
        status, "application/problem+json",
    )  # fmt: skip
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    assert found["type"].startswith("urn:copersona:problem:")
    assert found["title"]
    assert found["detail"]
    assert found["instance"].startswith("/")
    return found
