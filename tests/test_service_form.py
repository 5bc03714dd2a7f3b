"""The service over real HTTP: what all of its answers have in common, and how it ends."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator

from copersona import CoPersona, Persona
from copersona.errors import CoPersonaError, DataError, StoreError
from copersona.service.guard import MAX_BODY_BYTES
from copersona.service.problems import answered
from copersona.storage.store import Store
from service_people import ANA, JSON, Served, check_problem, served, stocked

HEADERS = ("cache-control", "content-security-policy", "referrer-policy", "x-content-type-options")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stocked(tmp_path_factory.mktemp("people") / "template")


@pytest.fixture
def service(template: Path, tmp_path: Path) -> Iterator[Served]:
    shutil.copytree(template, tmp_path / "copy")
    with served(tmp_path / "copy") as running:
        yield running


@pytest.fixture
def shop(service: Served) -> Iterator[httpx2.Client]:
    with service.client(service.key("admin")) as client:
        yield client


def test_health_is_open_and_everything_else_is_not(service: Served) -> None:
    with service.client(None) as anybody:
        assert anybody.get("/healthz").json() == anybody.get("/readyz").json() == {"status": "ok"}
        for path in ("/", "/v1", "/v1/users/ana", "/docs", "/nothing"):
            answer = anybody.get(path)
            check_problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"


def test_the_document_explains_every_field(service: Served) -> None:
    with service.client(None) as anybody:
        document = anybody.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    silent = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, value in schema.get("properties", {}).items()
        if "description" not in value
    ]
    assert silent == []
    for path, routes in document["paths"].items():
        for route in routes.values():
            assert route["description"]
            if path.startswith("/v1"):
                assert route["security"]
                assert list(route["responses"]["401"]["content"]) == ["application/problem+json"]
    assert schemas["NewInteraction"]["additionalProperties"] is False


def with_examples(part: Any) -> Iterator[dict[str, Any]]:
    """Every schema below a part of the document that has examples."""
    if isinstance(part, dict):
        if isinstance(part.get("examples"), list):
            yield part
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from with_examples(one)


def test_every_body_has_an_example_and_every_example_fits_its_schema(service: Served) -> None:
    with service.client(None) as anybody:
        document = anybody.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    bare = [
        f"{method} {path}"
        for path, methods in document["paths"].items()
        for method, route in methods.items()
        for body in (route.get("requestBody"), *route["responses"].values())
        for kind, content in (body or {}).get("content", {}).items()
        if kind == "application/json"
        and "examples" not in {**schemas, "": content["schema"]}[
            content["schema"].get("$ref", "").rpartition("/")[2]
        ]
    ]  # fmt: skip
    assert bare == []
    wrong = []
    for schema in with_examples(document):
        whole = Draft202012Validator({**schema, "components": document["components"]})
        wrong += [error.message for one in schema["examples"] for error in whole.iter_errors(one)]
    assert wrong == []


def test_every_answer_has_its_headers(service: Served, shop: httpx2.Client) -> None:
    with service.client(None) as anybody:
        answers = [anybody.get("/healthz"), anybody.get("/v1/context"), shop.get("/v1/context"),
                   shop.get(f"/v1/users/{ANA}"), shop.get("/nothing")]  # fmt: skip
    assert [one.status_code for one in answers] == [200, 401, 405, 200, 404]
    for answer in answers:
        assert [name for name in HEADERS if name not in answer.headers] == []
        assert "server" not in answer.headers


def test_a_body_that_is_too_large_is_refused(shop: httpx2.Client) -> None:
    def pieces() -> Iterator[bytes]:
        yield from (b" " * 2**20 for _ in range(MAX_BODY_BYTES // 2**20 + 1))

    declared = shop.post("/v1/interactions", content=b"".join(pieces()), headers=JSON)
    streamed = shop.post("/v1/interactions", content=pieces(), headers=JSON)
    for answer in (declared, streamed):
        check_problem(answer, 413)


def test_a_bug_and_a_broken_store_reveal_nothing(
    service: Served, shop: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise KeyError("planted words of a user")

    monkeypatch.setattr(Store, "instructions", breaks)
    found = check_problem(shop.get(f"/v1/users/{ANA}/export"), 500)
    assert "planted" not in str(found)
    service.keys._ring._database.close()
    for path in ("/readyz", f"/v1/users/{ANA}"):
        assert "people.db" not in str(check_problem(shop.get(path), 503))


@pytest.mark.parametrize(
    ("error", "is_written"), [(StoreError("/a/path"), True), (DataError("no text"), False)]
)
def test_what_an_asker_is_not_told_is_in_the_log(
    caplog: pytest.LogCaptureFixture, error: CoPersonaError, is_written: bool
) -> None:
    detail = answered(error).detail
    assert (detail != str(error)) is is_written
    assert [record.message for record in caplog.records] == ["StoreError: /a/path"] * is_written


def test_running_requests_are_answered_before_the_service_ends(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(template, tmp_path / "copy")
    begun, persona = threading.Event(), CoPersona.persona

    def slow_persona(engine: CoPersona, user: str) -> Persona:
        begun.set()
        time.sleep(0.5)
        return persona(engine, user)

    monkeypatch.setattr(CoPersona, "persona", slow_persona)
    with ThreadPoolExecutor(1) as pool, served(tmp_path / "copy") as service:
        address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
        client = service.client(service.key())
        answer = pool.submit(client.get, f"/v1/users/{ANA}")
        assert begun.wait(10)
    assert answer.result().json()["n_interactions"] == 6
    client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
