"""Every request of the page on the service is sent, and every status and route is on it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import httpx2

from copersona.service.guard import MAX_BODY_BYTES
from copersona.service.problems import _KINDS, _TABLE
from copersona.service.requests import MAX_ROWS
from copersona.service.server import PATIENCE_S
from service_people import SHOP, served, stocked

PAGE = (Path(__file__).parents[1] / "docs" / "service.md").read_text("utf-8")
LINES = re.findall(r"^\$ curl (.*)$", PAGE, re.MULTILINE)


def sent(line: str, client: httpx2.Client, values: dict[str, str]) -> httpx2.Response:
    """What curl would send."""
    for name, value in values.items():
        line = line.replace(f"${name}", value)
    words = shlex.split(line)
    method, headers, body, url = "", {}, None, ""
    while words:
        word = words.pop(0)
        if word == "-X":
            method = words.pop(0)
        elif word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = words.pop(0)
        elif word != "-sS":
            url = word.removeprefix("http://127.0.0.1:8080")
    return client.request(method or ("GET" if body is None else "POST"), url, headers=headers,
                          content=body)  # fmt: skip


def test_every_request_of_the_page_is_answered(tmp_path: Path) -> None:
    with served(stocked(tmp_path / "x")) as service, service.client(None) as client:
        values = {"KEY": service.key("admin")}
        for line in LINES:
            answer = sent(line, client, values)
            assert answer.status_code < 300, line
            if answer.content and "trace_id" in answer.json():
                values["TRACE"] = answer.json()["trace_id"]
        documented = client.get("/openapi.json").json()["paths"]
    assert len(LINES) == 18
    paths = {path.split("{")[0].rstrip("/") for path in documented}
    assert [path for path in paths if path not in PAGE] == []
    assert SHOP not in PAGE


def test_every_problem_is_on_the_page_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.*?) \|", PAGE, re.MULTILINE)
    told = {(int(status), kind) for status, kinds in rows for kind in re.findall("`(.+?)`", kinds)}
    there = {*_KINDS.items(), *((status, kind) for _, kind, status, _ in _TABLE)}
    assert told == there


def test_numbers_on_the_page_are_those_of_the_code() -> None:
    assert f"{MAX_BODY_BYTES // 2**20} MiB" in PAGE
    assert f"up to {MAX_ROWS:,} at once" in PAGE
    assert f"within {PATIENCE_S} seconds" in PAGE
