"""`copersona serve` as a process: its first key, its end, and what it says if it cannot start."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from copersona.commands import cli, settings
from copersona.service.server import listen
from fake_openai import chat, serving


@contextmanager
def started(
    folder: Path, llm: str = "echo", *options: str
) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The process, its address, and what it said before."""
    environment = {name: value for name, value in os.environ.items() if "COPERSONA" not in name}
    command = [sys.executable, "-m", "copersona", "--store", str(folder / "s.db"), "--encoder",
               "hashing", "--llm", llm, "serve", "--port", "0", *options]  # fmt: skip
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:  # fmt: skip
        assert process.stderr
        said = ""
        try:
            for line in process.stderr:
                said += line
                if line.startswith("http://"):
                    break
            yield process, line.strip(), said
        finally:
            process.kill()


def test_the_first_start_prints_a_key_that_opens_and_the_next_one_none(tmp_path: Path) -> None:
    for is_first in (True, False):
        with started(tmp_path) as (process, url, said):
            found = re.search(r"shown once: (\S+)", said)
            assert (found is not None) is is_first
            if found:
                key = found[1]
            headers = {"authorization": f"Bearer {key}"}
            assert httpx2.get(f"{url}/v1/users/ana").status_code == 401
            asked = {"user": "ana", "text": "hello"}
            answer = httpx2.post(f"{url}/v1/context", json=asked, headers=headers)
            assert not answer.json()["is_personalised"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert process.stderr
            line = json.loads(process.stderr.readline())
            assert (line["action"], line["namespace"]) == ("context", "default")
            assert process.stderr.read() == ""


def test_chats_go_to_the_model_that_is_configured(tmp_path: Path) -> None:
    options = ("--capture", "--holdout", "1", "--holdout-by", "request")
    with (
        serving(chat("hello")) as upstream,
        started(tmp_path, f"openai:planned@{upstream.url}", *options) as (_, url, said),
    ):
        key = said.split("shown once: ")[1].split()[0]
        headers = {"authorization": f"Bearer {key}"}
        asked = {"user": "ana", "messages": [{"role": "user", "content": "Trams are late."}]}
        answer = httpx2.post(f"{url}/v1/chat/completions", json=asked, headers=headers)
        assert answer.headers["x-copersona-personalised"] == "holdout"
        assert answer.json()["choices"][0]["message"]["content"] == "hello"
        assert upstream.asked == [{"model": "planned", **asked}]
        (row,) = httpx2.get(f"{url}/v1/users/ana/export", headers=headers).json()["interactions"]
        assert (row["response"], row["source"]) == ("Trams are late.", "gateway")


def test_requests_are_logged_as_json_where_that_is_asked(tmp_path: Path) -> None:
    options = ("--log-format", "json", "--log-level", "info", "--rate", "60",
               "--otel", "http://127.0.0.1:9/v1/traces")  # fmt: skip
    with started(tmp_path, "echo", *options) as (process, url, _):
        assert httpx2.get(f"{url}/v1/users/ana").status_code == 401
        assert process.stderr
        line = json.loads(process.stderr.readline())
        assert (line["logger"], line["status"], line["route"]) == ("copersona.requests", 401, "")


def test_small_answers_do_not_wait_for_the_network() -> None:
    with listen("127.0.0.1", 0) as listening:
        with socket.create_connection(listening.getsockname()):
            taken, _ = listening.accept()
        with taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*(f"COPERSONA_{n.upper()}" for n in settings.NAMES), settings.CONFIG_VARIABLE]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("bare")
def test_where_the_extra_is_missing_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [name for name in sys.modules if name.startswith("copersona.service")]:
        monkeypatch.delitem(sys.modules, name)
    result = CliRunner().invoke(cli.app, ["--store", str(tmp_path / "s.db"), "serve"])
    assert result.exit_code == 4
    assert "pip install 'copersona[serve]'" in result.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("options", [["--prices", "none.json"], ["--holdout", "1.5"]])
def test_options_that_say_nothing_sound_are_refused(tmp_path: Path, options: list[str]) -> None:
    head = ["--store", str(tmp_path / "s.db"), "serve", "--port", "0"]
    result = CliRunner().invoke(cli.app, [*head, *options])
    assert result.exit_code == 2
    assert {"--prices": "none.json", "--holdout": "--holdout"}[options[0]] in result.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("bare")
def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        head = ["--store", str(tmp_path / "s.db"), "serve", "--port", port]
        result = CliRunner().invoke(cli.app, head)
    assert result.exit_code == 4
    assert "in use" in result.stderr
