"""Where the context of a request comes from: an open `CoPersona`, or a service over HTTP.

Either gives a context for a user and a text, which is all that the libraries here need to know.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import httpx2

from copersona.errors import BackendError
from copersona.records import Branches, Context, Query


class Contexts(Protocol):
    """Gives contexts; an open `CoPersona` does, and so does a `Remote`."""

    def prompt(self, user: str, text: str) -> Context:
        """The context for one request of a user."""


class Remote:
    """The contexts of a running `copersona serve`; may be used by several threads.

    Args:
        url: as `copersona serve` says it.
        key: with the scope `read`.
        timeout_s: longest wait for an answer.
    """

    def __init__(self, url: str, key: str, *, timeout_s: float = 2.0) -> None:
        headers = {"authorization": f"Bearer {key}"}
        self._client = httpx2.Client(base_url=url, headers=headers, timeout=timeout_s)

    def prompt(self, user: str, text: str) -> Context:
        """The context for one request of a user; its evidence stays with the service.

        Raises:
            BackendError: the service did not answer in time, or with a problem.
        """
        try:
            answer = self._client.post("/v1/context", json={"user": user, "text": text})
            answer.raise_for_status()
            return _context(Query(user, text), answer.json())
        except httpx2.HTTPStatusError as error:
            raise BackendError(f"the service answered {error.response.status_code}") from error
        except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            raise BackendError(f"no context from the service: {type(error).__name__}") from error

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _context(query: Query, said: dict[str, Any]) -> Context:
    messages = tuple({"role": one["role"], "content": one["content"]} for one in said["messages"])
    return Context(
        query, messages, (), (), said["tokens"], said["budget_tokens"],
        is_personalised=said["is_personalised"], trace_id=said["trace_id"],
        warnings=tuple(said["warnings"]), branches=Branches.named(said["branches"]),
        choice=said["choice"],
    )  # fmt: skip
