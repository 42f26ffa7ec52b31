"""The company's day as it goes on, posted through the HTTP door as any product would: plans, chatter, incidents."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import httpx2
import msgspec

from consumers.events import Event, encode
from service.demo import stories
from service.demo.company import Company

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.25
RETRY_SECONDS: Final = 1.0
AHEAD: Final = timedelta(hours=1)
POST_SECONDS: Final = 10.0
MOST_AT_ONCE: Final = 500


class Live:
    """Posts what is due. ``covered_until`` moves when the door has acknowledged everything before it."""

    def __init__(
        self,
        company: Company,
        *,
        url: str,
        api_key: str,
        started_at: datetime,
        covered_until: datetime,
        clock: Callable[[], datetime],
        chatter_per_second: float,
        keep: Callable[[datetime], None],
    ) -> None:
        self.sent = 0
        self.covered_until = covered_until
        self._company = company
        self._url = f"{url}/api/v1/events"
        self._headers = {"authorization": f"Bearer {api_key}", "content-type": "application/x-ndjson"}
        self._started_at = started_at
        self._clock = clock
        self._rate = chatter_per_second
        self._keep = keep
        self._company_awake = asyncio.Event()
        self._incidents = deque(stories.incidents(company, started_at))
        self._planned: deque[Event] = deque()
        self._planned_until = covered_until
        self._chatter_from: datetime | None = None
        self._chatted = 0

    def wake(self) -> None:
        """The history is in: from now on the whole company is at work, not only the incidents."""
        self._company_awake.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with httpx2.AsyncClient(timeout=POST_SECONDS, trust_env=False) as client:
            while True:
                now = self._clock()
                due, planned = await self._due(now)
                for start in range(0, len(due), MOST_AT_ONCE):
                    await self._post(client, due[start : start + MOST_AT_ONCE])
                if planned:
                    self.covered_until = now
                    self._keep(now)
                await asyncio.sleep(TICK_SECONDS)

    async def _due(self, now: datetime) -> tuple[list[Event], bool]:
        """What is due by ``now``, and whether that includes the company's plan."""
        due = _taken(self._incidents, now)
        if not self._company_awake.is_set():
            return due, False
        if self._planned_until <= now:
            until = now + AHEAD
            events = await asyncio.to_thread(stories.live, self._company, self._planned_until, until)
            self._planned.extend(events)
            self._planned_until = until
        return due + _taken(self._planned, now) + self._chatter(now), True

    def _chatter(self, now: datetime) -> list[Event]:
        if self._chatter_from is None:
            self._chatter_from = now
        wanted = int((now - self._chatter_from).total_seconds() * self._rate)
        numbers = range(self._chatted, wanted)
        self._chatted = max(self._chatted, wanted)
        return [stories.chatter(self._company, number, now, self._started_at) for number in numbers]

    async def _post(self, client: httpx2.AsyncClient, events: list[Event]) -> None:
        """Until the door has taken them; events that it refuses are said and left behind."""
        while events:
            body = b"\n".join(map(encode, events))
            try:
                answer = await client.post(self._url, content=body, headers=self._headers)
                results = _results(answer)
            except (httpx2.HTTPError, msgspec.DecodeError) as error:
                logger.warning("the door does not answer: %r", error)
                results = None
            if results is None:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            refused = [result for result in results if result["status"] == "refused"]
            if refused:
                logger.error("%d events were refused, the first: %s", len(refused), refused[0])
            self.sent += sum(result["status"] == "accepted" for result in results)
            events = [events[r["index"]] for r in results if r["status"] == "unacknowledged"]
            if events:
                await asyncio.sleep(RETRY_SECONDS)


def _results(answer: httpx2.Response) -> list[dict[str, Any]] | None:
    """The result per event; None: nothing was acknowledged, try again."""
    if answer.status_code not in {202, 422}:
        logger.warning("the door answers %d: %s", answer.status_code, answer.text[:200])
        return None
    results: list[dict[str, Any]] = msgspec.json.decode(answer.content)["results"]
    return results


def _taken(events: deque[Event], now: datetime) -> list[Event]:
    """Takes those that are due off the front."""
    due: list[Event] = []
    with contextlib.suppress(IndexError):
        while events[0].timestamp <= now:
            due.append(events.popleft())
    return due
