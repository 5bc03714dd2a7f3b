"""Every request of the page on the gateway is sent, and what it names is what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from copersona.language.generation import EchoGenerator
from copersona.service import wishes
from copersona.service.capturing import MAX_ANSWERS
from copersona.service.gateway import Gateway, read_prices
from copersona.service.local_upstream import LocalUpstream
from copersona.service.upstream import RemoteUpstream
from service_people import served, stocked
from test_service_docs import sent

PAGE = (Path(__file__).parents[1] / "docs" / "gateway.md").read_text("utf-8")
LINES = re.findall(r"^\$ curl (.*)$", PAGE, re.MULTILINE)


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[0]


def test_the_examples_of_the_page_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = tmp_path / "prices.json"
    prices.write_text(block("json"))
    gateway = Gateway(LocalUpstream(EchoGenerator), prices=read_prices(prices))
    with served(stocked(tmp_path / "x"), gateway) as service, service.client(None) as client:
        key = service.key("admin")
        code = block("python").replace("http://127.0.0.1:8080", service.url)
        exec(compile(code, "gateway.md", "exec"), {"KEY": key})
        for line in LINES:
            answer = sent(line, client, {"KEY": key})
            assert answer.status_code == 200, line
    assert "Plan two days in Porto" in capsys.readouterr().out
    assert len(LINES) == 3
    assert json.loads(answer.text)["usage"]


def test_every_header_is_on_the_page_and_no_other() -> None:
    told = set(re.findall(r"^\| `(X-.*?)` \|", PAGE, re.MULTILINE))
    assert told == {value for value in vars(wishes).values() if str(value).startswith("X-CoP")}


def test_numbers_on_the_page_are_those_of_the_code() -> None:
    defaults: dict[str, Any] = RemoteUpstream.__init__.__kwdefaults__ or {}
    assert f"for {defaults['timeout_s']:g} seconds" in PAGE
    assert (defaults["retries"], "tried again, twice" in PAGE) == (2, True)
    assert f"last {MAX_ANSWERS:,} answers" in PAGE
