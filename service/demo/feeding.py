"""What goes into the running stack: the history as an import, and what was missed while the demo was off."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Final

import httpx2
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.broker import Producer
from consumers.events import encode
from consumers.importing import ImportRow, Progress, send_import
from health.tables import imports
from service.clock import utc_now
from service.demo import stories
from service.demo.company import Company
from service.demo.plans import SOURCE
from service.demo.show import Show
from service.demo.state import State

MAX_UNREAD_BYTES: Final = 384 * 1024
"""Of the history, per partition: far below the 5 MiB that the embedded broker keeps, and little enough that live
events, which queue behind it, are read within seconds."""
UNREAD: Final = timedelta(minutes=1)
"""A little further back than the door had acknowledged: what the roles had not read when the demo was killed."""
SEND_SECONDS: Final = 30.0
ASK_SECONDS: Final = 0.5
BY_HAND_FOR: Final = timedelta(days=20)


async def history_is_in(engine: AsyncEngine, state: State) -> bool:
    async with engine.connect() as conn:
        query = select(imports.c.finished_at).where(imports.c.import_id == state.import_id)
        return await conn.scalar(query) is not None


async def load_history(engine: AsyncEngine, bootstrap: str, company: Company, state: State, show: Show) -> None:
    """Through the broker, as an import: resumed when it was cut off, never doubled."""
    began = time.monotonic()
    given = 0

    def rows() -> Iterator[ImportRow]:
        nonlocal given
        for events in stories.all_history(company):
            yield from ((event,) for event in events)
            given += 1

    producer = Producer(bootstrap, client_id="kizashi-demo", timeout_seconds=SEND_SECONDS)
    try:
        with show.bar("History, accounts", len(company.accounts)) as bar:

            def moved(progress: Progress) -> None:
                bar.move(given, progress.events_sent, progress.waiting_for)

            sent = await send_import(
                engine, producer, topic=state.topic, group=state.group, import_id=state.import_id, source=SOURCE,
                rows=rows(), total=None, clock=utc_now, on_progress=moved, max_unread_bytes=MAX_UNREAD_BYTES,
            )  # fmt: skip
    finally:
        await producer.stop()
    seconds = time.monotonic() - began
    what = f"{sent.events_sent:,} events of {state.history_days} days, {given} accounts"
    show.done(f"History loaded: {what}, {sent.events_sent / max(seconds, 0.001):,.0f} events/s", seconds)


async def catch_up(bootstrap: str, company: Company, state: State, now: datetime, show: Show) -> None:
    """What happened since ``state.covered_until`` goes in before the roles look: nobody was silent, we did not listen.

    The ids are those that the live traffic would have used, so that what had got through is recognised.
    """
    if state.covered_until is None:
        return
    with show.step("What happened while the demo was off:") as more:
        since = max(state.covered_until - UNREAD, company.anchor)
        events = await asyncio.to_thread(stories.live, company, since, now)
        producer = Producer(bootstrap, client_id="kizashi-demo", timeout_seconds=SEND_SECONDS)
        try:
            await producer.send_in_order(state.topic, [(e.account_id.encode(), encode(e)) for e in events])
        finally:
            await producer.stop()
        more.append(f"{len(events):,} events")
    state.covered_until = now


async def set_scores_by_hand(url: str, api_key: str, company: Company, clock: Callable[[], datetime]) -> None:
    """As soon as their accounts are known to the board."""
    headers = {"authorization": f"Bearer {api_key}"}
    async with httpx2.AsyncClient(timeout=SEND_SECONDS, trust_env=False, headers=headers) as client:
        for wish in stories.set_by_hand(company):
            until = (clock() + BY_HAND_FOR).isoformat()
            body = {"score": wish.score, "reason": wish.reason, "expires_at": until}
            place = f"{url}/api/v1/accounts/{wish.account_id}/override"
            while True:
                if await _taken(client, place, body):
                    break
                await asyncio.sleep(ASK_SECONDS)


async def _taken(client: httpx2.AsyncClient, url: str, body: dict[str, Any]) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        answer = await client.put(url, json=body)
        if answer.status_code == 422:
            raise ValueError(answer.text)
        return answer.is_success
    return False


async def tell_first_alert(inbox: str, since: datetime, show: Show, clock: Callable[[], datetime]) -> None:
    """Says when the first message since ``since`` reaches the inbox."""
    async with httpx2.AsyncClient(timeout=2.0, trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                messages = (await client.get(f"{inbox}/api/messages")).json()
                if any(datetime.fromisoformat(message["at"]) >= since for message in messages):
                    show.done("The first alert is in the inbox", (clock() - since).total_seconds())
                    return
            await asyncio.sleep(ASK_SECONDS)
