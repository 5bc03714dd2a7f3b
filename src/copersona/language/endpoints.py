"""One OpenAI-compatible HTTP endpoint: post JSON, get JSON or a stream of events.

Every wait has a bound. A request is tried again only while nothing of the answer has been read: on
a refused connection and on the codes that mean "later". Messages of errors name the host, the
status and the server's error code, and never the key, the request or the server's own words, which
may repeat a user's text.

This module does not know what is asked for; `encoders` and `generation` do.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import Any

import httpx2

from copersona.errors import BackendError, ConfigError

_CONNECT_LIMIT_S = 10.0
_LONGEST_PAUSE_S = 20.0
_LARGEST_ANSWER = 64 * 2**20
_WORTH_RETRYING = frozenset({408, 409, 429, 500, 502, 503, 504})
_HINTS = {
    401: "the key was refused",
    403: "the key may not do this",
    404: "check the model's name and that the URL ends where the API begins, often in /v1",
    413: "the request is too large for it",
}


class Endpoint:
    """A base URL with a key, time-outs and retries; safe to share between threads.

    Args:
        base_url: up to and including the version, such as `https://host/v1`.
        api_key: sent as a bearer token; None sends none.
        timeout_s: longest wait for a whole answer, or for the next event of a stream, in seconds.
        retries: further attempts after the first.
        backoff_s: pause before the first retry, doubled for each next one, in seconds.
        stream_limit_s: longest stream, however steadily it trickles, in seconds.

    Raises:
        ConfigError: not a URL, a key that no header can hold, or a limit that allows nothing.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retries: int = 2,
        backoff_s: float = 0.5,
        stream_limit_s: float = 600.0,
    ) -> None:
        if timeout_s <= 0 or retries < 0:
            raise ConfigError(f"timeout_s is {timeout_s}, retries is {retries}: too little")
        self._base = checked_url(base_url)
        self._stream_limit_s = stream_limit_s
        self._timeout_s, self._retries, self._backoff_s = timeout_s, retries, backoff_s
        headers = {"content-type": "application/json"}
        if api_key:
            headers["authorization"] = f"Bearer {checked_key(api_key)}"
        timeout = httpx2.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_LIMIT_S))
        self._client = httpx2.Client(headers=headers, timeout=timeout)

    @property
    def host(self) -> str:
        """Host and port, fit for messages and names."""
        return self._base.netloc.decode("ascii")

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON object that answers `body`.

        Raises:
            BackendError: refused, unreachable, too slow, too large, or not a JSON object.
        """
        try:
            with closing(self._open(path, body)) as response:
                content = b"".join(self._chunks(response, self._timeout_s))
        except httpx2.HTTPError as error:
            raise self._failure(error) from error
        return self._parse(content)

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """Yield the JSON objects of a server-sent event stream, up to its `[DONE]`.

        Closing the iterator closes the connection, which tells the server to stop.

        Raises:
            BackendError: as for `post`; also when the stream reports an error.
        """
        try:
            with closing(self._open(path, body)) as response:
                for data in self._events(response):
                    if data == b"[DONE]":
                        return
                    yield self._parse(data)
        except httpx2.HTTPError as error:
            raise self._failure(error) from error

    def _open(self, path: str, body: Mapping[str, Any]) -> httpx2.Response:
        """Return an accepted answer of which only the head has been read."""
        # ASCII, because a lone surrogate in a user's text cannot be sent as UTF-8.
        content = json.dumps(body).encode("ascii")
        url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
        for attempt in range(self._retries + 1):
            is_last = attempt == self._retries
            try:
                request = self._client.build_request("POST", url, content=content)
                response = self._client.send(request, stream=True)
            except httpx2.ConnectError:
                if is_last:
                    raise
                time.sleep(self._pause(attempt))
                continue
            if response.status_code == httpx2.codes.OK:
                return response
            with closing(response):
                if is_last or response.status_code not in _WORTH_RETRYING:
                    raise self._refusal(response)
                time.sleep(self._pause(attempt, response.headers.get("retry-after", "")))
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, attempt: int, asked: str = "") -> float:
        seconds = float(asked) if asked.isdecimal() else 0.0  # it may also be a date
        return min(max(seconds, self._backoff_s * 2.0**attempt), _LONGEST_PAUSE_S)

    def _chunks(self, response: httpx2.Response, limit_s: float) -> Iterator[bytes]:
        deadline, n_bytes = time.monotonic() + limit_s, 0
        for chunk in response.iter_bytes():
            n_bytes += len(chunk)
            if n_bytes > _LARGEST_ANSWER:
                raise BackendError(f"{self.host} answered more than {_LARGEST_ANSWER} bytes")
            if time.monotonic() > deadline:
                raise BackendError(f"{self.host} did not finish within {limit_s:g} s")
            yield chunk

    def _events(self, response: httpx2.Response) -> Iterator[bytes]:
        # Bytes are split at line feeds only, since a text may hold other line separators; and
        # every chunk is timed, since a server may send nothing but comments for ever.
        rest = b""
        for chunk in self._chunks(response, self._stream_limit_s):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line[5:].strip() for line in lines if line.startswith(b"data:"))
        if rest.startswith(b"data:"):
            yield rest[5:].strip()

    def _parse(self, content: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(content)
        except ValueError as error:
            raise BackendError(f"{self.host} answered something that is not JSON") from error
        if not isinstance(answer, dict):
            raise BackendError(f"{self.host} answered JSON that is not an object")
        if answer.get("error"):
            raise BackendError(f"{self.host} reported an error{_code_of(answer)}")
        return answer

    def _refusal(self, response: httpx2.Response) -> BackendError:
        try:
            answer = json.loads(b"".join(self._chunks(response, self._timeout_s)))
        except (ValueError, httpx2.HTTPError, BackendError):
            answer = None
        status = response.status_code
        hint = f"; {_HINTS[status]}" if status in _HINTS else ""
        return BackendError(f"{self.host} answered {status}{_code_of(answer)}{hint}")

    def _failure(self, error: httpx2.HTTPError) -> BackendError:
        if isinstance(error, httpx2.TimeoutException):
            return BackendError(f"{self.host} did not answer within {self._timeout_s:g} s")
        if isinstance(error, httpx2.ConnectError):
            return BackendError(f"{self.host} cannot be reached; is it running?")
        return BackendError(f"the connection to {self.host} failed: {type(error).__name__}")


def checked_url(base_url: str) -> httpx2.URL:
    """Return the URL of an endpoint.

    Raises:
        ConfigError: it is none.
    """
    # The URL is not repeated, nor what the parser said of it, since it may hold a password.
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        url = httpx2.URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigError("the endpoint must be a URL such as https://host/v1")
    return url


def checked_key(api_key: str) -> str:
    """Return the key without the line feed that files end in.

    Raises:
        ConfigError: it is empty, or no header can hold it.
    """
    key = api_key.strip()
    if not re.fullmatch(r"[!-~]+", key):
        raise ConfigError("the key is empty, or holds a character that no HTTP header can")
    return key


def _code_of(answer: object) -> str:
    """Return ` (code)` where a server's answer has a short error code that is safe to repeat."""
    said = answer.get("error") if isinstance(answer, dict) else None
    for key in ("code", "type"):
        code = said.get(key) if isinstance(said, dict) else None
        if isinstance(code, str) and re.fullmatch(r"[A-Za-z0-9_.\-]{1,64}", code):
            return f" ({code})"
    return ""
