"""How much one asker may ask: token buckets, and what they are filled with.

Each bucket holds some tokens, takes in new ones at a steady rate and gives one for every request.
Buckets are this process's own; they know neither keys nor HTTP.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

_MANY = 10_000


class Buckets:
    """One bucket for each name.

    Args:
        per_minute: new tokens; 0 is no limit.
        burst: tokens that a full bucket holds.
    """

    def __init__(self, per_minute: int, burst: int) -> None:
        self._per_s, self._burst = per_minute / 60, float(burst)
        self._left: dict[str, tuple[float, float]] = {}
        self._sweeps_at = _MANY

    def take(self, name: str) -> float:
        """Take a token: 0.0, or the seconds until there is one."""
        if not self._per_s:
            return 0.0
        now = time.monotonic()
        left = self._level(name, now)
        if left < 1:
            return (1 - left) / self._per_s
        self._left[name] = (left - 1, now)
        if len(self._left) > self._sweeps_at:
            self._left = {n: kept for n, kept in self._left.items() if not self._is_full(n, now)}
            self._sweeps_at = _MANY + 2 * len(self._left)
        return 0.0

    def _level(self, name: str, now: float) -> float:
        left, at = self._left.get(name, (self._burst, now))
        return min(self._burst, left + (now - at) * self._per_s)

    def _is_full(self, name: str, now: float) -> bool:
        return self._level(name, now) >= self._burst


@dataclass(frozen=True)
class Limits:
    """What is limited.

    Attributes:
        requests: by key.
        failures: requests with no key that fits, by address.
    """

    requests: Buckets
    failures: Buckets

    @classmethod
    def of(cls, requests_per_minute: int, failures_per_minute: int) -> Limits:
        """A bucket holds what comes in within ten seconds; of failures, within a minute."""
        burst = max(1, requests_per_minute // 6)
        return cls(
            Buckets(requests_per_minute, burst), Buckets(failures_per_minute, failures_per_minute)
        )
