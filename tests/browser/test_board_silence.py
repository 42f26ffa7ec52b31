"""Gaps, incomplete data, the score's course and a score set by hand: worked and read in a browser, by everybody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from health.source_bits import source_bit
from health.tables import accounts, gaps, score_history, score_overrides, sources
from service.tables import audit
from tests.browser.conftest import NOW, Open, Site, serving
from tests.browser.test_board_operations import CUT
from tests.browser.test_board_reading import NARROW, violations
from tests.conftest import PostgresServer

pytestmark = pytest.mark.browser

HOUR = timedelta(hours=1)
LONG = "a_source.with-a-name:of-sixty-four-letters_and-no-place-to-break"


async def silence(conn: AsyncConnection) -> None:
    """One source of two is silent, and gaps have ended before; the card of every score changed ten days ago."""
    for source in ("app", LONG):
        times = {"first_event_at": NOW - 900 * HOUR, "last_event_at": NOW - 6 * HOUR, "last_live_at": NOW - 6 * HOUR}
        await conn.execute(insert(sources).values(source=source, **times))
    rows: list[dict[str, Any]] = [
        {"source": "app", "from_at": NOW - 6 * HOUR, "until_at": None, "state": "open", "reason": "0 events"},
        {"source": LONG, "from_at": NOW - 99 * HOUR, "until_at": NOW - 90 * HOUR, "state": "lost", "reason": LONG},
        {"source": None, "from_at": NOW - 199 * HOUR, "until_at": NOW - 190 * HOUR, "state": "refilled",
         "reason": "the bus was down"},
    ]  # fmt: skip
    await conn.execute(insert(gaps), [{**row, "noticed_at": NOW - 5 * HOUR} for row in rows])
    await conn.execute(update(accounts).values(sources=source_bit(LONG)))
    await conn.execute(
        update(score_history)
        .where(score_history.c.day >= (NOW - timedelta(days=10)).date())
        .values(scorecard="default@bbbbbb")
    )


def silent(site: Site) -> None:
    """Northwind Traders alone is heard of by the silent source."""

    async def work(conn: AsyncConnection) -> None:
        await silence(conn)
        northwind = accounts.c.account_id == site.sample.accounts["Northwind Traders"]
        await conn.execute(update(accounts).where(northwind).values(sources=source_bit("app")))

    site.run(work)


@pytest.fixture(scope="module")
def quiet_site(postgres_server: PostgresServer, template_database: str) -> Iterator[Site]:
    with serving(postgres_server, template_database) as made:
        silent(made)
        yield made


def path(site: Site, name: str) -> str:
    return {
        "gaps": "/gaps",
        "accounts": "/",
        "account": f"/accounts/{site.sample.accounts['Northwind Traders']}",
    }[name]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-GB", "ja-JP"])
@pytest.mark.parametrize("name", ["gaps", "accounts", "account"])
def test_axe_finds_nothing(quiet_site: Site, open_page: Open, name: str, locale: str, scheme: str) -> None:
    page = open_page(quiet_site.url + path(quiet_site, name), locale=locale, color_scheme=scheme)
    if name == "account":
        page.locator("details.as-table > summary").first.click()
    assert violations(page) == []


@pytest.mark.parametrize("name", ["gaps", "accounts", "account"])
def test_a_narrow_screen_does_not_scroll_sideways(quiet_site: Site, open_page: Open, name: str) -> None:
    for locale in ("en-GB", "ja-JP"):
        page = open_page(quiet_site.url + path(quiet_site, name), locale=locale, width=NARROW)
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW, locale
        assert page.evaluate(CUT) == 0, f"{locale}: a table is cut"


def test_only_accounts_of_the_silent_source_are_incomplete(quiet_site: Site, open_page: Open) -> None:
    page = open_page(f"{quiet_site.url}/?q=Northwind")
    expect(page.get_by_text("Data of app is incomplete since")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("Northwind"))).to_contain_text("data incomplete since 6 h ago (app)")
    page.goto(f"{quiet_site.url}/?q=Tidewater")
    expect(page.get_by_role("row", name=re.compile("Tidewater"))).not_to_contain_text("incomplete")
    page.goto(quiet_site.url + path(quiet_site, "account"))
    expect(page.get_by_text("Data of app is incomplete since")).to_be_visible()
    page.goto(f"{quiet_site.url}/accounts/{quiet_site.sample.accounts['Tidewater Logistics']}")
    expect(page.get_by_role("heading", name="Tidewater Logistics")).to_be_visible()
    expect(page.get_by_text("incomplete since")).to_have_count(0)


@pytest.mark.parametrize("locale", ["en-GB", "ja-JP"])
def test_the_course_tells_a_change_of_card_from_a_change_of_score(
    quiet_site: Site, open_page: Open, locale: str
) -> None:
    page = open_page(quiet_site.url + path(quiet_site, "account"), locale=locale)
    told = {"en-GB": "another scorecard took over", "ja-JP": "スコアカードが変わりました"}[locale]
    expect(page.get_by_text(told)).to_be_visible()
    expect(page.locator("#score-table tr[data-mark]")).to_have_count(1)
    page.locator("details.as-table:has(#score-table) > summary").click()
    expect(page.locator("#score-table tr[data-mark]")).to_contain_text("→ default@bbbbbb")
    trend = {"en-GB": "a week of late", "ja-JP": "最近は週に"}[locale]
    expect(page.locator(".title-row")).to_contain_text("↘")
    expect(page.locator(".title-row")).to_contain_text(trend)


def test_the_mark_of_a_changed_card_is_drawn(quiet_site: Site, open_page: Open) -> None:
    page = open_page(quiet_site.url + path(quiet_site, "account"))
    marked = _pixels(page)
    page.evaluate("document.querySelectorAll('tr[data-mark]').forEach((row) => row.removeAttribute('data-mark'))")
    page.set_viewport_size({"width": 1240, "height": 900})
    page.set_viewport_size({"width": 1280, "height": 900})
    expect(page.locator("[data-plot=score] canvas")).to_be_visible()
    page.wait_for_function(
        "(before) => document.querySelector('[data-plot=score] canvas').toDataURL() !== before", arg=marked
    )


def _pixels(page: Page) -> str:
    expect(page.locator("[data-plot=score] canvas")).to_be_visible()
    return str(page.evaluate("document.querySelector('[data-plot=score] canvas').toDataURL()"))


@pytest.mark.parametrize("javascript", [True, False])
def test_a_gap_is_noted_ended_and_marked(own_site: Site, open_page: Open, javascript: bool) -> None:
    silent(own_site)
    page = open_page(f"{own_site.url}/gaps", javascript=javascript)
    card = page.get_by_role("region", name=re.compile("^app: incomplete since"))
    card.get_by_label("It is lost for good").check()
    card.get_by_label("This source sends no more").check()
    card.get_by_role("button", name="End the gap").click()
    expect(page.get_by_role("status").first).to_have_text("Ended. Everybody is looked at again.")
    row = page.get_by_role("row", name=re.compile("^app"))
    expect(row).to_contain_text("Retired")
    row.get_by_role("button", name=re.compile("Mark as refilled: app")).click()
    expect(page.get_by_role("status").first).to_have_text("Marked. Everybody is looked at again.")
    expect(page.get_by_role("row", name=re.compile("^app"))).to_contain_text("Refilled")
    page.get_by_label("Source", exact=True).select_option("app")
    page.get_by_label("From", exact=True).fill("2027-05-20T06:00")
    page.get_by_label("Why was it not observed?").fill("a shard hangs")
    page.get_by_role("button", name="Note the gap").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was noted")
    expect(page.get_by_label("Why was it not observed?")).to_have_value("a shard hangs")
    page.get_by_label("From", exact=True).fill("2026-05-20T06:00")
    page.get_by_role("button", name="Note the gap").click()
    expect(page.get_by_role("status").first).to_have_text("Noted. Nobody is called silent for that time.")
    expect(page.get_by_text("a shard hangs")).to_be_visible()

    async def noted(conn: AsyncConnection) -> Any:
        return (await conn.scalars(select(audit.c.action).order_by(audit.c.audit_id))).all()

    assert [word for word in own_site.run(noted) if word.startswith("gap.")] == [
        "gap.retired", "gap.marked_refilled", "gap.opened",
    ]  # fmt: skip


def test_a_key_that_only_reads_sees_gaps_and_changes_none(closed_site: Site, open_page: Open) -> None:
    silent(closed_site)
    page = open_page(f"{closed_site.url}/gaps")
    page.get_by_label("Key").fill(closed_site.reader)
    page.get_by_role("button", name="Sign in").click()
    page.goto(f"{closed_site.url}/gaps")
    expect(page.get_by_role("heading", name=re.compile("app: incomplete since"))).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("End the gap|Mark as|Note the gap"))).to_have_count(0)


@pytest.mark.parametrize("javascript", [True, False])
def test_a_score_is_set_by_hand_and_taken_back(own_site: Site, open_page: Open, javascript: bool) -> None:
    url = own_site.url + path(own_site, "account")
    page = open_page(url, javascript=javascript)
    form = page.get_by_role("region", name="Set the score by hand")
    form.get_by_label("Score, 0 to 100").fill("75.5")
    form.get_by_label("Until").fill("2026-05-20")
    form.get_by_label("Why do you know better").fill("They move offices, and told us so")
    form.get_by_role("button", name="Set the score").click()
    expect(page.get_by_role("alert")).to_contain_text("choose a day after today")
    expect(form.get_by_label("Score, 0 to 100")).to_have_value("75.5")
    form.get_by_label("Until").fill("2026-06-15")
    form.get_by_role("button", name="Set the score").click()
    expect(page.get_by_role("status").first).to_contain_text("The score is set.")
    told = page.locator("#by-hand")
    expect(told).to_contain_text("set the score to 75.5 on May 20, 2026, until")
    expect(told).to_contain_text("They move offices, and told us so")
    if javascript:
        assert violations(page) == []
    form.get_by_role("button", name="Take it back").click()
    expect(page.get_by_role("status").first).to_contain_text("Taken back")
    expect(page.locator("#by-hand")).to_have_count(0)

    async def kept(conn: AsyncConnection) -> Any:
        return (await conn.execute(select(score_overrides.c.score, score_overrides.c.ended_at))).all()

    ((score, ended_at),) = own_site.run(kept)
    assert (float(score), ended_at) == (75.5, NOW)
