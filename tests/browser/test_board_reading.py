"""Reading the board: the list, its filters, an account, both languages, every page for everybody."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from health.tables import accounts, gaps, record_events
from tests.browser.conftest import NOW, Open, Site

pytestmark = pytest.mark.browser

NARROW = 360


def names(page: Page) -> list[str]:
    return page.locator("table.list tbody th .name").all_inner_texts()


def test_most_money_at_risk_comes_first(site: Site, open_page: Open) -> None:
    page = open_page(site.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Accounts at risk")
    assert names(page)[:3] == ["Northwind Traders", "Brightside Clinics", "Maple & Rowe"]
    first = page.locator("table.list tbody tr").first
    expect(first).to_contain_text("At risk")  # the band in words, not in colour alone
    expect(first).to_contain_text("No login for 22 days.")
    expect(first.get_by_role("img", name=re.compile("Activity: "))).to_be_visible()


def test_money_is_summed_per_currency(site: Site, open_page: Open) -> None:
    strip = open_page(site.url).locator(".strip")
    expect(strip).to_contain_text("$22.1K")
    expect(strip).to_contain_text("¥380K")


@pytest.mark.parametrize(
    ("sort", "first"),
    [("Health", "Northwind Traders"), ("Last seen", "Northwind Traders"), ("Renewal", "Vantage Point Media")],
)
def test_sorting_by_a_heading(site: Site, open_page: Open, sort: str, first: str) -> None:
    page = open_page(site.url)
    page.get_by_role("columnheader", name=sort).get_by_role("link").click()
    expect(page.locator("th[aria-sort]")).to_contain_text(sort)
    assert names(page)[0] == first


def test_filters_apply_at_once_and_live_in_the_address(site: Site, open_page: Open) -> None:
    page = open_page(site.url)
    page.get_by_label("Owner").select_option("carla")
    page.get_by_label("Watch").check()
    expect(page.locator("table.list tbody tr")).to_have_count(4)
    query = parse_qs(urlsplit(page.url).query)
    assert query["owner"] == ["carla"]
    assert query["band"] == ["yellow"]
    assert "plan" not in query
    page.reload()
    expect(page.locator("table.list tbody tr")).to_have_count(4)
    page.get_by_label("Name or id").fill("cobalt")
    expect(page.locator("table.list tbody tr")).to_have_count(1)
    page.go_back()
    expect(page.locator("table.list tbody tr")).to_have_count(4)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("rule=no-login", ["Northwind Traders"]),
        ("plan=trial", ["Vantage Point Media"]),
        ("min_mrr=12000&q=bright", ["Brightside Clinics"]),
        ("renews_before=2026-06-02", ["Vantage Point Media"]),
        ("q=acct_1003", ["Harbor Freightways"]),
    ],
)
def test_filters_without_javascript(site: Site, open_page: Open, query: str, found: list[str]) -> None:
    page = open_page(f"{site.url}/?{query}", javascript=False)
    assert names(page) == found
    expect(page.get_by_role("button", name="Filter")).to_be_visible()


def test_a_filter_that_cannot_be_read_is_said_and_left_out(site: Site, open_page: Open) -> None:
    page = open_page(f"{site.url}/?min_mrr=lots&renews_before=soon", javascript=False)
    expect(page.get_by_role("alert")).to_have_count(2)
    assert len(names(page)) == 18


def test_nothing_matches(site: Site, open_page: Open) -> None:
    page = open_page(f"{site.url}/?q=nobody-of-this-name")
    expect(page.get_by_text("No account matches")).to_be_visible()


def test_before_the_first_event(empty_site: Site, open_page: Open) -> None:
    page = open_page(empty_site.url)
    expect(page.get_by_text("No accounts yet")).to_be_visible()
    page.goto(f"{empty_site.url}/alerts")
    expect(page.get_by_text("No open alerts")).to_be_visible()
    assert violations(page) == []


def test_an_account_is_reached_by_keyboard_alone(site: Site, open_page: Open) -> None:
    page = open_page(site.url)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('name')"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Northwind Traders")


def test_account_page_explains_the_score(site: Site, open_page: Open) -> None:
    page = open_page(f"{site.url}/accounts/{site.sample.accounts['Northwind Traders']}")
    why = page.get_by_role("region", name="Why this score")
    points = [
        float(text.split("/")[0].replace("−", "-").replace("+", ""))
        for text in why.locator("tbody td.num").all_inner_texts()
    ]
    total = float(why.locator("tfoot td.num").inner_text())
    assert round(sum(points), 1) == total
    assert points[0] == 100
    expect(why).to_contain_text("No login for")
    expect(page.locator("[data-plot=score] canvas")).to_be_visible()
    expect(page.locator("[data-plot=activity] canvas")).to_be_visible()
    expect(page.get_by_role("region", name="Timeline")).to_contain_text("NPS answer: 8")
    expect(page.get_by_role("heading", level=3)).to_have_text(
        ["No login for two weeks", "Health turned red", "Renewal within 60 days"]
    )


def test_charts_have_their_numbers_in_a_table(site: Site, open_page: Open) -> None:
    page = open_page(f"{site.url}/accounts/{site.sample.accounts['Solstice Energy']}", javascript=False)
    page.get_by_text("Show as a table").first.click()
    assert page.locator("#score-table tbody tr").count() == 90
    assert page.locator("#activity-table tbody tr").count() == 90


def test_an_event_shows_within_two_seconds_and_typing_is_not_disturbed(own_site: Site, open_page: Open) -> None:
    account_id = own_site.sample.accounts["Solstice Energy"]
    page = open_page(f"{own_site.url}/accounts/{account_id}")
    page.get_by_text("Show as a table").first.click()
    row = {
        "account_id": account_id, "kind": "ticket", "record_id": "t77", "at": NOW, "event_key": "crm:e77",
        "data": {"status": "open", "subject": "A question <script>"}, "known_at": NOW,
    }  # fmt: skip

    async def ingest(conn: AsyncConnection) -> None:
        await conn.execute(insert(record_events).values(row))
        await conn.execute(update(accounts).where(accounts.c.account_id == account_id).values(last_login_at=NOW))

    assert page.locator("#live").get_attribute("hx-trigger") == "every 1500ms"
    with page.expect_response(lambda answer: "/live/" in answer.url and answer.status == 200) as polled:
        own_site.run(ingest)
    assert "A question" in polled.value.text()  # the first poll that has news has it
    expect(page.get_by_role("region", name="Timeline")).to_contain_text("A question <script>")
    expect(page.locator("#score-table")).to_be_visible()  # what was open stays open
    expect(page.locator("[data-plot=score] canvas")).to_be_visible()


def test_a_poll_without_news_says_nothing(site: Site, open_page: Open) -> None:
    page = open_page(f"{site.url}/accounts/{site.sample.accounts['Lumen Schools']}")
    with page.expect_response(re.compile("/live/")) as polled:
        pass
    assert polled.value.status == 204


def test_held_data_is_said(own_site: Site, open_page: Open) -> None:
    gap = {"source": None, "from_at": NOW, "state": "open", "reason": "volume", "noticed_at": NOW}

    async def hold(conn: AsyncConnection) -> None:
        await conn.execute(insert(gaps).values(gap))

    own_site.run(hold)
    page = open_page(own_site.url)
    expect(page.get_by_role("status")).to_contain_text("Data is incomplete since")
    assert violations(page) == []


def test_japanese_by_the_browser_and_by_choice(site: Site, open_page: Open) -> None:
    page = open_page(site.url, locale="ja-JP")
    expect(page.get_by_role("heading", level=1)).to_have_text("解約リスクのある顧客")
    expect(page.locator("table.list")).to_contain_text("22日間ログインがありません。")
    page.get_by_role("link", name="English").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Accounts at risk")
    page.goto(f"{site.url}/accounts/{site.sample.accounts['Northwind Traders']}")
    page.get_by_role("link", name="日本語").click()
    expect(page.get_by_role("region", name="タイムライン")).to_be_visible()


def test_what_does_not_exist_is_a_page(site: Site, open_page: Open) -> None:
    page = open_page(f"{site.url}/accounts/nobody")
    expect(page.get_by_role("heading", level=1)).to_have_text("No such account")
    page.goto(f"{site.url}/alerts/not-an-id")
    expect(page.get_by_role("heading", level=1)).to_have_text("No such alert")
    page.goto(f"{site.url}/?cursor=broken")
    expect(page.get_by_role("heading", level=1)).to_have_text("This address cannot be read")
    assert violations(page) == []


PAGES = ("list", "account", "alerts", "snoozed", "closed", "alert", "closed alert")


def address(site: Site, name: str) -> str:
    account_id = site.sample.accounts["Northwind Traders"]
    return (
        site.url
        + {
            "list": "/",
            "account": f"/accounts/{account_id}",
            "alerts": "/alerts",
            "snoozed": "/alerts?state=snoozed",
            "closed": "/alerts?state=closed",
            "alert": f"/alerts/{site.sample.episodes['Northwind Traders', 'no-login']}",
            "closed alert": f"/alerts/{site.sample.episodes['Tidewater Logistics', 'no-login']}",
        }[name]
    )


def violations(page: Page) -> list[str]:
    found = Axe().run(page)
    return [f"{v['id']}: {node['target']}" for v in found.response["violations"] for node in v["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-GB", "ja-JP"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(site: Site, open_page: Open, name: str, locale: str, scheme: str) -> None:
    page = open_page(address(site, name), locale=locale, color_scheme=scheme)
    assert violations(page) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_narrow_screen_does_not_scroll_sideways(site: Site, open_page: Open, name: str) -> None:
    for locale in ("en-GB", "ja-JP"):
        page = open_page(address(site, name), locale=locale, width=NARROW)
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW
