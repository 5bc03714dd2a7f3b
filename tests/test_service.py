"""The service over real HTTP: what is said, decided and asked."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from copersona import CoPersona
from service_people import (
    ANA,
    BANK,
    BO,
    JSON,
    ODD,
    SECRETS,
    SHOP,
    STRANGER,
    Served,
    check_problem,
    opened,
    served,
    stocked,
)


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


def add(client: httpx2.Client, *rows: dict[str, Any]) -> httpx2.Response:
    return client.post("/v1/interactions", json={"interactions": rows})


def statuses(answer: httpx2.Response) -> list[str]:
    return [one["status"] for one in answer.json()["outcomes"]]


# ── histories ──


def test_a_batch_gets_one_outcome_for_each_row_in_order(shop: httpx2.Client) -> None:
    rows: list[Any] = [
        {"user": ANA, "response": "A new word.", "id": "one"},
        {"user": ANA, "response": "A new word.", "id": "one"},
        {"response": "Whose?"},
        {"user": BO},
        {"user": BO, "response": "Yes.", "colour": "red"},
        {"user": BO, "response": "x", "rating": "five"},
        {"user": BO, "response": "x", "at": "some day"},
        {"user": BO, "response": "one\0two"},
        "not a row",
        {"user": BO, "input": "Dated.", "at": "2026-05-31T12:00:00Z", "rating": 4},
    ]
    answer = add(shop, *rows)
    assert statuses(answer) == ["stored", "duplicate", *["rejected"] * 7, "stored"]
    found = answer.json()
    assert (found["stored"], found["duplicates"], found["rejected"]) == (2, 1, 7)
    fields = [one["field"] for one in found["outcomes"][2:9]]
    assert fields == ["user", "response", "colour", "rating", "at", "response", None]
    assert all(one["reason"] for one in found["outcomes"][2:9])
    assert statuses(add(shop, *rows[:1])) == ["duplicate"]


def test_what_is_no_unicode_is_rejected_and_the_rest_is_stored(shop: httpx2.Client) -> None:
    body = (
        '{"interactions": [{"user": "ana", "response": "\\ud800", "id": "\\udfff"},'
        ' {"user": "ana", "response": "fine"}]}'
    )
    answer = shop.post("/v1/interactions", content=body, headers=JSON)
    assert statuses(answer) == ["rejected", "stored"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"", b'"\xff"', b"[" * 100_000, b'{"interactions": 3}', b"{}",
     b'{"interactions": [], "user": "ana"}', b'{"interactions": [' + b"1," * 1000 + b"1]}"],
)  # fmt: skip
def test_a_broken_body_is_a_problem(shop: httpx2.Client, body: bytes) -> None:
    answer = shop.post("/v1/interactions", content=body, headers=JSON)
    assert answer.status_code in (400, 422)
    check_problem(answer, answer.status_code)


def test_what_was_just_said_is_in_the_next_context(shop: httpx2.Client) -> None:
    asked = {"user": STRANGER, "text": "kitchen tool: pan"}
    assert "mauve" not in shop.post("/v1/context", json=asked).text
    add(shop, {"user": STRANGER, "input": "kitchen tool: kettle", "response": "Only mauve ones."})
    assert "mauve" in shop.post("/v1/context", json=asked).text


def test_everything_stored_of_a_user_is_exported(shop: httpx2.Client) -> None:
    shop.post(f"/v1/users/{ANA}/instructions", json={"text": "Metric units."})
    trace = shop.post("/v1/context", json={"user": ANA, "text": "kitchen"}).json()["trace_id"]
    found = shop.get(f"/v1/users/{ANA}/export").json()
    assert (found["user"], found["instructions"], list(found["traces"])) == (
        ANA, ["Metric units."], [trace],
    )  # fmt: skip
    assert len(found["interactions"]) == 6
    assert found["consent"] == shop.get(f"/v1/users/{ANA}/consent").json()


def test_consent_changes_what_is_named_only(shop: httpx2.Client) -> None:
    path = f"/v1/users/{ANA}/consent"
    before = shop.get(path).json()
    assert shop.patch(path, json={"lend": "no"}).json() == {**before, "lend": "no"}
    assert shop.get(path).json() == {**before, "lend": "no"}
    for wrong in ({}, {"lend": "all"}, {"learn": "yes"}, {"share": True}):
        check_problem(shop.patch(path, json=wrong), 422)


def test_a_forgotten_user_is_gone_and_stays_out(shop: httpx2.Client, service: Served) -> None:
    receipt = shop.delete(f"/v1/users/{ANA}", params={"strict": True}).json()
    assert receipt["removed"]["interactions"] == 6
    assert receipt["traces_found"] == []
    assert shop.get(f"/v1/users/{ANA}/export").json()["interactions"] == []
    assert statuses(add(shop, {"user": ANA, "response": "Back."})) == ["rejected"]
    with service.client(service.key(namespace=BANK)) as bank:
        assert SECRETS[BANK] in bank.post("/v1/context", json={"user": ANA, "text": "kettle"}).text


def test_a_user_id_may_hold_what_a_path_is_made_of(shop: httpx2.Client) -> None:
    persona = shop.get(f"/v1/users/{quote(ODD, safe='')}").json()
    assert (persona["user"], persona["n_interactions"]) == (ODD, 6)
    assert shop.get(f"/v1/users/{quote('ana/export', safe='')}").json()["n_interactions"] == 0
    check_problem(shop.get("/v1/users/%FF"), 422)
    check_problem(shop.get("/v1/users/a%00b"), 422)


def test_users_who_are_forgotten_at_once_are_all_gone(shop: httpx2.Client, tmp_path: Path) -> None:
    leaving = [f"user{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        paths = [f"/v1/users/{user}" for user in leaving]
        receipts = [answer.json() for answer in pool.map(shop.delete, paths)]
    assert [receipt["traces_found"] for receipt in receipts] == [[]] * 4
    with opened(tmp_path / "copy", SHOP) as engine:
        assert not set(leaving) & set(engine.state().lenders)


# ── asking ──


def test_a_state_that_was_replaced_is_let_go(template: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(template, tmp_path / "copy"))
    engines: list[CoPersona] = []

    def opens(folder: Path, namespace: str) -> CoPersona:
        engines.append(opened(folder, namespace))
        return engines[-1]

    with served(folder, opens=opens) as service, service.client(service.key("admin")) as shop:
        held = []
        for name in ("user1", "user2", "user3"):
            for user in (ANA, STRANGER):
                asked = shop.post("/v1/context", json={"user": user, "text": "kitchen tool: pan"})
                assert asked.status_code == 200
            states = engines[0]._states
            published = states.in_force()
            assert published
            held.append([weakref.ref(part) for part in published[1:4]])
            del published
            with opened(folder, SHOP) as other:  # as another process does
                other.fit()
            assert shop.delete(f"/v1/users/{name}").status_code == 200
        gc.collect()
        assert [part() for parts in held for part in parts] == [None] * 9


def test_a_context_says_what_it_rests_on_and_can_be_explained(shop: httpx2.Client) -> None:
    asked = {"user": ANA, "text": "kitchen tool: kettle", "budget_tokens": 400}
    found = shop.post("/v1/context", json=asked).json()
    assert found["is_personalised"]
    assert found["tokens"] <= found["budget_tokens"] == 400
    assert SECRETS[SHOP] in "".join(message["content"] for message in found["messages"])
    assert {"own"} <= {part["kind"] for part in found["parts"]}
    explained = shop.get(f"/v1/explain/{found['trace_id']}").json()
    assert explained["said"][0] == "request: kitchen tool: kettle"
    assert explained["detail"]["tokens"] == found["tokens"]


def test_branches_are_switched_by_request(shop: httpx2.Client) -> None:
    asked = {"user": ANA, "text": "kitchen tool: kettle"}
    for branches in ("text,graph", "text", "graph", "none"):
        found = shop.post("/v1/context", json={**asked, "branches": branches}).json()
        assert found["branches"] == branches
    assert found["messages"] == [{"role": "user", "content": asked["text"]}]
    check_problem(shop.post("/v1/context", json={**asked, "branches": "all"}), 422)


def test_a_vote_is_a_distribution(shop: httpx2.Client) -> None:
    vote = shop.post("/v1/vote", json={"user": BO, "text": "garden tool: rake"}).json()
    assert sum(share["share"] for share in vote["ratings"]) == pytest.approx(1, abs=1e-3)
    assert vote["n_own"] > 0


def test_before_anything_is_fitted_requests_are_answered_unpersonalised(tmp_path: Path) -> None:
    with (
        served(stocked(tmp_path / "raw", fits=False)) as service,
        service.client(service.key()) as shop,
    ):
        asked = {"user": ANA, "text": "A kettle?", "instruction": "Be brief."}
        found = shop.post("/v1/context", json=asked).json()
        assert found["messages"] == [{"role": "user", "content": "Be brief.\n\nA kettle?"}]
        assert not found["is_personalised"]
        assert "copersona fit" in found["warnings"][0]
        for answer in (
            shop.get(f"/v1/users/{ANA}"),
            shop.post("/v1/vote", json={"user": ANA, "text": "A kettle"}),
        ):
            assert "copersona fit" in check_problem(answer, 409)["detail"]


@pytest.mark.parametrize(
    "wrong",
    [{"user": ""}, {"user": "a\0b"}, {"user": 3}, {"text": " "}, {"text": "one\0two"},
     {"budget_tokens": 0}, {"budget_tokens": 3}, {"item": 5}, {"colour": "red"}],
)  # fmt: skip
def test_a_wrong_request_names_what_is_wrong(shop: httpx2.Client, wrong: dict[str, Any]) -> None:
    found = check_problem(
        shop.post("/v1/context", json={"user": ANA, "text": "planted words", **wrong}), 422
    )
    assert next(iter(wrong)) in str(found)
    assert "planted words" not in str(found)


def test_many_who_ask_at_once_each_get_their_own(service: Served, shop: httpx2.Client) -> None:
    def asked(number: int) -> bool:
        user = (ANA, BO, ODD, "user5")[number % 4]
        found = shop.post("/v1/context", json={"user": user, "text": "garden tool: rake"})
        trace = shop.get(f"/v1/explain/{found.json()['trace_id']}").json()
        return bool(
            trace["detail"]["user"] == user and (user == ANA) == (SECRETS[SHOP] in found.text)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(asked, range(32)))
