"""The way to a language model that speaks OpenAI's protocol: a request goes on, its answer comes.

What is sent and what comes back is passed on byte by byte; only the model's name is filled in where
the client names none. A request is tried again only while nothing of an answer has come, on a
connection that was refused or lost. Keys and cookies of one side never reach the other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Protocol

import httpx2

from copersona.language.endpoints import checked_key, checked_url
from copersona.records import Context
from copersona.service.personalising import Chat

CONNECT_LIMIT_S = 10.0
_KEPT = frozenset({"content-encoding", "content-length", "content-type", "retry-after"})
_KEPT_BEGINNINGS = ("openai-", "x-ratelimit-", "x-request-id")


class NoAnswer(Exception):
    """No answer came from the model.

    Attributes:
        status: what the client is told: 502, or 504 where it took too long.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Sent:
    """One request on its way to a model.

    Attributes:
        text: the body.
        chat: what the client sent.
        context: what was added to it; None where nothing was.
        query: of the URL.
    """

    text: str
    chat: Chat
    context: Context | None = None
    query: str = ""


@dataclass(frozen=True)
class Received:
    """An answer of which only the head is there.

    Attributes:
        body: its bytes, piece by piece; NoAnswer where it breaks off.
        close: tells the model to stop, and lets go of it.
    """

    status: int
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]]

    @property
    def is_stream(self) -> bool:
        """Whether it comes as a stream of events."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    async def read(self) -> bytes:
        """All of the body.

        Raises:
            NoAnswer: it broke off.
        """
        return b"".join([piece async for piece in self.body])


class Upstream(Protocol):
    """Where chats go."""

    def model(self, chat: Chat) -> str:
        """What the model is called that will answer."""

    async def complete(self, sent: Sent) -> Received:
        """The answer to a chat.

        Raises:
            NoAnswer: none came.
        """

    async def models(self) -> Received:
        """The models there are.

        Raises:
            NoAnswer: none came.
        """

    async def close(self) -> None:
        """Let go of everything."""


class RemoteUpstream:
    """A server with an OpenAI-compatible API; its connections are kept for the next request.

    Args:
        base_url: up to and including the version, such as `https://host/v1`.
        model: what is asked for where a client names no model.
        timeout_s: longest wait for the first and for every next piece of an answer, in seconds.
        retries: further attempts after the first.
        backoff_s: pause before the first retry, doubled for each next one, in seconds.

    Raises:
        ConfigError: not a URL, or a key that no header can hold.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 600.0,
        retries: int = 2,
        backoff_s: float = 0.2,
    ) -> None:
        self._base, self._model = str(checked_url(base_url)).rstrip("/"), model
        self._retries, self._backoff_s, self._timeout_s = retries, backoff_s, timeout_s
        # Compressed, what was used could not be read off an answer without unpacking it.
        headers = {"accept-encoding": "identity"}
        if api_key:
            headers["authorization"] = f"Bearer {checked_key(api_key)}"
        self._client = httpx2.AsyncClient(
            headers=headers,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # nobody's to anybody
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_LIMIT_S)),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100),
        )

    def model(self, chat: Chat) -> str:
        """What the client asks for, else the configured one."""
        return chat.named("model") or self._model

    async def complete(self, sent: Sent) -> Received:
        """The answer to a chat; see `Upstream`."""
        text = sent.text
        if "model" not in sent.chat.body:
            has_more = "," if sent.chat.body else ""
            text = text.replace("{", f'{{"model":{json.dumps(self._model)}{has_more}', 1)
        query = f"?{sent.query}" if sent.query else ""
        return await self._send(
            lambda: self._client.build_request(
                "POST", f"{self._base}/chat/completions{query}", content=text.encode("utf-8"),
                headers={"content-type": "application/json"},
            )
        )  # fmt: skip

    async def models(self) -> Received:
        """The models of the server; see `Upstream`."""
        return await self._send(lambda: self._client.build_request("GET", f"{self._base}/models"))

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _send(self, build: Callable[[], httpx2.Request]) -> Received:
        for attempt in range(self._retries + 1):
            try:
                response = await self._client.send(build(), stream=True)
                break
            except (
                httpx2.NetworkError,
                httpx2.RemoteProtocolError,
                httpx2.ConnectTimeout,
            ) as error:
                if attempt == self._retries:
                    raise self._failure(error) from error
                await asyncio.sleep(self._backoff_s * 2.0**attempt)
            except httpx2.HTTPError as error:
                raise self._failure(error) from error
        headers = {name: value for name, value in response.headers.items() if _is_kept(name)}
        return Received(response.status_code, headers, self._pieces(response), response.aclose)

    async def _pieces(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        try:
            async for piece in response.aiter_raw():
                yield piece
        except httpx2.HTTPError as error:
            raise self._failure(error) from error

    def _failure(self, error: httpx2.HTTPError) -> NoAnswer:
        if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError):
            return NoAnswer(502, "the language model cannot be reached")
        if isinstance(error, httpx2.TimeoutException):
            return NoAnswer(504, f"the language model said nothing for {self._timeout_s:g} s")
        return NoAnswer(502, "the connection to the language model was lost")


def _is_kept(name: str) -> bool:
    return name in _KEPT or name.startswith(_KEPT_BEGINNINGS)
