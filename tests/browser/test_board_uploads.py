"""Uploading a file: what it would change, and then the change."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open, Site
from tests.browser.test_board_reading import violations

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("javascript", [True, False])
def test_a_file_is_looked_at_and_then_applied(
    own_site: Site, open_page: Open, tmp_path: Path, javascript: bool
) -> None:
    account = own_site.sample.accounts["Northwind Traders"]
    file = tmp_path / "accounts.csv"
    file.write_text(
        f"アカウントID,プラン,契約更新日,よみ\n{account},gold,2027/1/31,x\nnew,pro,,\nodd,,soon,\n", encoding="cp932"
    )
    page = open_page(own_site.url, javascript=javascript)
    page.get_by_role("link", name="Upload").click()
    page.get_by_label("What is in it?").select_option("accounts")
    page.get_by_label("File").set_input_files(file)
    page.get_by_role("button", name="Show what would change").click()
    expect(page.get_by_role("region", name="New").first).to_contain_text("pro")
    expect(page.get_by_role("region", name="Refused").first).to_contain_text("is not a date: 'soon'")
    expect(page.locator(".notice")).to_contain_text("よみ")
    assert own_site.producer.sent == []
    if javascript:
        assert violations(page) == []
    page.get_by_role("button", name="Apply exactly this").click()
    expect(page.get_by_role("status").first).to_have_text("Stored: 2 rows.")
    traits = {json.loads(value)["account_id"]: json.loads(value)["traits"] for _, value in own_site.producer.sent}
    assert traits[account]["renewal_on"] == "2027-01-31"
    assert traits["new"] == {"plan": "pro"}


def test_in_japanese(site: Site, open_page: Open) -> None:
    page = open_page(f"{site.url}/uploads", locale="ja-JP")
    expect(page.get_by_role("heading", name="アップロード")).to_be_visible()
    expect(page.get_by_role("button", name="変更内容を見る")).to_be_visible()
    assert violations(page) == []
