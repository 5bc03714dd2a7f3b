"""LiteLLM's hook as its proxy calls it, and what then arrives at a server."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read at import: nothing is fetched
import litellm
from litellm.caching.caching import DualCache
from litellm.integrations.custom_logger import CustomLogger

from copersona import CoPersona
from copersona.errors import BackendError
from copersona.integrations.contexts import Contexts, Remote
from copersona.integrations.litellm import PersonalisedCalls
from fake_openai import serving
from service_people import ANA, BO, SECRETS, SHOP, opened, served, stocked

TEXT = "A kettle for the kitchen"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stocked(tmp_path_factory.mktemp("people") / "x")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[CoPersona]:
    with opened(folder, SHOP) as engine:
        yield engine


def request(**more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": TEXT}]
    return {"model": "m", "messages": messages, "temperature": 0.5, **more}


def hooked(contexts: Contexts, data: dict[str, Any], call_type: Any = "acompletion") -> Any:
    """What the proxy sends on: its loop over `litellm.callbacks`, and its arguments."""
    callback = PersonalisedCalls(contexts)
    assert isinstance(callback, CustomLogger)
    assert "async_pre_call_hook" in vars(type(callback))  # where the proxy looks for it
    found = asyncio.run(
        callback.async_pre_call_hook(
            user_api_key_dict=None, cache=DualCache(), data=data, call_type=call_type
        )
    )
    return found if found is not None else data


@pytest.mark.parametrize(
    "named",
    [{"user": ANA}, {"metadata": {"user_api_key_end_user_id": ANA}},
     {"litellm_metadata": {"user_api_key_end_user_id": ANA}}],
)  # fmt: skip
def test_a_request_is_personalised_for_the_user_it_names(
    engine: CoPersona, named: dict[str, Any]
) -> None:
    data = request(**named)
    before = copy.deepcopy(data)
    found = hooked(engine, data)
    assert found["messages"][0] == data["messages"][0]
    assert found["messages"][-1]["content"] == TEXT
    assert SECRETS[SHOP] in str(found["messages"])
    assert {**found, "messages": data["messages"]} == data == before


@pytest.mark.parametrize(
    ("data", "call_type"),
    [(request(), "acompletion"), (request(user=7), "acompletion"),
     ({"model": "m", "input": TEXT, "user": ANA}, "aembedding"),
     (request(user=ANA), "amoderation"), ({"messages": None, "user": ANA}, "acompletion"),
     ({"messages": [], "user": ANA}, "acompletion")],
)  # fmt: skip
def test_what_is_no_chat_or_names_nobody_goes_out_as_it_is(
    engine: CoPersona, data: dict[str, Any], call_type: str
) -> None:
    assert hooked(engine, copy.deepcopy(data), call_type) == data


class Broken:
    def prompt(self, user: str, text: str) -> Any:
        raise RuntimeError(f"{user} said {text}")


def test_whatever_fails_the_request_goes_out_and_nobodys_words_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = request(user=ANA)
    nowhere = Remote("http://127.0.0.1:9", "no key", timeout_s=5)
    with opened(tmp_path, SHOP) as unfitted, caplog.at_level(logging.WARNING, "copersona"), nowhere:
        for contexts in (unfitted, Broken(), nowhere):
            assert hooked(contexts, data) == data
    said = [record.getMessage() for record in caplog.records if record.name == "copersona"]
    assert [line.split(": ")[1] for line in said] == [
        "NotFittedError", "RuntimeError", "BackendError",
    ]  # fmt: skip
    assert TEXT not in caplog.text


def test_over_http_it_is_personalised_too_and_a_key_that_does_not_fit_says_so(
    folder: Path,
) -> None:
    with served(folder) as service:
        with Remote(service.url, service.key("read"), timeout_s=30) as remote:
            assert SECRETS[SHOP] in str(hooked(remote, request(user=ANA)))
        with (
            Remote(service.url, service.key("read", user=BO), timeout_s=30) as token,
            pytest.raises(BackendError, match="403"),
        ):
            token.prompt(ANA, TEXT)


@pytest.mark.filterwarnings(
    "ignore:Item .* is using the `ReadOnly` qualifier:UserWarning"
)  # its own
def test_what_arrives_at_the_server_is_what_the_hook_made(engine: CoPersona) -> None:
    data = hooked(engine, request(user=ANA))
    with serving() as upstream:
        answer = asyncio.run(
            litellm.acompletion(**{**data, "model": "openai/m"}, api_base=upstream.url, api_key="x")
        )
        assert upstream.asked[0]["messages"] == data["messages"]
    assert answer.choices[0].message.content == "hello"
