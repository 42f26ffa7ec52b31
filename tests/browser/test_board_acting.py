"""Acting on alerts, signing in, and what is refused."""

import re
import uuid
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.actions import act
from alerts.tables import episodes, transitions
from service import auth
from tests.browser.conftest import NOW, Open, Site
from tests.browser.test_board_reading import violations

pytestmark = pytest.mark.browser


def episode(site: Site) -> uuid.UUID:
    return site.sample.episodes["Northwind Traders", "no-login"]


def stored(site: Site) -> tuple[str, str | None, list[tuple[str, str, str]]]:
    """State, outcome, and (kind, actor, reason) of each transition."""

    async def read(conn: AsyncConnection) -> tuple[str, str | None, list[tuple[str, str, str]]]:
        row = (await conn.execute(select(episodes).where(episodes.c.episode_id == episode(site)))).one()
        steps = await conn.execute(
            select(transitions).where(transitions.c.episode_id == episode(site)).order_by(transitions.c.transition_id)
        )
        return row.state, row.outcome, [(step.kind, step.actor, step.reason) for step in steps]

    result: tuple[str, str | None, list[tuple[str, str, str]]] = site.run(read)
    return result


@pytest.mark.parametrize("javascript", [True, False])
def test_acknowledge_from_the_account_page(own_site: Site, open_page: Open, javascript: bool) -> None:
    page = open_page(f"{own_site.url}/accounts/{own_site.sample.accounts['Northwind Traders']}", javascript=javascript)
    page.get_by_role("button", name="Acknowledge: No login for two weeks").click()
    expect(page.get_by_role("status")).to_have_text("Acknowledged. Reminders stop.")
    expect(page.get_by_role("article", name="No login for two weeks")).to_contain_text("Acknowledged")
    assert stored(own_site)[2][-1] == ("acknowledged", "board", "acknowledged")
    if javascript:
        expect(page.get_by_role("status")).to_be_focused()
        expect(page.locator("[data-plot=score] canvas")).to_be_visible()


@pytest.mark.parametrize("javascript", [True, False])
def test_resolve_with_an_outcome(own_site: Site, open_page: Open, javascript: bool) -> None:
    page = open_page(f"{own_site.url}/alerts/{episode(own_site)}", javascript=javascript)
    page.get_by_label("What became of it?").select_option("saved")
    page.get_by_label("Note (optional)").fill("New <admin> trained")
    page.get_by_role("button", name="Resolve").click()
    expect(page.get_by_role("region", name="History")).to_contain_text("Resolved: Saved New <admin> trained")
    assert stored(own_site) == (
        "resolved", "saved",
        [("opened", "kizashi", "No login for 22 days."), ("resolved", "board", "New <admin> trained")],
    )  # fmt: skip
    page.goto(f"{own_site.url}/alerts?state=closed")
    expect(page.get_by_role("row", name=re.compile("Northwind Traders"))).to_contain_text("Saved")


def test_snooze_moves_it_to_the_other_tab_and_reopen_brings_it_back(own_site: Site, open_page: Open) -> None:
    page = open_page(f"{own_site.url}/alerts/{episode(own_site)}")
    page.get_by_label("Remind me on").fill("2026-06-01")
    page.get_by_label("Reason (optional)").fill("Back from holiday in June")
    page.get_by_role("button", name="Snooze").click()
    expect(page.get_by_role("status")).to_contain_text("Snoozed.")
    expect(page.get_by_role("region", name="History")).to_contain_text("Back from holiday in June")
    page.goto(f"{own_site.url}/alerts?rule=no-login")
    expect(page.get_by_text("No alert matches")).to_be_visible()
    page.get_by_role("link", name="Snoozed").click()
    expect(page.get_by_role("row", name=re.compile("Northwind Traders"))).to_contain_text("Snoozed until Jun 1, 2026")
    assert violations(page) == []


def test_a_snooze_ends_where_the_readers_day_begins(own_site: Site, chromium: Browser) -> None:
    context = chromium.new_context(locale="en-GB", timezone_id="Asia/Tokyo")
    page = context.new_page()
    page.goto(f"{own_site.url}/alerts/{episode(own_site)}")
    page.get_by_label("Remind me on").fill("2026-06-01")
    page.get_by_role("button", name="Snooze").click()
    expect(page.get_by_text("Snoozed until Jun 1, 2026")).to_be_visible()

    async def until(conn: AsyncConnection) -> datetime | None:
        return await conn.scalar(select(episodes.c.snoozed_until).where(episodes.c.episode_id == episode(own_site)))

    assert own_site.run(until) == datetime(2026, 5, 31, 15, tzinfo=UTC)
    context.close()


def test_reopen(own_site: Site, open_page: Open) -> None:
    closed = own_site.sample.episodes["Tidewater Logistics", "no-login"]
    page = open_page(f"{own_site.url}/alerts/{closed}")
    page.get_by_role("button", name="Reopen").click()
    expect(page.get_by_role("status")).to_have_text("Reopened.")
    expect(page.get_by_role("button", name="Resolve")).to_be_visible()


@pytest.mark.parametrize("javascript", [True, False])
def test_a_conflict_is_told_kindly_with_the_fresh_state(own_site: Site, open_page: Open, javascript: bool) -> None:
    page = open_page(f"{own_site.url}/alerts/{episode(own_site)}", javascript=javascript)

    async def meanwhile(conn: AsyncConnection) -> None:
        await act(conn, episode(own_site), "acknowledge", expected_version=1, actor="key:ben", now=NOW)

    own_site.run(meanwhile)
    page.get_by_label("What became of it?").select_option("no_answer")
    page.get_by_label("Note (optional)").fill("Called twice")
    page.get_by_role("button", name="Resolve").click()
    expect(page.get_by_role("alert")).to_contain_text("Somebody changed this alert meanwhile.")
    expect(page.get_by_role("region", name="History")).to_contain_text("ben")
    expect(page.get_by_label("Note (optional)")).to_have_value("Called twice")  # nothing typed is lost
    assert violations(page) == [] if javascript else True
    assert stored(own_site)[0] == "open"
    page.get_by_role("button", name="Resolve").click()
    expect(page.get_by_role("status")).to_have_text("Resolved. Thank you for the outcome.")


def test_a_day_that_is_not_ahead_is_refused(own_site: Site, open_page: Open) -> None:
    page = open_page(f"{own_site.url}/alerts/{episode(own_site)}")
    page.evaluate("document.querySelectorAll('form').forEach(form => { form.noValidate = true; })")
    page.get_by_label("Remind me on").fill("2026-05-20")
    page.get_by_role("button", name="Snooze").click()
    expect(page.get_by_role("alert")).to_have_text("Choose a day after today, then snooze again.")


def test_a_form_without_its_token_changes_nothing(own_site: Site, open_page: Open) -> None:
    page = open_page(f"{own_site.url}/alerts/{episode(own_site)}")
    page.evaluate("document.querySelectorAll('[name=csrf]').forEach(field => { field.value = 'forged'; })")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("This form is out of date")
    assert len(stored(own_site)[2]) == 1


def sign_in(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def test_signing_in_leads_where_one_wanted_to_go(closed_site: Site, open_page: Open) -> None:
    page = open_page(f"{closed_site.url}/alerts?state=closed")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert violations(page) == []
    sign_in(page, "kz_0000000000_" + "x" * 43)
    expect(page.get_by_role("alert")).to_contain_text("not known here")
    sign_in(page, closed_site.key)
    expect(page.get_by_role("heading", level=1)).to_have_text("Alerts")
    assert page.url.endswith("/alerts?state=closed")
    cookie = next(c for c in page.context.cookies() if c["name"] == "kizashi_session")
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert closed_site.key not in cookie["value"]
    page.goto(f"{closed_site.url}/alerts/{episode(closed_site)}")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_role("region", name="History")).to_contain_text("aiko")
    assert stored(closed_site)[2][-1][1] == "board:aiko"
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.goto(closed_site.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_a_link_from_another_site_finds_the_reader_signed_in(closed_site: Site, open_page: Open) -> None:
    page = open_page(closed_site.url)
    sign_in(page, closed_site.key)
    elsewhere = closed_site.url.replace("127.0.0.1", "localhost")
    page.goto(f"{elsewhere}/signin")
    target = f"{closed_site.url}/alerts/{episode(closed_site)}"
    page.evaluate(
        "(target) => { const link = document.createElement('a'); link.href = target; link.textContent = 'alert';"
        " document.body.append(link); link.click(); }",
        target,
    )
    expect(page.get_by_role("heading", level=1)).to_have_text("No login for two weeks")


def test_a_reader_cannot_act(closed_site: Site, open_page: Open) -> None:
    page = open_page(f"{closed_site.url}/alerts/{episode(closed_site)}")
    sign_in(page, closed_site.reader)
    expect(page.get_by_role("heading", level=1)).to_have_text("No login for two weeks")
    expect(page.get_by_role("button", name="Acknowledge")).to_have_count(0)
    status = page.evaluate(
        "async (path) => { const token = document.querySelector('[name=csrf]').value;"
        " const body = new URLSearchParams({csrf: token, version: '1'});"
        " return (await fetch(path, {method: 'POST', body})).status; }",
        f"/alerts/{episode(closed_site)}/acknowledge",
    )
    assert status == 403
    assert len(stored(closed_site)[2]) == 1


def test_a_revoked_key_ends_the_session(closed_site: Site, open_page: Open) -> None:
    page = open_page(f"{closed_site.url}/accounts/{closed_site.sample.accounts['Lumen Schools']}")
    sign_in(page, closed_site.reader)
    expect(page.get_by_role("heading", level=1)).to_have_text("Lumen Schools")

    async def revoke(conn: AsyncConnection) -> None:
        await auth.revoke(conn, closed_site.reader.split("_")[1], NOW)

    closed_site.run(revoke)
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in", timeout=15_000)  # the poll noticed
