"""One front door per namespace, opened on first use and closed with the service."""

from __future__ import annotations

import threading
from collections.abc import Callable

from copersona.pipeline import CoPersona


class Engines:
    """Front doors by namespace; requests of one namespace share one."""

    def __init__(self, opens: Callable[[str], CoPersona]) -> None:
        self._opens = opens
        self._opened: dict[str, CoPersona] = {}
        self._opening = threading.Lock()

    def of(self, namespace: str) -> CoPersona:
        """The front door of a namespace."""
        with self._opening:
            if namespace not in self._opened:
                self._opened[namespace] = self._opens(namespace)
            return self._opened[namespace]

    def opened(self) -> tuple[CoPersona, ...]:
        """Those that are open."""
        with self._opening:
            return tuple(self._opened.values())

    def close(self) -> None:
        """Close all that were opened."""
        with self._opening:
            while self._opened:
                self._opened.popitem()[1].close()
