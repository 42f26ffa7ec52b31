"""The guard on a real gaps table: a source dies, comes back, and its data comes later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from health import observed
from health.tables import gaps, source_hours, sources
from health.volume import IMPORTED

NOW = datetime(2025, 6, 18, 14, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def fill(conn: AsyncConnection, source: str, begin: datetime, end: datetime, *, live: bool = True) -> None:
    """A hundred events an hour over whole hours in [begin, end)."""
    hours = int((end - begin) / HOUR)
    await conn.execute(
        insert(source_hours), [{"source": source, "hour": begin + n * HOUR, "events": 100} for n in range(hours)]
    )
    last = end - timedelta(minutes=1)
    row = {"source": source, "first_event_at": begin, "last_event_at": last, "last_live_at": last if live else None}
    if (await conn.execute(select(sources).where(sources.c.source == source))).first() is None:
        await conn.execute(insert(sources), row)
    else:
        await conn.execute(update(sources).where(sources.c.source == source).values(last_event_at=last))


async def test_a_source_dies_and_its_data_comes_later(engine: AsyncEngine) -> None:
    hour = NOW.replace(minute=0)
    died = hour - 3 * HOUR
    async with engine.begin() as conn:
        await fill(conn, "app", hour - 60 * 24 * HOUR, died)
        await fill(conn, "web", hour - 60 * 24 * HOUR, hour + HOUR)
        await fill(conn, "history", hour - 60 * 24 * HOUR, died, live=False)
        report = await observed.guard(conn, NOW, NOW)
        assert [source for source, _ in report.opened] == ["app"]
        assert report.changed
        assert set(report.verdicts) == {"app", "web"}, "an imported source is not watched"
        assert not (await observed.guard(conn, NOW, NOW)).changed
        seen = await observed.read(conn, NOW, NOW)
    last_event = died - timedelta(minutes=1)
    assert seen.gaps == (observed.Gap("app", last_event, None, "open"),)
    assert seen.held_since(NOW) == last_event

    back = hour + 2 * HOUR
    async with engine.begin() as conn:
        await fill(conn, "app", hour + HOUR, back)
        await fill(conn, "web", hour + HOUR, back)
        report = await observed.guard(conn, back, back)
        assert report.closed[0][1].startswith("lost: 100 events lie in the gap, where 500 are usual")
        seen = await observed.read(conn, back, back)
    assert seen.gaps == (observed.Gap("app", last_event, back, "lost"),)
    assert seen.held_since(back) is None

    async with engine.begin() as conn:
        await fill(conn, "app", died, hour + HOUR)
        report = await observed.guard(conn, back + HOUR / 2, back + HOUR / 2)
        assert [words.split(":")[0] for _, words in report.closed] == ["refilled"]
        assert (await observed.read(conn, back, back)).gaps == ()
        assert (await conn.execute(select(gaps.c.state))).scalars().all() == ["refilled"]


async def test_gaps_of_the_future_and_refilled_ones_do_not_count(engine: AsyncEngine) -> None:
    rows = [("a", NOW - HOUR, NOW, "refilled"), ("b", NOW + HOUR, None, "open"), (None, NOW - HOUR, NOW, "lost")]
    async with engine.begin() as conn:
        await conn.execute(
            insert(gaps),
            [{"source": source, "from_at": begin, "until_at": end, "state": state, "reason": "test", "noticed_at": NOW}
             for source, begin, end, state in rows],
        )  # fmt: skip
        seen = await observed.read(conn, None, NOW)
    assert [gap.source for gap in seen.gaps] == [None]
    assert seen.through is None


async def test_an_imported_history_is_not_what_a_live_source_usually_sends(engine: AsyncEngine) -> None:
    """40 imported days under the name of a source that has sent one event by itself, and nothing for three days."""
    hour = NOW.replace(minute=0)
    first = hour - 72 * HOUR
    async with engine.begin() as conn:
        await fill(conn, "crm", first, first + HOUR)
        row = {"source": f"crm{IMPORTED}", "events": 100}
        await conn.execute(insert(source_hours), [{**row, "hour": first - n * HOUR} for n in range(40 * 24)])
        await conn.execute(update(sources).values(first_event_at=first - 40 * 24 * HOUR))
        report = await observed.guard(conn, NOW, NOW)
    assert (report.opened, report.verdicts["crm"].judged) == ((), False)


async def test_an_import_refills_a_gap(engine: AsyncEngine) -> None:
    hour = NOW.replace(minute=0)
    async with engine.begin() as conn:
        await fill(conn, "app", hour - 60 * 24 * HOUR, hour - 9 * HOUR)
        assert (await observed.guard(conn, NOW, NOW)).opened
        await fill(conn, "app", hour - HOUR, hour + HOUR)
        assert (await observed.guard(conn, NOW, NOW)).closed[0][1].startswith("lost")
        row = {"source": f"app{IMPORTED}", "events": 100}
        await conn.execute(insert(source_hours), [{**row, "hour": hour - n * HOUR} for n in range(1, 10)])
        assert (await observed.guard(conn, NOW, NOW)).closed[0][1].startswith("refilled")
