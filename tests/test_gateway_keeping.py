"""What the gateway keeps: users' own words where asked for, and what chats took."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from copersona.errors import ConfigError
from copersona.language.generation import approximate_tokens
from copersona.service.gateway import read_prices
from fake_openai import Reply, json_reply
from gateway_people import (
    MODEL,
    TEXT,
    Between,
    between,
    chunk,
    completion,
    lines,
    said,
    used,
    wait_for,
)
from service_people import ANA, BO, SHOP, opened, stocked

STREAM = {"content-type": "text/event-stream"}
ON = {"X-CoPersona-Capture": "on"}
NEW = "My tram was late, so I walked along the canal."


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stocked(tmp_path_factory.mktemp("people") / "template")


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "copy"))


@pytest.fixture
def gate(folder: Path) -> Iterator[Between]:
    with between(folder) as running:
        yield running


def chat(gate: Between, *messages: dict[str, Any], user: str = ANA, key: str | None = None,
         headers: dict[str, str] = ON, **more: Any) -> Any:  # fmt: skip
    return gate.openai(key, **headers).chat.completions.create(
        model=MODEL, user=user, messages=list(messages), **more
    )


def kept(gate: Between, user: str = ANA) -> list[dict[str, Any]]:
    """What came in through the gateway."""
    with gate.service.client(gate.service.key("admin")) as client:
        rows = client.get(f"/v1/users/{user}/export").json()["interactions"]
    return [row for row in rows if row["source"] == "gateway"]


def spent(gate: Between, key: str | None = None, query: str = "") -> list[dict[str, Any]]:
    with gate.service.client(key or gate.service.key("admin")) as client:
        found: list[dict[str, Any]] = client.get(f"/v1/usage{query}").json()["usage"]
    return found


def requests(gate: Between) -> int:
    return sum(row["requests"] for row in spent(gate))


# ---- capture ------------------------------------------------------------------------------------


def test_a_token_of_a_new_user_is_that_user_once_a_chat_has_named_them(gate: Between) -> None:
    token = gate.service.key(user="zoe")

    def shown(**user: str) -> str:
        with gate.service.client(token) as client:
            body = {"messages": [said(NEW)], **user}
            answer = client.post("/v1/chat/completions", json=body, headers=ON)
        return str(answer.headers.get("x-copersona-trace", ""))

    assert shown() == ""
    assert kept(gate, "zoe") == []
    assert shown(user="zoe") != ""
    assert [row["response"] for row in kept(gate, "zoe")] == [NEW]
    assert shown() != ""


def test_the_users_own_message_is_kept_as_it_was_sent(gate: Between) -> None:
    turns = [said("Hi"), {"role": "assistant", "content": "How was your day?"}, said(NEW)]
    chat(gate, *turns, headers={**ON, "X-CoPersona-Thread": "t%201"})
    (row,) = kept(gate)
    assert (row["response"], row["input"], row["thread"]) == (NEW, turns[1]["content"], "t 1")
    chat(gate, said("Where did I walk, when my tram was late?"), headers={})
    assert NEW in str(gate.sent())
    assert len(kept(gate)) == 1


def test_the_thread_may_be_in_the_metadata(gate: Between) -> None:
    chat(gate, said(NEW), metadata={"thread": "t2"})
    assert [row["thread"] for row in kept(gate)] == ["t2"]


def test_sent_again_it_is_kept_once(gate: Between) -> None:
    turns = [said("Hi"), {"role": "assistant", "content": "How was your day?"}, said(NEW)]
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    rounds = [{"role": "assistant", "tool_calls": [call]},
              {"role": "tool", "tool_call_id": "t", "content": "x"}]  # fmt: skip
    for again in (turns, turns, [{"role": "system", "content": "It is noon."}, *turns],
                  [*turns, *rounds]):  # fmt: skip
        chat(gate, *again)
    assert len(kept(gate)) == 1
    chat(gate, *turns, {"role": "assistant", "content": "Oh."}, said(NEW))
    assert len(kept(gate)) == 2


def test_nothing_is_kept_unless_asked_for(folder: Path) -> None:
    with between(folder) as gate:
        chat(gate, said(NEW), headers={})
        assert kept(gate) == []
    with between(folder, captures=True) as gate:
        chat(gate, said(NEW), headers={"X-CoPersona-Capture": "off"})
        assert kept(gate) == []
        chat(gate, said(NEW), headers={}, key=gate.service.key("read"))
        assert kept(gate) == []
        chat(gate, said(NEW), headers={})
        assert len(kept(gate)) == 1


def test_a_key_that_may_not_write_cannot_ask_for_it(gate: Between) -> None:
    with pytest.raises(Exception, match="does not allow"):
        chat(gate, said(NEW), key=gate.service.key("read"))
    assert gate.upstream.asked == []


def test_of_users_who_are_not_to_be_remembered_nothing_is_kept(folder: Path) -> None:
    with opened(folder, SHOP) as engine:
        engine.set_consent(BO, remember=False)
        engine.forget("user3")
    with between(folder) as gate:
        for user in (BO, "user3"):
            chat(gate, said(NEW), user=user)
            assert kept(gate, user) == []
    with opened(folder, SHOP) as engine:
        assert engine.store.users(SHOP) == [ANA, "team/zoë one%2Fone", "user0", "user1", "user2",
                                            "user4", "user5"]  # fmt: skip


def test_what_we_added_is_never_taken_for_the_users_words(gate: Between) -> None:
    with gate.service.client(gate.service.key()) as client:
        context = client.post("/v1/context", json={"user": BO, "text": TEXT}).json()["messages"]
    chat(gate, *context, user=BO)  # an application that personalises for itself
    chat(gate, said(context[0]["content"]), user=BO)
    chat(gate, said("\n\n".join(one["content"] for one in context)), user=BO)
    chat(gate, said("<qwertyui>\nUser 7 wrote: Aha.\n</qwertyui>"), user=BO)
    assert kept(gate, BO) == []


def test_what_the_model_said_is_never_taken_for_the_users_words(gate: Between) -> None:
    answer = "Walks along a canal calm the mind, studies say."
    events = lines(*map(chunk, answer.split(" t")), "[DONE]")
    gate.upstream.plan = [completion(answer), Reply(200, events, STREAM)]
    chat(gate, said("Why walk?"))
    list(chat(gate, said("Why else?"), stream=True))
    wait_for(lambda: requests(gate) == 2)  # a stream is counted after its end
    chat(gate, said(f" {answer}\n"))  # in a conversation of its own
    chat(gate, said(answer.replace(" t", "")))
    earlier = {"role": "assistant", "content": "Some other answer, of another day."}
    chat(gate, said("x"), earlier, said(earlier["content"]))
    chat(gate, said("y"), earlier, said(f"You said: {earlier['content']} Well."))
    assert [row["response"] for row in kept(gate)] == ["Why walk?", "Why else?"]


def test_only_the_words_of_a_message_are_kept(gate: Between) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,SECRETPIXELS"}}
    chat(gate, said([picture, {"type": "text", "text": NEW}]))
    chat(gate, said([picture]))
    assert [row["response"] for row in kept(gate)] == [NEW]


# ---- usage --------------------------------------------------------------------------------------


def test_what_chats_took_is_counted_by_key_user_model_and_day(gate: Between) -> None:
    key, prompt = gate.service.key(), 0
    gate.upstream.plan = [completion(usage=used(10, n)) for n in (1, 2, 4)]
    gate.upstream.plan += [json_reply({"error": {}}, 500)]
    for user in (ANA, ANA, BO):
        chat(gate, said(TEXT), user=user, key=key)
        prompt += 10
    with pytest.raises(Exception, match="500"):
        chat(gate, said(TEXT), key=key)
    rows = spent(gate)
    assert [(row["completion_tokens"], row["requests"]) for row in rows] == [(3, 2), (4, 1)]
    assert sum(row["prompt_tokens"] for row in rows) == prompt
    assert all(row["added_tokens"] > 0 and row["estimated"] == 0 for row in rows)
    assert [row["user"] for row in rows] == [
        gate.service.keys.mark(SHOP, user).hex()[:16] for user in (ANA, BO)
    ]
    assert {(row["key_id"], row["model"], row["day"], row["cost"]) for row in rows} == {
        (key.split("_")[1], MODEL, datetime.now(UTC).date().isoformat(), None)
    }


def test_the_end_of_a_stream_says_what_it_took_and_else_it_is_estimated(gate: Between) -> None:
    told = {**chunk(), "choices": [], "usage": used(7, 5)}
    gate.upstream.plan = [
        Reply(200, lines(chunk("one two"), chunk(finish="stop"), *more, "[DONE]"), STREAM)
        for more in ((told,), ())
    ]
    options = {"stream": True, "headers": {"X-CoPersona": "off"}, "key": gate.service.key()}
    list(chat(gate, said(TEXT), stream_options={"include_usage": True}, **options))
    wait_for(lambda: requests(gate) == 1)
    (row,) = spent(gate)
    assert (row["prompt_tokens"], row["completion_tokens"], row["estimated"]) == (7, 5, 0)
    list(chat(gate, said(TEXT), **options))
    wait_for(lambda: requests(gate) == 2)
    (row,) = spent(gate)
    assert row["prompt_tokens"] - 7 == approximate_tokens(TEXT)
    assert row["completion_tokens"] - 5 == approximate_tokens("one two")
    assert (row["estimated"], row["requests"], row["added_tokens"]) == (1, 2, 0)


def test_a_stream_that_was_left_in_the_middle_is_counted(gate: Between) -> None:
    gate.upstream.plan = [Reply(200, lines(chunk("one two three")), STREAM, hangs=True)]
    stream = chat(gate, said(TEXT), stream=True)
    assert next(iter(stream)).choices[0].delta.content
    stream.close()
    wait_for(lambda: requests(gate) == 1)
    (row,) = spent(gate)
    assert (row["completion_tokens"], row["estimated"]) == (approximate_tokens("one two three"), 1)


def test_a_token_sees_what_its_user_took(gate: Between) -> None:
    for user in (ANA, BO):
        chat(gate, said(TEXT), user=user)
    for user in (ANA, BO):
        (row,) = spent(gate, gate.service.key("read", user=user))
        assert row["user"] == gate.service.keys.mark(SHOP, user).hex()[:16]
    assert spent(gate, gate.service.key("read", user="nobody")) == []
    assert spent(gate, gate.service.key("admin", namespace="bank")) == []


def test_who_is_forgotten_is_in_no_count(gate: Between) -> None:
    for user in (ANA, BO):
        chat(gate, said(TEXT), user=user)
    with gate.service.client(gate.service.key("admin")) as client:
        (row,) = client.get(f"/v1/users/{ANA}/export").json()["usage"]
        assert row["requests"] == 1
        assert client.delete(f"/v1/users/{ANA}").json()["traces_found"] == []
    chat(gate, said(TEXT), user=ANA)
    marks = [row["user"] for row in spent(gate)]
    assert marks == [gate.service.keys.mark(SHOP, BO).hex()[:16], ""]


def test_days_before_the_first_are_left_out(gate: Between) -> None:
    chat(gate, said(TEXT))
    assert len(spent(gate, query="?since=2020-01-31")) == 1
    assert spent(gate, query="?since=9999-01-31") == []


def test_where_there_are_prices_there_is_a_cost(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text('{"planned-model": {"input": 2, "output": 10.5}}')
    reply = completion(usage=used(1_000_000, 100_000))
    with between(folder, reply, prices=read_prices(file)) as gate:
        chat(gate, said(TEXT))
        assert [row["cost"] for row in spent(gate)] == [2 + 1.05]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"m": 1}', '{"m": {"input": 1}}', '{"m": {"input": 1, "output": -1}}',
             '{"m": {"input": "1", "output": 1}}'],
)  # fmt: skip
def test_a_table_of_prices_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "prices.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"prices\.json: "):
        read_prices(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prices(tmp_path / "none.json")
