"""The language model of the process, asked by a real OpenAI client."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from copersona import Context, CoPersona
from copersona.errors import BackendError, ConfigError
from copersona.language.generation import EchoGenerator, Generator
from copersona.service.gateway import Gateway
from copersona.service.local_upstream import LocalUpstream
from gateway_people import TEXT, said
from service_people import ANA, SECRETS, SHOP, Served, check_problem, served, stocked


class Softened(EchoGenerator):
    """Echoes, and says which soft tokens came with it; or fails."""

    fails_after: int | None = None

    def stream(self, messages: Any, *, soft: Any = None, **options: Any) -> Iterator[str]:
        if soft is not None:
            yield f"soft {soft.shape} "
        for n, piece in enumerate(super().stream(messages, **options)):
            if n == self.fails_after:
                raise BackendError("planted")
            yield piece


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stocked(tmp_path_factory.mktemp("people") / "template")


@pytest.fixture
def model() -> Softened:
    return Softened()


@pytest.fixture
def service(template: Path, tmp_path: Path, model: Softened) -> Iterator[Served]:
    shutil.copytree(template, tmp_path / "copy")
    with served(tmp_path / "copy", Gateway(LocalUpstream(lambda: model))) as running:
        yield running


def client(service: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.key(), max_retries=0)


def test_it_answers_whole_and_piece_by_piece_the_same(service: Served) -> None:
    asked: dict[str, Any] = {"model": "any", "messages": [said("one two three")]}
    whole = client(service).chat.completions.create(**asked)
    chunks = list(
        client(service).chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
    )
    said_whole = whole.choices[0].message.content
    pieces = [one.choices[0].delta.content for one in chunks if one.choices]
    assert said_whole == "".join(filter(None, pieces)) == "user: one two three"
    assert len([piece for piece in pieces if piece]) == 4
    assert (whole.choices[0].finish_reason, chunks[-2].choices[0].finish_reason) == ("stop",) * 2
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert (whole.model, whole.usage.total_tokens > 0) == ("echo", True)


def test_its_answers_are_personalised(service: Served) -> None:
    answer = client(service).chat.completions.create(
        model="any", user=ANA, messages=[said([{"type": "text", "text": TEXT}])]
    )
    assert SECRETS[SHOP] in str(answer.choices[0].message.content)


def test_an_answer_may_have_a_limit(service: Served) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = client(service).chat.completions.create(
            model="m", messages=[said("one two three")], extra_body={name: 2}
        )
        assert answer.choices[0].message.content == "user: one"
        assert answer.choices[0].finish_reason == "length"


def test_soft_tokens_go_with_the_chat_they_are_for(
    service: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = CoPersona.prompt

    def softened(engine: CoPersona, *args: Any, **options: Any) -> Context:
        return replace(prompt(engine, *args, **options), soft=np.zeros((3, 5), np.float32))

    monkeypatch.setattr(CoPersona, "prompt", softened)
    ask = client(service).chat.completions.create
    answer = ask(model="m", user=ANA, messages=[said(TEXT)])
    assert str(answer.choices[0].message.content).startswith("soft (3, 5) ")
    answer = ask(model="m", messages=[said(TEXT)])
    assert "soft" not in str(answer.choices[0].message.content)


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}}, {"n": 2}, {"stop": ["x"]}, {"seed": "x"},
        {"messages": []}, {"max_tokens": -1}, {"temperature": "hot"},
        {"messages": [said([{"type": "image_url", "image_url": {"url": "x"}}])]},
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(service: Served, more: dict[str, Any]) -> None:
    body = {"messages": [said(TEXT)], **more}
    with pytest.raises(openai.BadRequestError):
        client(service).chat.completions.create(
            model="m", messages=body.pop("messages"), extra_body=body
        )


def test_usual_values_are_no_wish(service: Served) -> None:
    client(service).chat.completions.create(
        model="m", messages=[said(TEXT)], n=1, response_format={"type": "text"}, temperature=0.5,
        extra_body={"tools": [], "logprobs": False, "stop": None, "max_tokens": None},
    )  # fmt: skip


def test_a_model_that_fails_is_a_problem(service: Served, model: Softened) -> None:
    with service.client(service.key()) as http:
        body = {"messages": [said("one two three")]}
        model.fails_after = 0
        for more in ({}, {"stream": True}):
            check_problem(http.post("/v1/chat/completions", json={**body, **more}), 502)
        model.fails_after = 1
        check_problem(http.post("/v1/chat/completions", json=body), 502)
    with pytest.raises(openai.APIError, match="failed"):
        list(client(service).chat.completions.create(
            model="m", messages=[said("one two three")], stream=True
        ))  # fmt: skip


@pytest.mark.parametrize("error", [ConfigError("name one"), BackendError("planted words")])
def test_where_there_is_no_model_that_is_said(template: Path, error: Exception) -> None:
    def opens() -> Generator:
        raise error

    for upstream in (LocalUpstream(opens), None):
        with (
            served(template, Gateway(upstream)) as service,
            service.client(service.key()) as http,
        ):
            body = {"user": ANA, "messages": [said(TEXT)]}
            answers = [http.post("/v1/chat/completions", json=body), http.get("/v1/models")]
        assert ["planted" in str(check_problem(answer, 502)) for answer in answers] == [False] * 2


def test_it_is_the_only_model_there_is(service: Served) -> None:
    assert [one.id for one in client(service).models.list()] == ["echo"]
