"""Dead letters, partitions and uploads: worked off in a browser, and every such page for everybody."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from consumers.tables import dead_letters, stream_offsets
from service.settings import Settings
from tests.browser.conftest import NOW, Open, Site, serving
from tests.browser.test_board_reading import NARROW, violations
from tests.conftest import PostgresServer

pytestmark = pytest.mark.browser

HOUR = timedelta(hours=1)
LONG = "a-very-long-account-id-without-any-place-to-break-it-" * 3
BROKEN = {"kind": "login", "event_id": "l-1", "account_id": "</textarea><b>", "timestamp": "yesterday"}
BYTES = {
    "open": json.dumps(BROKEN).encode(),
    "long": json.dumps({**BROKEN, "account_id": LONG, "note": "長い文章" * 80}).encode(),
    "hex": bytes(range(256)) * 3,
    "none": None,
}
REASONS = {"open": "bad_value", "long": "too_large", "hex": "malformed", "none": "malformed"}
STOPPED = {
    3: "poison: 100 records in a row became dead letters",
    7: "the log of this partition is not the one that was read: the record at offset 120394 differs",
}

CUT = "Math.max(0, ...[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth))"


async def operations(conn: AsyncConnection) -> dict[str, int]:
    """Letters of every form, and two stopped partitions."""
    found: dict[str, int] = {}
    letter: dict[str, Any] = {}
    for number, (name, value) in enumerate(BYTES.items()):
        fault = {"item": 0, "field": "timestamp", "problem": "is not a time", "remedy": "write it as RFC 3339"}
        letter = {
            "topic": "kizashi.events", "partition": 3, "record_offset": 10**9 + number, "record_timestamp": NOW - HOUR,
            "key": LONG.encode() if name == "long" else b"acme", "value": value, "errors": [fault] * (1 + number),
            "reason": REASONS[name], "created_at": NOW - number * HOUR,
        }  # fmt: skip
        made = await conn.execute(insert(dead_letters).values(letter).returning(dead_letters.c.dead_letter_id))
        found[name] = made.scalar_one()
    sent = json.dumps({**BROKEN, "timestamp": "2026-05-19T08:00:00Z"}).encode()
    closed = {**letter, "value": BYTES["open"], "record_offset": 1, "status": "retried", "closed_at": NOW,
              "closed_by": "board:aiko", "sent_value": sent, "note": "the clock was wrong"}  # fmt: skip
    made = await conn.execute(insert(dead_letters).values(closed).returning(dead_letters.c.dead_letter_id))
    found["retried"] = made.scalar_one()
    await conn.execute(delete(stream_offsets))
    for partition in range(9):
        row = {"group_id": Settings().consumer_group, "topic": "kizashi.events", "partition": partition,
               "next_offset": 120_394 + partition, "records": 120_000, "complete_through": NOW - HOUR,
               "stopped_reason": STOPPED.get(partition), "updated_at": NOW}  # fmt: skip
        await conn.execute(insert(stream_offsets).values(row))
    return found


@pytest.fixture(scope="module")
def desk(postgres_server: PostgresServer, template_database: str) -> Iterator[tuple[Site, dict[str, int]]]:
    with serving(postgres_server, template_database) as made:
        yield made, made.run(operations)


PAGES: dict[str, Callable[[Site, dict[str, int]], str]] = {
    "letters": lambda _site, _letters: "/dead-letters",
    "letters filtered": lambda _site, _letters: "/dead-letters?reason=malformed",
    "letters none": lambda _site, _letters: "/dead-letters?status=discarded",
    "letter": lambda _site, letters: f"/dead-letters/{letters['open']}",
    "letter long": lambda _site, letters: f"/dead-letters/{letters['long']}",
    "letter hex": lambda _site, letters: f"/dead-letters/{letters['hex']}",
    "letter without value": lambda _site, letters: f"/dead-letters/{letters['none']}",
    "letter retried": lambda _site, letters: f"/dead-letters/{letters['retried']}",
    "partitions": lambda _site, _letters: "/partitions",
    "uploads": lambda _site, _letters: "/uploads",
    "account": lambda site, _letters: f"/accounts/{site.sample.accounts['Northwind Traders']}",
}


def opened(desk: tuple[Site, dict[str, int]], open_page: Open, name: str, **how: object) -> Page:
    site, letters = desk
    page: Page = open_page(site.url + PAGES[name](site, letters), **how)
    if name == "account":
        page.locator("details:has(#contact-when) > summary").click()
    return page


def upload(page: Page, folder: Path) -> None:
    """A plan with every part: new, changed, refused, and columns that mean nothing."""
    file = folder / "accounts.csv"
    file.write_text(f"account_id,plan,mrr,renewl_on\n{LONG},gold,490,x\nodd,pro,soon,y\n", encoding="utf-8")
    page.locator("input[type=file]").set_input_files(file)
    page.locator("form.upload button").click()
    expect(page.locator(".upload-plan")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-GB", "ja-JP"])
@pytest.mark.parametrize("name", [*PAGES, "plan"])
def test_axe_finds_nothing(
    desk: tuple[Site, dict[str, int]], open_page: Open, tmp_path: Path, name: str, locale: str, scheme: str
) -> None:
    page = opened(desk, open_page, "uploads" if name == "plan" else name, locale=locale, color_scheme=scheme)
    if name == "plan":
        upload(page, tmp_path)
    assert violations(page) == []


@pytest.mark.parametrize("name", [*PAGES, "plan"])
def test_a_narrow_screen_does_not_scroll_sideways(
    desk: tuple[Site, dict[str, int]], open_page: Open, tmp_path: Path, name: str
) -> None:
    for locale in ("en-GB", "ja-JP"):
        page = opened(desk, open_page, "uploads" if name == "plan" else name, locale=locale, width=NARROW)
        if name == "plan":
            upload(page, tmp_path)
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW, locale
        assert page.evaluate(CUT) == 0, f"{locale}: a table is cut"


@pytest.mark.parametrize("javascript", [True, False])
def test_a_letter_is_mended_in_the_browser(own_site: Site, open_page: Open, javascript: bool) -> None:
    letters = own_site.run(operations)
    page = open_page(f"{own_site.url}/dead-letters", javascript=javascript)
    page.get_by_role("link", name=str(letters["open"]), exact=True).click()
    written = page.get_by_label("The event, as JSON")
    assert json.loads(written.input_value()) == BROKEN, "the text as it came, though it names our own tags"
    page.get_by_role("button", name="Send this instead").click()
    expect(page.locator("#value-errors")).to_contain_text("timestamp")
    written = page.get_by_label("The event, as JSON")
    expect(written).to_have_attribute("aria-invalid", "true")
    if javascript:
        assert violations(page) == []
    written.fill(written.input_value().replace("yesterday", "2026-05-19T08:00:00Z"))
    page.get_by_role("button", name="Send this instead").click()
    expect(page.get_by_role("status").first).to_contain_text("Sent.")
    ((_, value),) = own_site.producer.sent
    assert json.loads(value)["account_id"] == "</textarea><b>"
    expect(page.get_by_role("button", name="Discard")).to_have_count(0)


def test_many_are_discarded_by_their_reason(own_site: Site, open_page: Open) -> None:
    own_site.run(operations)
    page = open_page(f"{own_site.url}/dead-letters")
    expect(page.get_by_role("button", name="Discard all")).to_have_count(0)
    page.get_by_label("Reason", exact=True).select_option("malformed")
    expect(page.get_by_text(re.compile("2 open letters match"))).to_be_visible()
    page.get_by_role("button", name="Discard all").click()
    expect(page.get_by_role("status").first).to_contain_text("2 discarded.")
    page.goto(f"{own_site.url}/dead-letters?status=discarded")
    expect(page.locator("table.list tbody tr")).to_have_count(2)


def test_a_stopped_partition_says_why_it_is_not_released(own_site: Site, open_page: Open) -> None:
    own_site.run(operations)
    page = open_page(f"{own_site.url}/partitions")
    first = page.locator("section", has_text="kizashi.events[3] is stopped").first
    expect(first.get_by_label("where it stands, at 120397")).to_be_checked()
    first.get_by_role("button", name="Release").click()
    told = page.get_by_text("kizashi.events[3] was not released: the broker")
    expect(told).to_be_visible(timeout=20_000)  # it is asked for some seconds, and again for the page
