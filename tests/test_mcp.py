"""The MCP server by the SDK's own client: in memory, as a process, and over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import mcp
import pytest
from mcp.client.streamable_http import streamable_http_client
from typer.testing import CliRunner

from copersona import CoPersona
from copersona.commands import cli
from copersona.errors import StoreError
from copersona.service import tools
from copersona.service.guard import MAX_BODY_BYTES
from copersona.service.keys import Keys
from copersona.service.mcp import PATH, build_local_server, build_mcp_app
from copersona.service.metrics import Metrics
from copersona.service.operation import Operation
from copersona.service.server import listen, server_of
from copersona.service.tools import VERBS
from service_people import ANA, BANK, BO, SECRETS, SHOP, STRANGER, Served, opened, stocked

TEXT = "kitchen tool: kettle"

# How each tool is asked about a user. A verb that is not named here fails the first test.
ABOUT_A_USER: dict[str, Callable[[str], dict[str, Any]]] = {
    "add": lambda user: {"interactions": [{"user": user, "response": "Aha."}]},
    "prompt": lambda user: {"user": user, "text": TEXT},
    "persona": lambda user: {"user": user},
    "vote": lambda user: {"user": user, "text": TEXT},
    "instruct": lambda user: {"user": user, "text": "Be brief."},
    "get_consent": lambda user: {"user": user},
    "set_consent": lambda user: {"user": user, "train": True},
    "export": lambda user: {"user": user},
    "forget": lambda user: {"user": user},
}
ABOUT_NOBODY = {"explain", "fit_status"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stocked(tmp_path_factory.mktemp("people") / "x")


@pytest.fixture
def engine(folder: Path) -> Iterator[CoPersona]:
    with opened(folder, SHOP) as engine:
        yield engine


def talk(client: mcp.Client, does: Callable[[mcp.Client], Awaitable[Any]]) -> Any:
    async def talking() -> Any:
        async with client:
            return await does(client)

    return asyncio.run(talking())


def asked(client: mcp.Client, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """What is answered to each call: what was found, or what was said against it."""

    async def asking(client: mcp.Client) -> list[Any]:
        answers = [await client.call_tool(*call) for call in calls]
        return [
            answer.content[0].text if answer.is_error else answer.structured_content  # type: ignore[union-attr]
            for answer in answers
        ]

    found: list[Any] = talk(client, asking)
    return found


def plain(answer: Any, *names: str) -> str:
    """An answer without what was asked for and what is drawn anew for each call."""
    text = re.sub(r"</?[a-z]{8}>", "FENCE", json.dumps(answer))
    for name in names:
        text = text.replace(name, "NAME")
    return re.sub(r'"(trace_id|id|state)": "[^"]*"', "", text)


def test_every_verb_is_a_tool_that_says_what_it_takes_gives_and_does(engine: CoPersona) -> None:
    listed = talk(mcp.Client(build_local_server(engine)), lambda client: client.list_tools())
    tools = {tool.name: tool for tool in listed.tools}
    assert set(tools) == {verb.name for verb in VERBS} == set(ABOUT_A_USER) | ABOUT_NOBODY
    for tool in tools.values():
        assert tool.input_schema["additionalProperties"] is False
        assert tool.description
        assert (tool.output_schema is None) is (tool.name == "instruct")
    assert tools["prompt"].input_schema["required"] == ["user", "text"]
    assert "tokens" in tools["prompt"].input_schema["properties"]["budget_tokens"]["description"]
    reading = {name for name, tool in tools.items() if tool.annotations.read_only_hint}
    erasing = {name for name, tool in tools.items() if tool.annotations.destructive_hint}
    assert reading == {
        "persona", "vote", "explain", "get_consent", "export", "fit_status",
    }  # fmt: skip
    assert erasing == {"forget", "set_consent"}


def test_the_verbs_do_what_they_do_elsewhere(engine: CoPersona) -> None:
    said = {"user": "zoe", "input": "garden tool: hose", "response": "Splendid hose.", "id": "z1"}
    server = build_local_server(engine)
    added, context, persona, vote, status, none, consent, taken_out = asked(
        mcp.Client(server),
        ("add", {"interactions": [said, said, {"user": "zoe"}]}),
        ("prompt", {"user": "zoe", "text": "A long hose"}),
        ("persona", {"user": "zoe"}),
        ("vote", {"user": "zoe", "text": "garden tool: rake"}),
        ("fit_status", {}),
        ("instruct", {"user": "zoe", "text": "Metric units."}),
        ("set_consent", {"user": "zoe", "lend": "no"}),
        ("export", {"user": "zoe"}),
    )
    assert (added["stored"], added["duplicates"], added["rejected"]) == (1, 1, 1)
    assert context["is_personalised"]
    assert "Splendid hose." in json.dumps(context["messages"])
    assert persona["n_interactions"] == 1
    assert vote["user"] == "zoe"
    assert status["is_fitted"]
    assert len(status["facets"]) == len(persona["facets"])
    assert none is None
    assert consent == {"remember": True, "learn": True, "lend": "no", "train": False}
    assert taken_out["instructions"] == ["Metric units."]
    explained, kept, receipt, gone = asked(
        mcp.Client(server), ("explain", {"trace_id": context["trace_id"]}),
        ("get_consent", {"user": "zoe"}), ("forget", {"user": "zoe"}), ("export", {"user": "zoe"}),
    )  # fmt: skip
    assert explained["said"]
    assert kept == consent
    assert receipt["traces_found"] == []
    assert gone["interactions"] == []


def test_calls_of_a_server_share_its_counters(
    engine: CoPersona, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Metrics] = []

    class Counted(Metrics):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(tools, "Metrics", Counted)
    names = ("add", "prompt", "prompt", "persona")
    asked(mcp.Client(build_local_server(engine)),
          *((name, ABOUT_A_USER[name](ANA)) for name in names))  # fmt: skip
    (metrics,) = made
    counted = metrics.page(engine).decode()
    assert 'copersona_contexts_total{namespace="shop",personalised="yes"} 2.0' in counted


def test_before_a_fit_the_request_comes_back_as_it_is_and_the_call_that_is_missing_is_named(
    tmp_path: Path,
) -> None:
    with opened(stocked(tmp_path / "x", fits=False), SHOP) as engine:
        client = mcp.Client(build_local_server(engine))
        context, persona, status = asked(
            client, ("prompt", {"user": ANA, "text": TEXT}), ("persona", {"user": ANA}),
            ("fit_status", {}),
        )  # fmt: skip
    assert [one["content"] for one in context["messages"]] == [TEXT]
    assert "not-fitted" in persona
    assert "call fit()" in persona
    assert status == {"is_fitted": False, "fitted_at": None, "facets": []}


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("prompt", {"user": ANA}, "text"),
        ("prompt", {"user": ANA, "text": TEXT, "budget": 800}, "budget"),
        ("prompt", {"user": ANA, "text": TEXT, "budget_tokens": 1}, "budget_tokens"),
        ("persona", {"user": "a\0b"}, "user"),
        ("set_consent", {"user": ANA}, "nothing to change"),
        ("set_consent", {"user": ANA, "lend": "all"}, "lend"),
        ("explain", {"trace_id": "none"}, "unknown"),
    ],
)
def test_what_is_wrong_is_said(
    engine: CoPersona, name: str, arguments: dict[str, Any], told: str
) -> None:
    (said,) = asked(mcp.Client(build_local_server(engine)), (name, arguments))
    assert isinstance(said, str)
    assert told in said


@pytest.mark.parametrize(
    ("error", "told"),
    [(RuntimeError(SECRETS[SHOP]), "a bug"), (StoreError(SECRETS[SHOP]), "the store failed")],
)
def test_what_fails_inside_is_not_told(
    engine: CoPersona, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    error: Exception, told: str,
) -> None:  # fmt: skip
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(engine.store, "consent", broken)
    (said,) = asked(mcp.Client(build_local_server(engine)), ("get_consent", {"user": ANA}))
    assert told in said
    assert SECRETS[SHOP] not in said
    assert type(error).__name__ in caplog.text
    assert isinstance(error, StoreError) or SECRETS[SHOP] not in caplog.text


@pytest.mark.parametrize("name", list(ABOUT_A_USER))
def test_a_user_of_another_namespace_is_like_one_nobody_knows(folder: Path, name: str) -> None:
    known, nobody = f"carl {name}", f"nora {name}"
    said = {"user": known, "response": f"My {SECRETS[SHOP]}."}
    with opened(folder, SHOP) as shop, opened(folder, BANK) as bank:
        asked(mcp.Client(build_local_server(shop)), ("add", {"interactions": [said]}))
        foreign, unknown = asked(
            mcp.Client(build_local_server(bank)),
            (name, ABOUT_A_USER[name](known)), (name, ABOUT_A_USER[name](nobody)),
        )  # fmt: skip
    assert plain(foreign, known) == plain(unknown, nobody)
    assert SECRETS[SHOP] not in json.dumps(foreign)


@pytest.mark.parametrize("name", list(ABOUT_A_USER))
def test_a_server_for_one_user_refuses_all_others_alike(engine: CoPersona, name: str) -> None:
    client = mcp.Client(build_local_server(engine, user=BO))
    others = (ANA, STRANGER, "BO")
    refused = asked(client, *((name, ABOUT_A_USER[name](user)) for user in others))
    assert {plain(one) for one in refused} == {
        f'"Error executing tool {name}: this key does not allow that"'
    }  # fmt: skip


def test_a_server_for_one_user_serves_this_user_and_says_whose_it_is(folder: Path) -> None:
    with opened(folder, SHOP) as engine:
        everybody = mcp.Client(build_local_server(engine))
        (context,) = asked(everybody, ("prompt", {"user": ANA, "text": TEXT}))
        client = mcp.Client(build_local_server(engine, user=BO))

        async def whose(client: mcp.Client) -> str | None:
            return client.instructions

        assert repr(BO) in talk(client, whose)
        client = mcp.Client(build_local_server(engine, user=BO))
        persona, export, trace = asked(
            client, ("persona", {"user": BO}), ("export", {"user": BO}),
            ("explain", {"trace_id": context["trace_id"]}),
        )  # fmt: skip
    assert persona["n_interactions"] == len(export["interactions"]) == 6
    assert "no such trace" in trace


# ── as a process ──────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def process(folder: Path, *options: str) -> AsyncIterator[mcp.Client]:
    inherited = {name: value for name, value in os.environ.items() if "COPERSONA" not in name}
    started = mcp.StdioServerParameters(
        command=sys.executable, env=inherited,
        args=["-m", "copersona", "--store", str(folder / "people.db"), "--namespace", SHOP,
              "--encoder", "hashing", "mcp", *options],
    )  # fmt: skip
    with (folder / "stderr").open("w") as errors:
        async with mcp.Client(mcp.stdio_client(started, errlog=errors)) as client:
            yield client


def test_as_a_process_it_answers_and_audits_on_standard_error(tmp_path: Path) -> None:
    folder = stocked(tmp_path / "x")

    async def talking() -> list[Any]:
        async with process(folder, "--user", BO) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert names == {verb.name for verb in VERBS}
            own = await client.call_tool("prompt", {"user": BO, "text": TEXT})
            other = await client.call_tool("prompt", {"user": ANA, "text": TEXT})
            return [own, other]

    own, other = asyncio.run(talking())
    assert own.structured_content["is_personalised"]
    assert other.is_error
    lines = [json.loads(line) for line in (folder / "stderr").read_text("utf-8").splitlines()]
    assert [(one["action"], one["key"], one["allowed"]) for one in lines] == [
        ("context", "stdio", True), ("context", "stdio", False),
    ]  # fmt: skip


def test_without_the_extra_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    for name in [name for name in sys.modules if name.startswith(("mcp.", "copersona.service"))]:
        monkeypatch.delitem(sys.modules, name)
    result = CliRunner().invoke(cli.app, ["--store", str(tmp_path / "s.db"), "mcp"])
    assert result.exit_code == 4
    assert "pip install 'copersona[mcp]'" in result.stderr
    assert not any(tmp_path.iterdir())


def test_over_http_it_is_for_nobody_in_particular(tmp_path: Path) -> None:
    head = ["--store", str(tmp_path / "s.db"), "mcp", "--http", "--user", ANA]
    result = CliRunner().invoke(cli.app, head)
    assert result.exit_code == 2
    assert "keys create --user" in result.stderr


# ── over HTTP ─────────────────────────────────────────────────────────────────────────────────


@contextmanager
def over_http(folder: Path, host: str = "127.0.0.1") -> Iterator[Served]:
    """A server on this machine, as one is that listens at `host`."""
    with opened(folder, SHOP) as engine, listen("127.0.0.1", 0) as listening:
        keys = Keys(engine.store.keys)
        server = server_of(
            build_mcp_app(partial(opened, folder), keys, Operation(engine.store), host)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", keys)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Served]:
    with over_http(folder) as running:
        yield running


def calling(
    service: Served, key: str, *calls: tuple[str, dict[str, Any]], mode: str = "auto"
) -> list[Any]:
    async def talking() -> list[Any]:
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(
                httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=30)
            )
            transport = streamable_http_client(f"{service.url}{PATH}", http_client=http)
            client = await stack.enter_async_context(mcp.Client(transport, mode=mode))
            return [await client.call_tool(*call) for call in calls]

    return asyncio.run(talking())


def posted(service: Served, key: str | None, n_padding: int = 0, **headers: str) -> httpx2.Response:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"x": "-" * n_padding}}
    accepted = {"accept": "application/json, text/event-stream"}
    with service.client(key) as client:
        return client.post(PATH, json=body, headers=accepted | headers)


def test_over_http_nothing_is_answered_without_a_key_that_fits(service: Served) -> None:
    revoked = service.key("admin")
    service.keys.revoke(SHOP, revoked.split("_")[1])
    for key in (None, "x", revoked):
        answer = posted(service, key)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "tools" not in answer.text
    assert posted(service, service.key("read")).status_code == 200


def test_over_http_a_key_is_for_its_namespace_scopes_and_user(service: Served) -> None:
    for namespace in (SHOP, BANK):
        (own,) = calling(
            service, service.key("admin", namespace=namespace), ("export", {"user": ANA})
        )
        assert SECRETS[namespace] in str(own.structured_content)
        assert SECRETS[BANK if namespace == SHOP else SHOP] not in str(own.structured_content)
    token = service.key(user=BO)
    calls = [("persona", {"user": user}) for user in (BO, ANA, STRANGER)]
    own, known, unknown = calling(service, token, *calls)
    assert own.structured_content["n_interactions"] == 6
    assert known.is_error
    assert known.content == unknown.content
    (refused,) = calling(service, service.key("read"), ("instruct", {"user": ANA, "text": "x"}))
    assert refused.is_error


def test_over_http_clients_of_the_earlier_protocol_are_served_by_the_same_rules(
    service: Served,
) -> None:
    calls = [("persona", {"user": user}) for user in (BO, ANA)]
    own, other = calling(service, service.key(user=BO), *calls, mode="legacy")
    assert own.structured_content["user"] == BO
    assert other.is_error


def test_over_http_nothing_is_kept_open(service: Served) -> None:
    with service.client(service.key("admin")) as client:
        answer = client.get(PATH, headers={"accept": "text/event-stream"})
    assert answer.status_code == 405


def test_over_http_a_web_page_of_elsewhere_is_refused(service: Served) -> None:
    key = service.key("admin")
    assert posted(service, key, host="evil.example").status_code == 421
    assert posted(service, key, origin="http://evil.example").status_code == 403


def test_over_http_elsewhere_a_key_is_what_a_web_page_of_elsewhere_lacks(folder: Path) -> None:
    with over_http(folder, "10.0.0.5") as service:
        foreign = {"host": "evil.example", "origin": "http://evil.example"}
        assert posted(service, None, **foreign).status_code == 401
        with service.client(None) as page:
            asked_first = page.options(PATH, headers=foreign)  # may a key be sent from there?
        assert asked_first.status_code == 401
        assert not [name for name in asked_first.headers if name.startswith("access-control")]
        proxied = posted(service, service.key("read"), host="copersona.example")
        assert proxied.status_code == 200


def test_over_http_a_large_body_is_refused(service: Served) -> None:
    assert posted(service, service.key("admin"), MAX_BODY_BYTES).status_code == 413
