"""The lines of days on the timeline bring their events from the archive, and do without it when it is away."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.archive.files import open_archive
from consumers.events import Event, Login, Usage
from service import queries
from service.queries import archived
from service.queries.archived import with_events
from service.queries.types import TimelineEntry
from service.settings import Settings
from tests.integration.test_archive import Feed as ArchiveFeed
from tests.integration.test_archive import records
from tests.integration.test_facts_are_a_function_of_the_set import Feed as FactsFeed

DAY = datetime(2026, 3, 4, tzinfo=UTC)


@pytest.fixture
def events() -> list[Event]:
    def common(n: int) -> dict[str, object]:
        at = DAY + timedelta(days=n % 3, hours=n % 24, minutes=n)
        return {"event_id": f"e{n}", "account_id": "acme", "timestamp": at, "user_id": f"u{n % 4}"}

    return [
        *(Login(**common(n)) for n in range(75)),  # type: ignore[arg-type]
        *(Usage(feature="export", quantity=2, **common(n)) for n in range(75, 90)),  # type: ignore[arg-type]
        Login(event_id="other", account_id="globex", timestamp=DAY + timedelta(hours=23), user_id="x"),
    ]


async def lines(engine: AsyncEngine, url: str | None) -> dict[tuple[str, date | None], TimelineEntry]:
    settings = Settings(archive_url=url, database_url=SecretStr(engine.url.render_as_string(hide_password=False)))
    async with engine.connect() as conn:
        page = await queries.timeline(conn, "acme", None, 50)
    full = await with_events(settings, engine, "acme", page)
    assert full.next_cursor == page.next_cursor
    assert [entry.entry_id for entry in full.items] == [entry.entry_id for entry in page.items]
    return {(entry.kind, entry.day): entry for entry in full.items}


async def test_days_bring_their_events(
    engine: AsyncEngine, events: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = (tmp_path / "archive").as_uri()
    facts = FactsFeed(engine)
    await facts.open()
    await facts.apply_in_pieces(events, random.Random(1))
    archive = await ArchiveFeed(open_archive(engine, url)).open()
    await archive.apply(records([*events, *events[:5]]))

    without = await lines(engine, None)
    found = await lines(engine, url)
    first = found["logins", DAY.date()]
    own = [event for event in events if event.account_id == "acme" and isinstance(event, Login)]
    on_day = sorted((e for e in own if e.timestamp.date() == DAY.date()), key=lambda e: e.timestamp, reverse=True)
    assert first.count == len(on_day) == 25
    assert [shown["at"] for shown in first.data["events"]] == [e.timestamp for e in on_day[: archived.MOST_EVENTS]]
    assert first.last_at == on_day[0].timestamp
    used = found["usage", DAY.date()].data
    assert used["features"] == {"export": 10.0}
    assert {(shown["feature"], shown["quantity"]) for shown in used["events"]} == {("export", 2)}
    assert len(used["events"]) == 5

    monkeypatch.setattr(archived, "MOST_BYTES", 10)
    assert await lines(engine, url) == without, "too much to be read at once"
    monkeypatch.undo()
    for file in (tmp_path / "archive").rglob("*.parquet"):
        file.unlink()
    assert await lines(engine, url) == without
