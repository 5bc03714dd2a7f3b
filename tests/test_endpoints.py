"""Endpoint: bounded waits, retries only before the answer begins, messages that leak nothing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from copersona.errors import BackendError, ConfigError
from copersona.language.endpoints import Endpoint
from fake_openai import FakeServer, Reply, events, json_reply, serving

KEY = "sk-planted-key"
SECRET = "planted words of a user"


@contextmanager
def connected(*plan: Reply, **options: Any) -> Iterator[tuple[FakeServer, Endpoint]]:
    with serving(*plan) as server:
        endpoint = Endpoint(server.url, KEY, **{"timeout_s": 5, "backoff_s": 0.01, **options})
        try:
            yield server, endpoint
        finally:
            endpoint.close()


def test_post_sends_the_body_and_the_key() -> None:
    with connected(json_reply({"fine": True})) as (server, endpoint):
        assert endpoint.post("/embeddings", {"text": "röd \ud800"}) == {"fine": True}
    assert server.asked == [{"text": "röd \ud800"}]
    assert server.paths == ["/v1/embeddings"]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_later_means_again(status: int) -> None:
    with connected(json_reply({}, status), json_reply({"fine": True})) as (server, endpoint):
        assert endpoint.post("/x", {}) == {"fine": True}
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 413, 301])
def test_no_means_no(status: int) -> None:
    with (
        connected(json_reply({}, status)) as (server, endpoint),
        pytest.raises(BackendError, match=f"answered {status}"),
    ):
        endpoint.post("/x", {})
    assert len(server.asked) == 1


def test_the_server_may_ask_for_a_longer_pause() -> None:
    plan = json_reply({}, 429, **{"retry-after": "1"}), json_reply({"fine": True})
    with connected(*plan) as (_, endpoint):
        start = time.monotonic()
        endpoint.post("/x", {})
    assert 1.0 <= time.monotonic() - start < 3.0


def test_attempts_are_limited() -> None:
    with (
        connected(*[json_reply({}, 503)] * 5, retries=2) as (server, endpoint),
        pytest.raises(BackendError, match="answered 503"),
    ):
        endpoint.post("/x", {})
    assert len(server.asked) == 3


@pytest.mark.parametrize("body", [b"", b'{"half": '])
def test_a_hanging_server_is_given_up_and_not_asked_again(body: bytes) -> None:
    with connected(Reply(body=body, hangs=True), timeout_s=0.2) as (server, endpoint):
        start = time.monotonic()
        with pytest.raises(BackendError, match=r"did not answer within 0\.2 s"):
            endpoint.post("/x", {})
    assert time.monotonic() - start < 3
    assert len(server.asked) == 1


def test_an_unreachable_server_is_named() -> None:
    with serving() as server:
        url = server.url
    endpoint = Endpoint(url, retries=1, backoff_s=0.01)
    with pytest.raises(BackendError, match=r"127\.0\.0\.1:\d+ cannot be reached"):
        endpoint.post("/x", {})
    endpoint.close()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(body=b"<html>"), "not JSON"),
        (Reply(body=b"[1]"), "not an object"),
        (Reply(body=b"\xff\xfe"), "not JSON"),
        (json_reply({"error": {"code": "overloaded"}}), r"reported an error \(overloaded\)"),
        (Reply(headers={"content-length": "99"}), "connection to .* failed"),
    ],
)
def test_a_broken_answer_is_an_error(reply: Reply, message: str) -> None:
    with connected(reply) as (_, endpoint), pytest.raises(BackendError, match=message):
        endpoint.post("/x", {})


def test_messages_and_logs_tell_neither_key_nor_text(caplog: pytest.LogCaptureFixture) -> None:
    refusal = {"error": {"message": f"no {KEY} for {SECRET}", "code": SECRET, "type": "bad_key"}}
    caplog.set_level(logging.DEBUG)
    with connected(json_reply(refusal, 401)) as (_, endpoint):
        with pytest.raises(BackendError) as caught:
            endpoint.post("/x", {"text": SECRET})
        shown = f"{caught.value} {endpoint!r} {caplog.text}"
    assert "bad_key" in shown
    assert KEY not in shown
    assert SECRET not in shown


def test_stream_yields_events_until_done() -> None:
    with connected(events({"n": 1}, {"n": 2}, "[DONE]", {"n": 3})) as (_, endpoint):
        assert list(endpoint.stream("/x", {})) == [{"n": 1}, {"n": 2}]


def test_stream_is_retried_before_the_first_event_only() -> None:
    plan = json_reply({}, 429), events({"n": 1}, {"error": {"code": "lost"}})
    with connected(*plan) as (server, endpoint):
        stream = endpoint.stream("/x", {})
        assert next(stream) == {"n": 1}
        with pytest.raises(BackendError, match="lost"):
            next(stream)
    assert len(server.asked) == 2


def test_closing_a_stream_closes_the_connection() -> None:
    with connected(events({"n": 1}, hangs=True)) as (server, endpoint):
        stream = endpoint.stream("/x", {})
        assert next(stream) == {"n": 1}
        stream.close()
        assert server.hung_up.wait(5)


def test_a_stream_may_hold_any_text() -> None:
    texts = ["a\u2028b", "a\x85b", "röd", "data: x", "\n\r"]
    body = "".join(f"data:{json.dumps(text_event, ensure_ascii=False)}\r\n\r\n"
                   for text_event in ({"text": text} for text in texts))  # fmt: skip
    with connected(Reply(body=(body + ': note\n\ndata: {"last": 1}').encode())) as (_, endpoint):
        assert list(endpoint.stream("/x", {})) == [*({"text": text} for text in texts), {"last": 1}]


def test_a_stream_of_nothing_but_comments_ends() -> None:
    plan = events({"n": 1}, hangs=True)
    with (
        connected(plan, stream_limit_s=0.2) as (_, endpoint),
        pytest.raises(BackendError, match=r"did not finish within 0\.2 s"),
    ):
        list(endpoint.stream("/x", {}))


@pytest.mark.parametrize("url", ["", "host/v1", "ftp://host", "http://", "http://host:port"])
def test_a_wrong_url_is_refused_before_any_work(url: str) -> None:
    with pytest.raises(ConfigError):
        Endpoint(url)


def test_a_url_with_a_password_does_not_show_it() -> None:
    endpoint = Endpoint(f"http://user:{KEY}@127.0.0.1:9/v1/")
    assert endpoint.host == "127.0.0.1:9"
    endpoint.close()
