"""Who may ask what of whom: every route against every kind of key, and what is written down."""

from __future__ import annotations

import json
import logging
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import sqlalchemy as sa
from fastapi.routing import APIRoute

from copersona.service.asking import router as asking
from copersona.service.chat import router as chat
from copersona.service.guard import OPEN_PATHS
from copersona.service.histories import router as histories
from copersona.service.operating import metrics_router
from copersona.service.operating import router as operating
from copersona.service.people import router as people
from copersona.service.spending import router as spending
from copersona.storage.audit_log import AuditLog
from copersona.storage.usage_log import UsageLog
from service_people import (
    ANA,
    BANK,
    BO,
    SECRETS,
    SHOP,
    STRANGER,
    Served,
    check_problem,
    served,
    stocked,
    until,
)  # fmt: skip

Send = Callable[[httpx2.Client, str], httpx2.Response]

TEXT = "kitchen tool: kettle"
ANEW = ("trace_id", "state", "id", "created")


def path_of(user: str) -> str:
    return f"/v1/users/{quote(user, safe='')}"


def joined(client: httpx2.Client, user: str, what: str) -> httpx2.Response:
    return client.post(f"{path_of(user)}/aliases", json={"alias": f"{user} {what}"})


def parted(client: httpx2.Client, user: str, what: str) -> httpx2.Response:
    joined(client, user, what)
    return client.delete(f"{path_of(user)}/aliases/{quote(f'{user} {what}', safe='')}")


# What is sent to each route about a user. A route that is not named here fails the first test.
ABOUT_A_USER: dict[tuple[str, str], Send] = {
    ("GET", "/users/{user}"): lambda c, user: c.get(path_of(user)),
    ("GET", "/users/{user}/export"): lambda c, user: c.get(f"{path_of(user)}/export"),
    ("GET", "/users/{user}/consent"): lambda c, user: c.get(f"{path_of(user)}/consent"),
    ("PATCH", "/users/{user}/consent"): lambda c, user: c.patch(
        f"{path_of(user)}/consent", json={"train": True}
    ),
    ("POST", "/users/{user}/instructions"): lambda c, user: c.post(
        f"{path_of(user)}/instructions", json={"text": "Be brief."}
    ),
    ("POST", "/interactions"): lambda c, user: c.post(
        "/v1/interactions", json={"interactions": [{"user": user, "response": "Aha."}]}
    ),
    ("POST", "/context"): lambda c, user: c.post("/v1/context", json={"user": user, "text": TEXT}),
    ("POST", "/chat/completions"): lambda c, user: c.post(
        "/v1/chat/completions",
        json={"user": user, "messages": [{"role": "user", "content": TEXT}]},
    ),
    ("POST", "/vote"): lambda c, user: c.post("/v1/vote", json={"user": user, "text": TEXT}),
    ("GET", "/users/{user}/aliases"): lambda c, user: c.get(f"{path_of(user)}/aliases"),
    ("POST", "/users/{user}/aliases"): lambda c, user: joined(c, user, "phone"),
    ("DELETE", "/users/{user}/aliases/{alias}"): lambda c, user: parted(c, user, "tablet"),
    ("POST", "/users/{user}/merge"): lambda c, user: c.post(
        f"{path_of(user)}/merge", json={"from": f"{user} as a guest {uuid.uuid4()}"}
    ),
    ("DELETE", "/users/{user}"): lambda c, user: c.delete(path_of(user)),
}
ABOUT_A_TRACE: dict[tuple[str, str], Send] = {
    ("POST", "/feedback"): lambda c, trace: c.post(
        "/v1/feedback", json={"trace_id": trace, "verdict": "accept"}
    ),
    ("GET", "/explain/{trace_id}"): lambda c, trace: c.get(f"/v1/explain/{quote(trace, safe='')}"),
}
ABOUT_THE_ASKER: dict[tuple[str, str], Send] = {
    ("GET", "/models"): lambda c, _: c.get("/v1/models"),
    ("GET", "/usage"): lambda c, _: c.get("/v1/usage"),
}
ABOUT_A_JOB: dict[tuple[str, str], Send] = {
    ("GET", "/jobs/{job_id}"): lambda c, job: c.get(f"/v1/jobs/{quote(job, safe='')}"),
    ("DELETE", "/jobs/{job_id}"): lambda c, job: c.delete(f"/v1/jobs/{quote(job, safe='')}"),
}
ABOUT_ALL: dict[tuple[str, str], Send] = {
    ("POST", "/jobs"): lambda c, _: c.post("/v1/jobs", json={"kind": "fit"}),
    ("GET", "/jobs"): lambda c, _: c.get("/v1/jobs"),
    ("GET", "/audit"): lambda c, user: c.get("/v1/audit", params={"user": user}),
    ("GET", "/metrics"): lambda c, _: c.get("/metrics"),
}
OPERATING = {**ABOUT_A_JOB, **ABOUT_ALL}
EVERY = {**ABOUT_A_USER, **ABOUT_A_TRACE, **ABOUT_THE_ASKER, **OPERATING}
SCOPE_OF = {
    ("GET", "/users/{user}/export"): "admin",
    ("DELETE", "/users/{user}"): "admin",
    ("GET", "/usage"): "admin",
    ("PATCH", "/users/{user}/consent"): "write",
    ("POST", "/users/{user}/instructions"): "write",
    ("POST", "/interactions"): "write",
    ("POST", "/users/{user}/aliases"): "admin",
    ("DELETE", "/users/{user}/aliases/{alias}"): "admin",
    ("POST", "/users/{user}/merge"): "admin",
    ("POST", "/feedback"): "write",
    **dict.fromkeys(OPERATING, "admin"),
}
NOT_FOR_TOKENS = {
    ("DELETE", "/users/{user}"),  # others need him
    ("POST", "/users/{user}/aliases"),
    ("DELETE", "/users/{user}/aliases/{alias}"),
    ("POST", "/users/{user}/merge"),
}

named = pytest.mark.parametrize("route", list(EVERY), ids=" ".join)
about_users = pytest.mark.parametrize("route", list(ABOUT_A_USER), ids=" ".join)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(stocked(tmp_path_factory.mktemp("people") / "x")) as running:
        yield running


def body_of(answer: httpx2.Response, *names: str) -> Any:
    """What was answered, without what the asker said and what is drawn anew for each request."""
    text = re.sub(r"</?[a-z]{8}>", "FENCE", answer.text)
    for name in names:
        text = text.replace(quote(name, safe=""), "NAME").replace(json.dumps(name), '"NAME"')
    found = json.loads(text) if text else None
    if isinstance(found, dict):
        found = {key: value for key, value in found.items() if key not in ANEW}
        for outcome in found.get("outcomes", []):
            outcome["id"] = bool(outcome["id"])
    return answer.status_code, found


def shows_a_secret(answer: httpx2.Response) -> list[str]:
    return [secret for secret in SECRETS.values() if secret in answer.text]


def trace_of(service: Served, user: str, *, namespace: str = SHOP) -> str:
    with service.client(service.key(namespace=namespace)) as client:
        found = client.post("/v1/context", json={"user": user, "text": TEXT})
    return str(found.json()["trace_id"])


def is_working(client: httpx2.Client) -> bool:
    jobs = client.get("/v1/jobs").json()["jobs"]
    return any(job["state"] in ("waiting", "running") for job in jobs)


def job_of(service: Served, *, namespace: str = SHOP) -> str:
    with service.client(service.key("admin", namespace=namespace)) as client:
        return str(client.post("/v1/jobs", json={"kind": "fit"}).json()["id"])


def test_no_route_is_left_out_of_this_walk(service: Served) -> None:
    routes = [
        *histories.routes, *asking.routes, *people.routes, *chat.routes, *spending.routes,
        *operating.routes, *metrics_router.routes,
    ]  # fmt: skip
    there = {
        (method, route.path)
        for route in routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    assert there == set(EVERY)
    with service.client(None) as anybody:
        documented = set(anybody.get("/openapi.json").json()["paths"])
    assert documented - {f"/v1{path}" for _, path in there} == OPEN_PATHS - {"/openapi.json"}


@named
def test_without_a_key_that_fits_nothing_is_told(service: Served, route: tuple[str, str]) -> None:
    good = service.key("admin")
    key_id, secret = good.split("_", 2)[1:]
    revoked = service.key("admin")
    service.keys.revoke(SHOP, revoked.split("_")[1])
    wrong = [None, "x", good[:-1], f"{good}x", f"cp_{key_id}_", f"xx_{key_id}_{secret}",
             f"cp_0_{secret}", secret, revoked]  # fmt: skip
    answers = []
    for key in wrong:
        with service.client(key) as client:
            answers += [EVERY[route](client, name) for name in (ANA, STRANGER)]
    assert {answer.status_code for answer in answers} == {401}
    assert len({json.dumps(body_of(answer, ANA, STRANGER)) for answer in answers}) == 1


@about_users
def test_a_user_of_another_namespace_is_like_one_nobody_knows(
    service: Served, route: tuple[str, str]
) -> None:
    known, nobody = (f"{name} {route[0]} {route[1][-9:]}" for name in ("carl", "nora"))
    said = {"user": known, "response": f"My {SECRETS[SHOP]}."}
    with service.client(service.key("admin")) as shop:
        assert shop.post("/v1/interactions", json={"interactions": [said]}).json()["stored"] == 1
        with service.client(service.key("admin", namespace=BANK)) as bank:
            # Receipts tell of files: a fit makes some, the first forget takes some away.
            until(lambda: not is_working(shop) and not is_working(bank))
            EVERY[route](bank, f"before {nobody}")
            foreign, unknown = (EVERY[route](bank, name) for name in (known, nobody))
        assert body_of(foreign, known) == body_of(unknown, nobody)
        assert foreign.status_code < 300
        assert shows_a_secret(foreign) == []
        kept = shop.get(f"{path_of(known)}/export").json()
        assert [one["response"] for one in kept["interactions"]] == [said["response"]]


@contextmanager
def asked_of_the_database() -> Iterator[list[str]]:
    """Statements of requests, as they come; not those that other threads make beside them."""
    found: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        if threading.current_thread().name == "AnyIO worker thread":
            found.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


@pytest.mark.parametrize("is_token", [True, False], ids=["token", "key"])
@pytest.mark.parametrize("route", [*ABOUT_A_USER, *ABOUT_A_TRACE], ids=" ".join)
def test_the_database_is_asked_alike_for_a_foreign_id_and_for_an_unknown_one(
    service: Served, monkeypatch: pytest.MonkeyPatch, route: tuple[str, str], is_token: bool
) -> None:
    known, nobody, before = (f"{name} {is_token} {route}" for name in ("dora", "nils", "ned"))
    rows = [{"user": known, "input": TEXT, "response": f"My {SECRETS[SHOP]}."}]
    with service.client(service.key("admin")) as shop:
        assert shop.post("/v1/interactions", json={"interactions": rows}).json()["stored"] == 1
    if route in ABOUT_A_TRACE:
        known, nobody, before = trace_of(service, known), "0" * 16, "1" * 16
    key = service.key(user=BO) if is_token else service.key("admin", namespace=BANK)
    # How many lines a change takes along depends on the moment; chats are counted when answered.
    monkeypatch.setattr(AuditLog, "append", lambda *_: None)
    monkeypatch.setattr(UsageLog, "add", lambda *_: None)
    with service.client(key) as asker, asked_of_the_database() as statements:
        asked = []
        for name in (before, known, nobody):
            EVERY[route](asker, name)
            asked.append(statements[:])
            statements.clear()
    assert asked[1] == asked[2] != []


@about_users
def test_a_token_sees_its_user_only(service: Served, route: tuple[str, str]) -> None:
    with service.client(service.key(user=BO)) as token:
        others = [EVERY[route](token, name) for name in (ANA, STRANGER, "BO", "bo ")]
        if route not in NOT_FOR_TOKENS:
            assert EVERY[route](token, BO).status_code < 300
    assert {answer.status_code for answer in others} == {403}
    names = (ANA, STRANGER, "BO", "bo ")
    assert len({json.dumps(body_of(answer, *names)) for answer in others}) == 1
    assert [shows_a_secret(answer) for answer in others] == [[]] * 4


def test_a_token_sees_its_users_traces_only(service: Served) -> None:
    own, anas, banks = (
        trace_of(service, BO), trace_of(service, ANA), trace_of(service, ANA, namespace=BANK),
    )  # fmt: skip
    with service.client(service.key(user=BO)) as token, service.client(service.key()) as shop:
        assert token.get(f"/v1/explain/{own}").status_code == 200
        assert shop.get(f"/v1/explain/{anas}").status_code == 200
        refused = [token.get(f"/v1/explain/{trace}") for trace in (anas, banks, "0" * 16)]
        refused += [shop.get(f"/v1/explain/{trace}") for trace in (banks, "0" * 16)]
    assert {answer.status_code for answer in refused} == {404}
    assert len({json.dumps(body_of(answer, anas, banks, "0" * 16)) for answer in refused}) == 1


def test_one_foreign_row_refuses_the_whole_batch_of_a_token(service: Served) -> None:
    rows = [{"user": BO, "response": "Mine."}, {"user": ANA, "response": "Not mine."}]
    with service.client(service.key(user=BO)) as token:
        before = token.get(f"{path_of(BO)}/export").json()["interactions"]
        assert token.post("/v1/interactions", json={"interactions": rows}).status_code == 403
        assert token.get(f"{path_of(BO)}/export").json()["interactions"] == before


@pytest.mark.parametrize("route", list(OPERATING), ids=" ".join)
def test_the_service_is_not_run_by_tokens(service: Served, route: tuple[str, str]) -> None:
    name = job_of(service) if route in ABOUT_A_JOB else BO
    with service.client(service.key("read", "write", user=BO)) as token:
        check_problem(OPERATING[route](token, name), 403)


def test_jobs_and_audit_lines_of_another_namespace_are_not_there(service: Served) -> None:
    shops, secret = job_of(service), "only of the shop"
    with service.client(service.key("admin")) as shop:
        assert shop.get(path_of(secret)).status_code == 200
        assert len(OPERATING["GET", "/audit"](shop, secret).json()["lines"]) >= 1
    with service.client(service.key("admin", namespace=BANK)) as bank:
        for route, send in ABOUT_A_JOB.items():
            foreign, unknown = send(bank, shops), send(bank, "0" * 16)
            assert foreign.status_code == 404
            assert body_of(foreign, shops) == body_of(unknown, "0" * 16), route
        assert shops not in bank.get("/v1/jobs").text
        lines = OPERATING["GET", "/audit"](bank, secret).json()["lines"]
        assert {line["action"] for line in lines} == {"audit"}  # its own question
        assert f'"{SHOP}"' not in bank.get("/metrics").text


LINES = {("GET", "/audit"): 0, ("DELETE", "/users/{user}/aliases/{alias}"): 2}
"""Lines that a walk of a route leaves, where it is not one: an alias is set before it is gone."""


@named
def test_every_route_leaves_a_line_that_is_kept(service: Served, route: tuple[str, str]) -> None:
    name = trace_of(service, ANA) if route in ABOUT_A_TRACE else f"kept {route[0]} {route[1][-9:]}"
    if route in ABOUT_A_JOB:
        name = job_of(service)
    key = service.key("admin")
    key_id = key.split("_")[1]
    with service.client(key) as client:
        EVERY[route](client, name)
        client.get("/v1/audit")  # as a change would, it takes along what was gathered
        lines = client.get("/v1/audit").json()["lines"]
    own = [line for line in lines if line["key_id"] == key_id and line["action"] != "audit"]
    assert len(own) == LINES.get(route, 1)
    if route in ABOUT_A_USER:
        assert all(service.keys.mark(SHOP, name).hex()[:16] in line["marks"] for line in own)
        assert name not in json.dumps(lines)


def test_ids_of_others_do_not_show_in_a_tokens_outcomes(service: Served) -> None:
    def row(user: str) -> dict[str, Any]:
        return {"interactions": [{"user": user, "response": "Aha!", "id": "order-1"}]}

    with service.client(service.key()) as shop:
        assert shop.post("/v1/interactions", json=row(ANA)).json()["stored"] == 1
    with service.client(service.key(user=BO)) as token:
        assert token.post("/v1/interactions", json=row(BO)).json()["stored"] == 1
        assert token.post("/v1/interactions", json=row(BO)).json()["duplicates"] == 1


@named
def test_a_key_does_what_its_scopes_say(service: Served, route: tuple[str, str]) -> None:
    needed = SCOPE_OF.get(route, "read")
    name = trace_of(service, ANA) if route in ABOUT_A_TRACE else "user5"
    if route in ABOUT_A_JOB:
        name = job_of(service)
    for scope in ("read", "write", "admin"):
        with service.client(service.key(scope)) as client:
            status = EVERY[route](client, name).status_code
        assert (status < 300) is (scope in (needed, "admin")), scope


def test_users_export_and_erase_themselves_and_their_tokens_go(service: Served) -> None:
    key = service.key(user="user4")
    with service.client(service.key("read", user="user4")) as reader:
        assert reader.get(f"{path_of('user4')}/export").status_code == 200
        assert reader.delete(path_of("user4")).status_code == 403
        with service.client(key) as token:
            assert token.delete(path_of("user4")).json()["traces_found"] == []
            assert token.get(path_of("user4")).status_code == 401
        assert reader.get(path_of("user4")).status_code == 401
    assert service.keys.of(SHOP, user="user4") == []


def test_every_reading_and_writing_is_written_down_without_names_and_words(
    service: Served, caplog: pytest.LogCaptureFixture
) -> None:
    mark = service.keys.mark(SHOP, BO).hex()[:16]
    key = service.key(user=BO)
    trace = trace_of(service, BO)
    with caplog.at_level(logging.INFO, "copersona.audit"), service.client(key) as token:
        for route in ABOUT_A_USER.keys() - NOT_FOR_TOKENS:
            caplog.clear()
            EVERY[route](token, BO)
            (record,) = caplog.records
            line = json.loads(record.message)
            assert (line["users"], line["allowed"], line["key"]) == (
                [mark], True, key.split("_")[1],
            )  # fmt: skip
        caplog.clear()
        token.get(path_of(ANA))
        token.get(f"/v1/explain/{trace}")
    lines = [json.loads(record.message) for record in caplog.records]
    assert [(one["action"], one["allowed"]) for one in lines] == [
        ("persona", False), ("explain", True),
    ]  # fmt: skip
    assert not {BO, ANA, TEXT} & set(json.dumps(lines).split('"'))


def test_applications_do_not_share_anything(tmp_path: Path) -> None:
    folders = [stocked(tmp_path / name, fits=False) for name in "ab"]
    with (
        served(folders[0]) as one,
        served(folders[1]) as other,
        other.client(one.key("admin")) as client,
    ):
        assert client.get(path_of(ANA)).status_code == 401
