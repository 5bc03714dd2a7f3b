"""The service between a real OpenAI client and an upstream server that does what a test planned."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

from copersona.service.gateway import Gateway
from copersona.service.upstream import RemoteUpstream
from fake_openai import FakeServer, Reply, json_reply, serving
from service_people import Served, served

TEXT = "kitchen tool: kettle"
MODEL = "planned-model"


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def completion(text: str = "hello", **more: Any) -> Reply:
    """A whole answer as OpenAI's servers give it."""
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
    }
    return json_reply({"id": "c1", "object": "chat.completion", "created": 1, "model": MODEL,
                       "choices": [choice], **more})  # fmt: skip


def used(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion,
            "total_tokens": prompt + completion}  # fmt: skip


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": MODEL,
            "choices": choices, **more}  # fmt: skip


def lines(*data: object) -> bytes:
    said = [each if isinstance(each, str) else json.dumps(each) for each in data]
    return "".join(f"data: {line}\n\n" for line in said).encode()


@dataclass(frozen=True)
class Between:
    """A running gateway with the server behind it."""

    service: Served
    upstream: FakeServer

    def openai(self, key: str | None = None, **headers: str) -> OpenAI:
        key = key or self.service.key()
        return OpenAI(base_url=f"{self.service.url}/v1", api_key=key, max_retries=0,
                      default_headers=headers)  # fmt: skip

    def sent(self) -> list[dict[str, Any]]:
        """The messages that reached the upstream last."""
        found: list[dict[str, Any]] = self.upstream.asked[-1]["messages"]
        return found


@contextmanager
def between(folder: Path, *plan: Reply, **settings: Any) -> Iterator[Between]:
    """A gateway over a folder; `settings` are those of `Gateway` and `RemoteUpstream`."""
    ours = {name: settings.pop(name) for name in list(settings) if name in Gateway.__annotations__}
    with serving(*plan) as upstream:
        away = RemoteUpstream(upstream.url, MODEL, "upstream-key", backoff_s=0.01, **settings)
        with served(folder, Gateway(away, **ours)) as service:
            yield Between(service, upstream)


def wait_for(is_so: Callable[[], bool]) -> None:
    """Until something is so that happens after an answer; never long."""
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)
