"""Everything on the page of integrations is run: commands, configuration and code."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import mcp
import pytest
from mcp.client.streamable_http import streamable_http_client
from typer.testing import CliRunner

import copersona
from copersona import Interaction
from copersona.commands import cli
from copersona.service.tools import VERBS
from service_people import rows_of, served
from test_memories import MEM0, ZEP

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read at import: nothing is fetched

PAGE = (Path(__file__).parents[1] / "docs" / "integrations.md").read_text("utf-8")
COMMANDS = re.findall(r"^\$ copersona (.*)$", PAGE, re.MULTILINE)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("COPERSONA_")]:
        monkeypatch.delenv(name)
    with copersona.open("people.db", encoder="hashing") as engine:
        engine.add([*rows_of("shop"), Interaction("ana", "Tea for two?", "Boil the kettle well.")])
        engine.fit()
    return tmp_path


def test_the_configuration_of_a_client_starts_a_server_for_this_user(folder: Path) -> None:
    (block,) = blocks("json")
    ((_, server),) = json.loads(block)["mcpServers"].items()
    assert server["command"] == "copersona"
    started = mcp.StdioServerParameters(
        command=sys.executable, args=["-m", "copersona", *server["args"]], env=dict(os.environ)
    )

    async def talking() -> tuple[set[str], list[bool]]:
        with (folder / "stderr").open("w") as errors:
            async with mcp.Client(mcp.stdio_client(started, errlog=errors)) as client:
                names = {tool.name for tool in (await client.list_tools()).tools}
                asked = [await client.call_tool("persona", {"user": u}) for u in ("ana", "bo")]
                return names, [answer.is_error or False for answer in asked]

    names, are_refused = asyncio.run(talking())
    assert names == {verb.name for verb in VERBS}
    assert are_refused == [False, True]
    assert [name for name in names if f"`{name}`" not in PAGE] == []


def test_over_http_it_starts_as_the_page_says_and_its_first_key_opens_it(folder: Path) -> None:
    (line,) = (line for line in COMMANDS if "--http" in line)
    command = [sys.executable, "-m", "copersona", *shlex.split(line.replace("8081", "0"))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            key = process.stderr.readline().split()[-1]
            url = process.stderr.readline().strip()

            async def talking() -> Any:
                headers = {"authorization": f"Bearer {key}"}
                async with (
                    httpx2.AsyncClient(headers=headers, timeout=30) as http,
                    mcp.Client(streamable_http_client(url, http_client=http)) as client,
                ):
                    return await client.call_tool("fit_status", {})

            assert url.endswith("/mcp")
            assert asyncio.run(talking()).structured_content["is_fitted"]
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_the_callback_of_litellm_personalises(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = (code for code in blocks("python") if "PersonalisedCalls" in code)
    data = {"messages": [{"role": "user", "content": "A kettle for two"}], "user": "ana"}
    with served(folder) as service:
        monkeypatch.setenv("COPERSONA_KEY", service.key("read", namespace="default"))
        names: dict[str, Any] = {}
        exec(code.replace("http://127.0.0.1:8080", service.url), names)
        hook = names["personalise"].async_pre_call_hook
        found = asyncio.run(hook(None, None, data, "acompletion"))
        names["personalise"]._contexts.close()
    assert "Boil the kettle well." in str(found["messages"])
    assert "callbacks: personalising.personalise" in blocks("yaml")[0]


def test_the_code_for_langchain_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain, retriever = (code for code in blocks("python") if "CoPersonaRetriever" in code)
    names: dict[str, Any] = {}
    exec(chain, names)
    exec(retriever, names)
    names["cp"].close()
    assert names["answer"].content == "Two days, by tram."
    assert "own Boil the kettle well." in capsys.readouterr().out


def test_the_files_of_others_are_taken_in_as_the_page_says(folder: Path) -> None:
    (folder / "thread.json").write_text(ZEP, "utf-8")
    (folder / "memories.json").write_text(MEM0, "utf-8")
    lines = [line for line in COMMANDS if " ingest " in line]
    assert len(lines) == 2
    for line in lines:
        result = CliRunner().invoke(cli.app, shlex.split(line))
        assert result.exit_code == 0, result.output
