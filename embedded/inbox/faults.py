"""Scripted misbehaviour of the receivers, one fault per request, in order."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from starlette.responses import PlainTextResponse, Response, StreamingResponse

DRIP_BYTES = 10_000


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What to answer instead. ``status`` is an HTTP status or an SMTP code.

    ``delay_seconds`` waits before answering (a time-out); ``drip_seconds`` sends the body byte by byte with that pause;
    ``accept`` takes the message in although the answer says otherwise (a lost reply).
    """

    status: int = 500
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    drip_seconds: float = 0.0
    body_bytes: int = 0
    accept: bool = False

    async def response(self) -> Response:
        await asyncio.sleep(self.delay_seconds)
        if self.drip_seconds:
            return StreamingResponse(self._drip(), status_code=self.status, headers=dict(self.headers))
        body = self.body or "x" * self.body_bytes
        return PlainTextResponse(body, status_code=self.status, headers=dict(self.headers))

    async def _drip(self) -> AsyncIterator[bytes]:
        for _ in range(DRIP_BYTES):
            yield b"."
            await asyncio.sleep(self.drip_seconds)


class Script:
    """Faults waiting per (door, target)."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], deque[Fault]] = defaultdict(deque)

    def add(self, door: str, target: str, *faults: Fault) -> None:
        self._waiting[door, target].extend(faults)

    def take(self, door: str, target: str) -> Fault | None:
        waiting = self._waiting.get((door, target))
        return waiting.popleft() if waiting else None
