"""Chats through the gateway: real OpenAI clients in front, a real server behind, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from copersona import CoPersona
from copersona.answering.prompting import is_framed
from copersona.errors import StoreError
from copersona.service.engines import Engines
from copersona.storage.key_ring import KeyRing
from fake_openai import LOST, Reply, json_reply
from gateway_people import (
    TEXT,
    Between,
    between,
    chunk,
    completion,
    lines,
    said,
)
from service_people import ANA, BO, JSON, SECRETS, SHOP, STRANGER, check_problem, stocked

STREAM = {"content-type": "text/event-stream"}
OWN = SECRETS[SHOP]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stocked(tmp_path_factory.mktemp("people") / "template")


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "copy"))


@pytest.fixture(scope="module")
def shared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Between]:
    copy = tmp_path_factory.mktemp("people") / "copy"
    with between(Path(shutil.copytree(template, copy))) as running:
        yield running


@pytest.fixture
def gate(shared: Between) -> Between:
    """A gateway whose upstream has nothing planned."""
    shared.upstream.plan.clear()
    shared.upstream.asked.clear()
    return shared


def posted(gate: Between, body: Any, key: str | None = None, **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with gate.service.client(key or gate.service.key()) as client:
        return client.post("/v1/chat/completions", content=content, headers={**JSON, **headers})


def words(gate: Between) -> str:
    return json.dumps(gate.sent())


# ---- what is personalised -----------------------------------------------------------------------


def test_an_application_is_personalised_by_its_base_url_and_user(gate: Between) -> None:
    gate.upstream.plan = [completion("Here you are.")]
    raw = gate.openai().chat.completions.with_raw_response.create(
        model="any", user=ANA, messages=[said(TEXT)]
    )
    assert raw.parse().choices[0].message.content == "Here you are."
    assert raw.headers["x-copersona-personalised"] == "yes"
    assert OWN in words(gate)
    assert gate.sent()[-1]["content"].endswith(TEXT)
    with gate.service.client(gate.service.key()) as client:
        explained = client.get(f"/v1/explain/{raw.headers['x-copersona-trace']}")
    assert explained.status_code == 200


def test_ours_stands_behind_the_clients_own_instructions(gate: Between) -> None:
    chat = [
        {"role": "developer", "content": "Be kind."}, {"role": "system", "content": "Be brief."},
        said("Hi"), {"role": "assistant", "content": "Hello."}, said(TEXT),
    ]  # fmt: skip
    gate.openai().chat.completions.create(model="any", user=ANA, messages=chat)
    sent = gate.sent()
    assert sent[:2] == chat[:2]
    assert (sent[2]["role"], is_framed(sent[2]["content"])) == ("system", True)
    assert sent[-3:-1] == chat[2:4]
    assert any(OWN in one["content"] for one in sent[3:-3])
    assert sent[-1]["content"].endswith(TEXT)


def test_the_role_of_ours_is_that_of_the_clients(gate: Between) -> None:
    chat = [{"role": "developer", "content": "Be kind."}, said(TEXT)]
    gate.openai().chat.completions.create(model="any", user=ANA, messages=chat)
    assert [one["role"] for one in gate.sent()].count("system") == 0
    assert gate.sent()[1]["role"] == "developer"


def test_a_tool_exchange_stays_in_place(gate: Between) -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    exchange = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "12 °C"},
    ]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    gate.openai().chat.completions.create(
        model="any", user=ANA, messages=[said(TEXT), *exchange], tools=tools, tool_choice="auto"
    )
    assert gate.sent()[-2:] == exchange
    assert gate.sent()[-3]["content"].endswith(TEXT)
    assert (gate.upstream.asked[-1]["tools"], OWN in words(gate)) == (tools, True)


def test_of_parts_only_the_text_is_added_to(gate: Between) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    parts = [picture, {"type": "text", "text": TEXT}, sound, {"type": "text", "text": "Really?"}]
    posted(gate, {"user": ANA, "messages": [said(parts)]})
    first, text, *rest = gate.sent()[-1]["content"]
    assert [first, *rest] == [picture, *parts[2:]]
    assert text["text"].endswith(TEXT)
    assert OWN in words(gate)


BODIES = (
    b'{"model":"m", "messages" :[ {"content":"%s","role":"user","x":[1.10, 1e400]} ],"user":"%s",'
    b'\n"seed":12345678901234567890123,"response_format":{"type":"json_object"},"a":1,"a":1.0}',
    b'{"user":"%s","messages":[{"role":"user","content":[{"type":"text","text":"%s"}]}],"model":""}',
)


@pytest.mark.parametrize("added", ["", "caf\\u00e9 \xe9 \\ud83e\\udd16 \\n"])
def test_every_byte_of_the_client_arrives(gate: Between, added: str) -> None:
    for body, order in zip(BODIES, (1, -1), strict=True):
        pair = (TEXT.encode() + added.encode(), ANA.encode())[::order]
        whole = body % pair
        assert posted(gate, whole).headers["x-copersona-personalised"] == "yes"
        sent, at = gate.upstream.bodies[-1], whole.index(TEXT.encode())
        first = whole.index(b"{", 1)
        assert sent.startswith(whole[:first])
        assert whole[first:at] in sent
        assert sent.endswith(whole[at:])
        assert len(sent) > len(whole)


def test_without_anything_to_add_the_body_is_the_same_to_the_byte(gate: Between) -> None:
    whole = BODIES[0] % (TEXT.encode(), ANA.encode())
    for headers in ({"x-copersona": "off"}, {"x-copersona-branches": "none"}):
        assert posted(gate, whole, **headers).status_code == 200
        assert gate.upstream.bodies[-1] == whole
    unknown = b'{"model": "m", "messages": "what?", "user": {"a": 1}}'
    assert posted(gate, unknown).headers["x-copersona-personalised"] == "no"
    assert gate.upstream.bodies[-1] == unknown


def test_a_model_that_is_not_named_is_the_configured_one(gate: Between) -> None:
    posted(gate, b' { "messages":[]}')
    assert gate.upstream.bodies[-1] == b' {"model":"planned-model", "messages":[]}'


def test_branches_and_budget_are_those_of_the_headers(gate: Between) -> None:
    body = {"user": ANA, "messages": [said(TEXT)]}
    posted(gate, body)
    usual = len(words(gate))
    posted(gate, body, **{"x-copersona-budget": "150"})
    assert len(words(gate)) < usual
    posted(gate, body, **{"x-copersona-branches": "graph"})
    assert OWN not in words(gate)
    for wrong in ({"budget": "many"}, {"budget": "0"}, {"branches": "x"}, {"capture": "maybe"},
                  {"user": "%FF"}):  # fmt: skip
        headers = {f"x-copersona-{name}": value for name, value in wrong.items()}
        check_problem(posted(gate, body, **headers), 422)


# ---- whose chat it is ---------------------------------------------------------------------------


def test_the_header_outranks_the_body(gate: Between) -> None:
    posted(gate, {"user": STRANGER, "messages": [said(TEXT)]}, **{"x-copersona-user": "%61na"})
    assert OWN in words(gate)


def test_without_a_user_nothing_is_added(gate: Between) -> None:
    for user in ({}, {"user": ""}, {"user": 7}, {"user": "a\nb"}):
        answer = posted(gate, {"messages": [said(TEXT)], **user})
        assert answer.headers["x-copersona-personalised"] == "no"
        assert gate.sent() == [said(TEXT)]


def test_a_token_is_its_user_and_nobody_else(gate: Between) -> None:
    token = gate.service.key(user=ANA)
    posted(gate, {"messages": [said(TEXT)]}, token)
    assert OWN in words(gate)
    n_sent = len(gate.upstream.asked)
    for body, headers in (
        ({"user": BO}, {}), ({"user": ANA}, {"x-copersona-user": BO}),
        ({"user": BO}, {"x-copersona-user": ANA}), ({}, {"x-copersona-user": STRANGER}),
        ({"user": "a\nb"}, {}),
    ):  # fmt: skip
        check_problem(posted(gate, {"messages": [said(TEXT)], **body}, token, **headers), 403)
    with pytest.raises(openai.PermissionDeniedError):
        gate.openai(token).chat.completions.create(model="m", user=BO, messages=[said(TEXT)])
    assert len(gate.upstream.asked) == n_sent


def test_a_user_of_another_namespace_is_a_stranger(gate: Between) -> None:
    bank = gate.service.key(namespace="bank")
    posted(gate, {"user": ANA, "messages": [said(TEXT)]}, bank)
    assert OWN not in words(gate)


def test_no_key_of_one_side_reaches_the_other(gate: Between) -> None:
    gate.upstream.plan = [
        Reply(200, b"{}", {"set-cookie": "a=b", "x-request-id": "r1", "authorization": "x"})
    ]
    key = gate.service.key()
    answer = posted(gate, {"messages": [said(TEXT)]}, key)
    posted(gate, {"messages": [said(TEXT)]}, key)
    assert {one["authorization"] for one in gate.upstream.headers[-2:]} == {"Bearer upstream-key"}
    assert key not in str(gate.upstream.headers) + str(gate.upstream.bodies)
    assert "cookie" not in gate.upstream.headers[-1]
    assert answer.headers["x-request-id"] == "r1"
    assert not {"set-cookie", "authorization", "server"} & set(answer.headers)


# ---- a chat is never lost -----------------------------------------------------------------------


def test_before_anything_is_fitted_chats_go_through(tmp_path: Path) -> None:
    with between(stocked(tmp_path / "x", fits=False)) as gate:
        answer = posted(gate, {"user": ANA, "messages": [said(TEXT)]})
        assert (answer.status_code, gate.sent()) == (200, [said(TEXT)])
        assert answer.headers["x-copersona-personalised"] == "no"
        assert "x-copersona-trace" not in answer.headers


@pytest.mark.parametrize("error", [StoreError("planted words"), KeyError("planted words")])
def test_whatever_fails_chats_go_through(
    gate: Between, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:  # fmt: skip
    def breaks(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(CoPersona, "prompt", breaks)
    with caplog.at_level(logging.WARNING):
        answer = posted(gate, {"user": ANA, "messages": [said(TEXT)]})
    assert (answer.headers["x-copersona-personalised"], gate.sent()) == ("no", [said(TEXT)])
    assert type(error).__name__ in caplog.text
    assert not [word for word in ("planted", ANA, TEXT) if word in caplog.text]


def test_without_a_store_chats_go_through_for_those_who_may(
    gate: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise StoreError("planted")

    token, writer = gate.service.key(user=BO), gate.service.key("write")
    monkeypatch.setattr(Engines, "of", breaks)
    monkeypatch.setattr(KeyRing, "user_of", breaks)
    body = {"messages": [said(TEXT)]}
    for key in (gate.service.key(), token):
        answer = posted(gate, body, key)
        assert (answer.headers["x-copersona-personalised"], gate.sent()) == ("no", [said(TEXT)])
    check_problem(posted(gate, {"user": ANA, **body}, token), 403)
    check_problem(posted(gate, body, writer), 403)


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_errors_of_the_upstream_are_passed_on(gate: Between, status: int) -> None:
    said_by_server = {"error": {"message": "planned", "type": "t", "code": "c", "param": None}}
    gate.upstream.plan = [json_reply(said_by_server, status, **{"retry-after": "7"})]
    answer = posted(gate, {"user": ANA, "messages": [said(TEXT)]})
    assert (answer.status_code, answer.json()) == (status, said_by_server)
    assert (answer.headers["retry-after"], len(gate.upstream.asked)) == ("7", 1)
    gate.upstream.plan = [json_reply(said_by_server, status)]
    with pytest.raises(openai.APIStatusError) as caught:
        gate.openai().chat.completions.create(model="m", messages=[said(TEXT)])
    assert (caught.value.status_code, caught.value.code) == (status, "c")


def test_a_lost_connection_is_tried_again_until_something_was_answered(gate: Between) -> None:
    gate.upstream.plan = [LOST, LOST, completion("at last")]
    assert posted(gate, {"messages": [said(TEXT)]}).json()["choices"][0]["message"]
    assert len(gate.upstream.asked) == 3
    gate.upstream.plan = [LOST] * 3
    check_problem(posted(gate, {"messages": [said(TEXT)]}), 502)
    half = Reply(200, b"{", {"content-length": "9", **JSON})
    gate.upstream.plan = [half]
    n_asked = len(gate.upstream.asked)
    check_problem(posted(gate, {"messages": [said(TEXT)]}), 502)
    assert len(gate.upstream.asked) == n_asked + 1


def test_a_server_that_is_away_or_slow_is_a_problem(folder: Path, tmp_path: Path) -> None:
    with between(folder, Reply(0, hangs=True), timeout_s=0.3) as gate:
        found = check_problem(posted(gate, {"user": ANA, "messages": [said(TEXT)]}), 504)
        assert found["type"].endswith("model-late")
    with between(Path(shutil.copytree(folder, tmp_path / "b"))) as gate:
        gate.upstream.server_close()
        answer = posted(gate, {"user": ANA, "messages": [said(TEXT)]})
        check_problem(answer, 502)
        assert answer.headers["x-copersona-trace"]


def test_a_body_that_is_no_json_object_is_refused(gate: Between) -> None:
    for body in (b"", b"[]", b"{", b"\xff{}", b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"):
        check_problem(posted(gate, body), 400)
    assert gate.upstream.asked == []


def test_models_are_those_of_the_upstream(gate: Between) -> None:
    listed = {"object": "list", "data": [{"id": "m1", "object": "model", "created": 1,
                                          "owned_by": "x"}]}  # fmt: skip
    gate.upstream.plan = [json_reply(listed)]
    assert [one.id for one in gate.openai().models.list()] == ["m1"]
    assert gate.upstream.paths[-1] == "/v1/models"


# ---- streams ------------------------------------------------------------------------------------


def streamed(*pieces: str, then: bytes = b"", **more: Any) -> Reply:
    return Reply(200, lines(*map(chunk, pieces)), STREAM, then=then, **more)


def test_the_first_piece_comes_before_the_last_was_said(gate: Between) -> None:
    end = lines(chunk("three"), chunk(finish="stop"), "[DONE]")
    gate.upstream.go_on.clear()
    gate.upstream.plan = [streamed("one ", "two ", then=end)]
    stream = gate.openai().chat.completions.create(
        model="m", user=ANA, messages=[said(TEXT)], stream=True
    )
    assert stream.response.headers["x-copersona-personalised"] == "yes"
    pieces = iter(stream)
    assert next(pieces).choices[0].delta.content == "one "
    assert next(pieces).choices[0].delta.content == "two "
    gate.upstream.go_on.set()
    assert [one.choices[0].delta.content for one in pieces] == ["three", None]


def test_the_bytes_of_a_stream_are_those_of_the_upstream(gate: Between) -> None:
    body = b": comment\n\n" + lines(chunk("a")) + b"event: odd\r\ndata: x\r\n\r\n" + lines("[DONE]")
    gate.upstream.plan = [Reply(200, body, STREAM)]
    answer = posted(gate, {"messages": [said(TEXT)], "stream": True})
    assert (answer.content, answer.headers["content-type"]) == (body, "text/event-stream")


def test_the_asynchronous_client_is_served_at_once(gate: Between) -> None:
    gate.upstream.plan = [streamed("a", "b", then=lines("[DONE]")) for _ in range(8)]
    gate.upstream.go_on.set()

    async def text(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(
            model="m", user=ANA, messages=[said(TEXT)], stream=True
        )
        return "".join([one.choices[0].delta.content or "" async for one in stream])

    async def all_of_them() -> list[str]:
        url, key = f"{gate.service.url}/v1", gate.service.key()
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
            return await asyncio.gather(*(text(client) for _ in range(8)))

    assert asyncio.run(all_of_them()) == ["ab"] * 8


def test_a_stream_that_breaks_off_says_so(gate: Between) -> None:
    gate.upstream.plan = [Reply(200, lines(chunk("one")), {**STREAM, "content-length": "9999"})]
    stream = gate.openai().chat.completions.create(model="m", messages=[said(TEXT)], stream=True)
    pieces = iter(stream)
    assert next(pieces).choices[0].delta.content == "one"
    with pytest.raises((openai.APIError, openai.APIConnectionError)):
        list(pieces)


@pytest.mark.parametrize("reply", [Reply(0, hangs=True), streamed("one ", hangs=True)])
def test_when_the_client_goes_the_upstream_is_told(gate: Between, reply: Reply) -> None:
    gate.upstream.hung_up.clear()
    gate.upstream.plan = [reply]
    body = {"user": ANA, "messages": [said(TEXT)], "stream": True}

    async def leave() -> None:
        headers = {"authorization": f"Bearer {gate.service.key()}"}
        async with httpx2.AsyncClient(base_url=gate.service.url, headers=headers) as client:
            n_asked = len(gate.upstream.asked)
            asking = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
            while len(gate.upstream.asked) == n_asked:
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.wait({asking})

    asyncio.run(leave())
    assert gate.upstream.hung_up.wait(30)


def test_a_client_that_left_in_the_middle_of_a_stream_stops_it(gate: Between) -> None:
    gate.upstream.hung_up.clear()
    gate.upstream.plan = [streamed("one ", hangs=True)]
    stream = gate.openai().chat.completions.create(model="m", messages=[said(TEXT)], stream=True)
    assert next(iter(stream)).choices[0].delta.content == "one "
    stream.close()
    assert gate.upstream.hung_up.wait(30)


# ---- holdout ------------------------------------------------------------------------------------


def test_a_share_of_users_is_held_out_and_marked(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    users = [f"u{number}" for number in range(60)]
    with between(folder, holdout=0.5) as gate, gate.service.client(gate.service.key()) as client:
        with caplog.at_level(logging.INFO, "copersona.audit"):
            rounds = [
                [
                    client.post("/v1/chat/completions", json={"user": u, "messages": [said(text)]})
                    .headers["x-copersona-personalised"]
                    for u in users
                ]
                for text in (TEXT, "something else")
            ]  # fmt: skip
        drawn = [how == "holdout" for how in rounds[0]]
        assert drawn == [how == "holdout" for how in rounds[1]]  # always the same users
        assert 15 <= sum(drawn) <= 45  # of 60; outside with a probability below 1e-4
        actions = [json.loads(record.message)["action"] for record in caplog.records]
        assert [one == "chat, held out" for one in actions] == drawn * 2
        held = users[drawn.index(True)]
        client.post("/v1/chat/completions", json={"user": held, "messages": [said(TEXT)]})
        assert gate.sent() == [said(TEXT)]


def test_requests_are_drawn_one_by_one_where_asked(folder: Path) -> None:
    with between(folder, holdout=0.5, holdout_by="request") as gate:
        bodies = [{"user": ANA, "messages": [said(f"{TEXT} {n}")]} for n in range(40)]
        drawn = [
            [posted(gate, body).headers["x-copersona-personalised"] for body in bodies]
            for _ in range(2)
        ]
    assert drawn[0] == drawn[1]
    assert {"yes", "holdout"} == set(drawn[0])
