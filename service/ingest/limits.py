"""How much a key, an address and the whole door may ask for: token buckets, and what may be in flight at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from typing import Final

MOST_NAMES: Final = 10_000
MOST_RETRY_SECONDS: Final = 300


class Buckets:
    """A bucket of tokens a name, refilled at `rate` a second up to `burst`. A taker may go into debt."""

    def __init__(self, rate: float, burst: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._monotonic = monotonic
        self._left: dict[Hashable, tuple[float, float]] = {}

    def wait(self, name: Hashable) -> int:
        """Whole seconds until there is a token again, 0 when there is."""
        found = self._left.get(name)
        if found is None:
            return 0
        tokens = found[0] + (self._monotonic() - found[1]) * self._rate
        return 0 if tokens >= 1 else min(MOST_RETRY_SECONDS, max(1, math.ceil((1 - tokens) / self._rate)))

    def take(self, name: Hashable, tokens: float) -> None:
        now = self._monotonic()
        before, at = self._left.get(name, (self._burst, now))
        left = min(self._burst, before + (now - at) * self._rate) - tokens
        if name not in self._left and len(self._left) >= MOST_NAMES:
            self._forget(now)
        self._left[name] = (left, now)

    def _forget(self, now: float) -> None:
        """Of full buckets nothing is lost. When none is full, the ones longest untouched go."""
        kept = {
            name: (tokens, at)
            for name, (tokens, at) in self._left.items()
            if tokens + (now - at) * self._rate < self._burst
        }
        if len(kept) >= MOST_NAMES:
            oldest = sorted(kept, key=lambda name: kept[name][1])[: MOST_NAMES // 2]
            for name in oldest:
                del kept[name]
        self._left = kept


class Load:
    """Requests in flight and the bytes they hold, both bounded: beyond, one is told so at once instead of queueing."""

    def __init__(self, *, requests: int, bytes_: int) -> None:
        self.most_requests = requests
        self.most_bytes = bytes_
        self.requests = 0
        self.bytes = 0

    def enter(self) -> bool:
        if self.requests >= self.most_requests:
            return False
        self.requests += 1
        return True

    def hold(self, more: int) -> bool:
        """Whether `more` bytes fit; they then count until `leave`."""
        if self.bytes + more > self.most_bytes:
            return False
        self.bytes += more
        return True

    def leave(self, held: int) -> None:
        self.requests -= 1
        self.bytes -= held
