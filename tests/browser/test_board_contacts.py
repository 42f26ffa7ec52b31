"""Logging a contact on an account's page."""

import json
import re
import time

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from health.tables import record_events
from tests.browser.conftest import NOW, Open, Site
from tests.browser.test_board_reading import violations

pytestmark = pytest.mark.browser


def form(page: Page) -> None:
    page.get_by_text("Log a contact").click()
    page.get_by_label("What was it?").select_option("call")
    page.get_by_label("Note (optional)").fill("They <i>miss</i> the export")


@pytest.mark.parametrize("javascript", [True, False])
def test_a_contact_stands_on_the_timeline_at_once(own_site: Site, open_page: Open, javascript: bool) -> None:
    account = own_site.sample.accounts["Northwind Traders"]
    page = open_page(f"{own_site.url}/accounts/{account}", javascript=javascript)
    form(page)
    page.get_by_role("button", name="Log it").click()
    expect(page.get_by_role("status").first).to_have_text("Logged. It is on the timeline in a moment.")
    expect(page.locator("#timeline li").first).to_contain_text("Call with the customer being stored")
    ((key, value),) = own_site.producer.sent
    event = json.loads(value)
    assert (key, event["contact"], event["by"], event["note"]) == (
        account.encode(), "call", "board", "They <i>miss</i> the export",
    )  # fmt: skip

    async def applied(conn: AsyncConnection) -> None:
        data = {"contact": "call", "by": "board", "note": event["note"]}
        row = {"account_id": account, "kind": "contact", "record_id": event["contact_id"], "at": NOW, "known_at": NOW}
        await conn.execute(insert(record_events).values(**row, event_key="contacts:1", data=data))

    own_site.run(applied)
    if not javascript:
        page.reload()
    expect(page.locator("#timeline li.pending")).to_have_count(0)
    expect(page.locator("#timeline li").first).to_contain_text("They <i>miss</i> the export")


def test_while_it_is_sent_the_line_is_there_already(own_site: Site, open_page: Open) -> None:
    page = open_page(f"{own_site.url}/accounts/{own_site.sample.accounts['Northwind Traders']}")
    page.route(re.compile("/contacts$"), lambda route: (time.sleep(1), route.continue_()))  # type: ignore[func-returns-value]
    form(page)
    page.get_by_role("button", name="Log it").click(no_wait_after=True)
    pending = page.locator("#timeline li.pending")
    expect(pending).to_contain_text("They <i>miss</i> the export", timeout=900)
    expect(page.get_by_role("status").first).to_have_text("Logged. It is on the timeline in a moment.")
    expect(pending).to_have_count(1)


def test_what_was_typed_stays_while_the_page_renews_itself(own_site: Site, open_page: Open) -> None:
    account = own_site.sample.accounts["Northwind Traders"]
    page = open_page(f"{own_site.url}/accounts/{account}")
    form(page)

    async def news(conn: AsyncConnection) -> None:
        row = {"account_id": account, "kind": "ticket", "record_id": "t-new", "at": NOW, "known_at": NOW}
        data = {"status": "open", "subject": "Brand new ticket"}
        await conn.execute(insert(record_events).values(**row, event_key="x:1", data=data))

    own_site.run(news)
    expect(page.locator("#timeline")).to_contain_text("Brand new ticket")
    expect(page.get_by_label("Note (optional)")).to_have_value("They <i>miss</i> the export")
    expect(page.get_by_label("Note (optional)")).to_be_visible()
    assert violations(page) == []


def test_in_japanese_and_for_readers_only(closed_site: Site, open_page: Open) -> None:
    account = closed_site.sample.accounts["Northwind Traders"]
    page = open_page(f"{closed_site.url}/accounts/{account}", locale="ja-JP")
    page.locator("input[name=key]").fill(closed_site.key)
    page.get_by_role("button").first.click()
    page.goto(f"{closed_site.url}/accounts/{account}")
    page.get_by_text("接触を記録する").click()
    page.locator("#contact-when").fill("2026-05-18T10:00")
    page.get_by_role("button", name="記録する", exact=True).click()
    expect(page.get_by_role("status").first).to_have_text("記録しました。まもなくタイムラインに表示されます。")
    event = json.loads(closed_site.producer.sent[0][1])
    assert event["by"] == "aiko"
    visitor = open_page(f"{closed_site.url}/signin")
    visitor.locator("input[name=key]").fill(closed_site.reader)
    visitor.get_by_role("button").first.click()
    visitor.goto(f"{closed_site.url}/accounts/{account}")
    expect(visitor.get_by_role("heading", name="Timeline")).to_be_visible()
    expect(visitor.get_by_text("Log a contact")).to_have_count(0)
