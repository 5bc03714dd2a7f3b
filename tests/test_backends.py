"""Which model gets which key, and that no key is ever shown."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

import copersona
from copersona import Interaction
from copersona.errors import BackendError, ConfigError, MissingExtraError
from copersona.language.backends import Backends
from fake_openai import json_reply, serving

KEY, OTHER = "planted-key-1", "planted-key-2"
PEOPLE = [
    Interaction(f"u{n}", "What about bread?", f"rye, {n}-{turn}")
    for n in range(5) for turn in range(3)
]  # fmt: skip


def sent(headers: list[dict[str, str]]) -> set[str]:
    return {each.get("authorization", "").removeprefix("Bearer ") for each in headers}


def test_the_key_goes_to_both_at_one_address(tmp_path: Path) -> None:
    with serving() as server:
        names = {"encoder": f"openai:e@{server.url}", "generator": f"openai:g@{server.url}"}
        with copersona.open(tmp_path / "p.db", api_key=KEY, **names) as cp:
            cp.add(PEOPLE)
            cp.fit()
            assert cp.chat("u0", "Bread?").text == "hello"
    assert {path.rsplit("/", 1)[1] for path in server.paths} == {"embeddings", "completions"}
    assert sent(server.headers) == {KEY}


def test_an_encoder_elsewhere_gets_its_own_key_or_none() -> None:
    with serving() as one, serving() as two:
        names = f"openai:e@{one.url}", f"openai:g@{two.url}"
        Backends(*names, api_key=KEY).encoder(names[0]).encode(["tea"])
        Backends(*names, api_key=KEY, encoder_api_key=OTHER).encoder(names[0]).encode(["tea"])
    tokens = [each.get("authorization") for each in one.headers]
    assert tokens[0] is None
    assert tokens[-1] == f"Bearer {OTHER}"
    assert KEY not in str(tokens)


def test_the_key_is_the_encoders_where_the_language_model_needs_none() -> None:
    with serving() as server:
        name = f"openai:e@{server.url}"
        Backends(name, "echo", api_key=KEY).encoder(name).encode(["tea"])
    assert sent(server.headers) == {KEY}


def test_a_key_is_in_no_log_message_file_or_representation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    refused = json_reply({"error": {"message": f"bad {KEY}", "code": "invalid_api_key"}}, 401)
    with serving(refused) as server:
        name = f"openai:g@{server.url}"
        with copersona.open(tmp_path / "p.db", encoder="hashing", generator=name,
                            api_key=KEY, encoder_api_key=OTHER) as cp:  # fmt: skip
            cp.add(PEOPLE)
            cp.fit()
            with pytest.raises(BackendError, match="the key was refused") as caught:
                cp.chat("u0", "Bread?")
            answer = cp.chat("u0", "Bread?")
            explained = json.dumps(cp.explain(answer.context.trace_id).to_dict())
            shown = [repr(cp), repr(vars(cp)), repr(vars(cp._backends)), repr(answer), explained,
                     str(caught.value), repr(caught.value), caplog.text]  # fmt: skip
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert sent(server.headers) == {KEY}
    assert not [text for text in shown if "planted-key" in text]
    assert not [data for data in files if b"planted-key" in data]


def test_a_model_is_opened_once_and_counts_for_itself() -> None:
    backends = Backends("hashing", "echo")
    assert backends.count_tokens("two words") == 2
    assert backends.generator() is backends.generator()
    assert backends.encoder("hashing") is backends.encoder("hashing")
    assert backends.encoder_for(9) == ("hashing", "Encoder: hashing, as given.")
    _, why = Backends(f"openai:e@http://me:{KEY}@host/v1", None).encoder_for(9)
    assert why == "Encoder: openai:e@http://host/v1, as given."


def test_none_named_and_none_installed_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPERSONA_MODELS", str(tmp_path))
    with pytest.raises(ConfigError, match="COPERSONA_LLM"):
        Backends(None, None).generator()
    with pytest.raises(MissingExtraError):
        Backends(None, "local:smollm2").generator()
