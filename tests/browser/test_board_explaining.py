"""Why a score was what it was, and who would change band under another scorecard: asked and read in a browser."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from health.tables import health
from tests.browser.conftest import NOW, Open, Site
from tests.browser.test_board_operations import CUT
from tests.browser.test_board_reading import NARROW, violations

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = (ROOT / "rules" / "scorecards" / "default.yaml").read_text(encoding="utf-8")
STRICT = DEFAULT.replace("bands: {green: 70, yellow: 40", "bands: {green: 99, yellow: 95")
WRONG = DEFAULT.replace("signal: churn_odds\n", "signal: churn_ods\n", 1)
TODAY = NOW.date()
SEEN = ("explain", "explain earlier", "what-if", "what-if answered", "what-if refused")


def account(site: Site) -> str:
    return f"/accounts/{site.sample.accounts['Northwind Traders']}"


def seen(site: Site, open_page: Open, name: str, **look: object) -> Page:
    """One of ``SEEN``, as somebody who came there sees it."""
    if name.startswith("explain"):
        day = TODAY - timedelta(days=12 if name == "explain earlier" else 0)
        return open_page(f"{site.url}/explain{account(site)}?day={day}", **look)
    page = open_page(f"{site.url}/what-if?card=default", **look)
    if name != "what-if":
        page.locator("#what-if-card").fill(STRICT if name == "what-if answered" else WRONG)
        page.locator("form.upload button[type=submit]").click()
        expect(page.locator("#answer-title" if name == "what-if answered" else "[role=alert]")).to_be_visible()
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-GB", "ja-JP"])
@pytest.mark.parametrize("name", SEEN)
def test_axe_finds_nothing(site: Site, open_page: Open, name: str, locale: str, scheme: str) -> None:
    assert violations(seen(site, open_page, name, locale=locale, color_scheme=scheme)) == []


@pytest.mark.parametrize("locale", ["en-GB", "ja-JP"])
@pytest.mark.parametrize("name", SEEN)
def test_a_narrow_screen_does_not_scroll_sideways(site: Site, open_page: Open, name: str, locale: str) -> None:
    page = seen(site, open_page, name, locale=locale, width=NARROW)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW
    assert page.evaluate(CUT) == 0, "a table is cut"


def test_a_long_value_does_not_push_a_narrow_screen_apart(own_site: Site, open_page: Open) -> None:
    """A goal's name is the customer's; the table of signals has it beside names of signals."""
    goal = "手作業の転記をなくして月次の締めを三日早める: features_used_28d 0 (≥ 6) " + "x" * 60

    async def work(conn: AsyncConnection) -> None:
        mine = health.c.account_id == own_site.sample.accounts["Northwind Traders"]
        signals = await conn.scalar(select(health.c.signals).where(mine))
        await conn.execute(update(health).where(mine).values(signals={**(signals or {}), "goal_most_behind": goal}))

    own_site.run(work)
    page = open_page(own_site.url + account(own_site), width=NARROW)
    row = page.get_by_role("row", name=re.compile("goal_most_behind"))
    expect(row).to_contain_text("三日早める")
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW
    box = page.get_by_role("row", name=re.compile("days_since_login")).bounding_box()
    assert box is not None
    assert box["height"] < 150, "names of signals keep their room"


def test_a_day_of_the_chart_leads_to_its_explanation(site: Site, open_page: Open) -> None:
    page = open_page(site.url + account(site))
    plot = page.locator("[data-plot=score] .u-over")
    box = plot.bounding_box()
    assert box is not None
    plot.click(position={"x": box["width"] - 3, "y": box["height"] / 2})
    page.wait_for_url(re.compile(rf"/explain{account(site)}\?day={TODAY}$"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("Score of Northwind Traders as of")


@pytest.mark.parametrize("javascript", [True, False])
def test_days_are_walked_and_chosen(site: Site, open_page: Open, javascript: bool) -> None:
    page = open_page(f"{site.url}/explain{account(site)}", javascript=javascript)
    expect(page.get_by_role("link", name="The day after")).to_have_count(0)
    page.get_by_role("link", name="The day before").click()
    expect(page).to_have_url(re.compile(f"day={TODAY - timedelta(days=1)}$"))
    expect(page.get_by_role("region", name="Then and now")).to_contain_text("Recorded on that day")
    page.get_by_label("Day", exact=True).fill((TODAY - timedelta(days=12)).isoformat())
    page.get_by_role("button", name="Show this day").click()
    expect(page.get_by_label("Day", exact=True)).to_have_value((TODAY - timedelta(days=12)).isoformat())
    expect(page.get_by_role("heading", level=1)).to_contain_text("May 8, 2026")
    page.get_by_role("link", name="The day after").click()
    expect(page).to_have_url(re.compile(f"day={TODAY - timedelta(days=11)}$"))


@pytest.mark.parametrize("locale", ["en-GB", "ja-JP"])
def test_a_line_without_data_says_of_what(site: Site, open_page: Open, locale: str) -> None:
    page = seen(site, open_page, "explain", locale=locale)
    without = page.locator("table.why th", has_text={"en-GB": "o data; its weight", "ja-JP": "データなし"}[locale])
    texts = without.all_inner_texts()
    assert texts
    assert len(set(texts)) == len(texts), "no two lines look the same"


@pytest.mark.parametrize("javascript", [True, False])
def test_who_would_change_band(site: Site, open_page: Open, javascript: bool) -> None:
    page = seen(site, open_page, "what-if answered", javascript=javascript)
    title = page.locator("#answer-title")
    expect(title).to_have_text(re.compile(r"^[1-9]\d* of [1-9]\d* accounts would change band$"))
    if javascript:
        expect(title).to_be_focused()
    changes = page.get_by_role("region", name="Accounts that would change band")
    assert changes.get_by_role("row").count() == 1 + int(title.inner_text().split()[0])
    expect(page.locator("#what-if-card")).to_have_value(STRICT)
    changes.get_by_role("link").first.click()
    expect(page).to_have_url(re.compile("/accounts/"))


def test_a_narrow_screen_has_the_reason_under_the_name(site: Site, open_page: Open) -> None:
    page = seen(site, open_page, "what-if answered", width=NARROW)
    first = page.get_by_role("region", name="Accounts that would change band").get_by_role("row").nth(1)
    expect(first.locator("th .narrow-only")).to_be_visible()
    expect(first.locator("td.hide-narrow")).to_be_hidden()


def test_a_fault_of_a_scorecard_is_shown_with_its_line(site: Site, open_page: Open) -> None:
    page = seen(site, open_page, "what-if refused")
    told = page.get_by_role("alert")
    expect(told).to_contain_text("line 38, column 5")
    expect(told).to_contain_text("did you mean churn_odds?")
    expect(told).to_be_focused()
    expect(page.locator("#what-if-card")).to_have_value(WRONG)
