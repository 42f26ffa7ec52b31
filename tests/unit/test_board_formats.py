"""How values read on the board, in both languages."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from service.board import formats
from service.board.words import Words

EN, JA = Words("en"), Words("ja")
NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("amount", "currency", "english", "japanese"),
    [
        (Decimal("4200.0000"), "USD", "$4,200", "$4,200"),
        (Decimal("42.5"), "EUR", "€42.50", "€42.50"),
        (Decimal(420000), "JPY", "¥420,000", "￥420,000"),
        (Decimal(12), "USD", "$12", "$12"),
        (1999.6, None, "2,000", "2,000"),
        (None, "USD", "–", "–"),
        (Decimal(0), "USD", "$0", "$0"),
        (Decimal(7), "a currency nobody knows", "a currency nobody knows7", "a currency nobody knows7"),
    ],
)
def test_money(amount: Any, currency: str | None, english: str, japanese: str) -> None:
    assert (formats.money(amount, currency, EN), formats.money(amount, currency, JA)) == (english, japanese)


def test_large_money_is_shortened() -> None:
    assert formats.money_short(Decimal(1_234_567), "USD", EN) == "$1.2M"
    assert formats.money_short(Decimal(1_234_567), "JPY", JA) == "￥123.5万"
    assert formats.money_short(Decimal(9_999), "USD", EN) == "$9,999"


@pytest.mark.parametrize(
    ("passed", "english", "japanese"),
    [
        (timedelta(0), "just now", "たった今"),
        (timedelta(seconds=59), "just now", "たった今"),
        (timedelta(seconds=60), "1 min ago", "1分前"),
        (timedelta(minutes=59, seconds=59), "59 min ago", "59分前"),
        (timedelta(hours=23, minutes=59), "23 h ago", "23時間前"),
        (timedelta(days=1), "1 day ago", "1日前"),
        (timedelta(days=13, hours=23), "13 days ago", "13日前"),
        (-timedelta(seconds=5), "in a moment", "まもなく"),
        (-timedelta(minutes=5), "in 5 min", "5分後"),
        (-timedelta(hours=5), "in 5 h", "5時間後"),
        (-timedelta(days=1, hours=2), "in 1 day", "1日後"),
    ],
)
def test_relative_times_are_whole_units_rounded_down(passed: timedelta, english: str, japanese: str) -> None:
    assert formats.ago(NOW - passed, NOW, EN) == english
    assert formats.ago(NOW - passed, NOW, JA) == japanese


def test_days() -> None:
    today = date(2026, 5, 20)
    assert formats.days_until(date(2026, 5, 20), today, EN) == "today"
    assert formats.days_until(date(2026, 6, 19), today, EN) == "in 30 days"
    assert formats.days_until(date(2026, 5, 19), today, JA) == "1日前"
    assert formats.day(today, EN) == "May 20, 2026"
    assert formats.day(today, JA) == "2026/05/20"
    assert formats.absolute(NOW, EN).endswith("UTC")


def test_signed_points_carry_a_real_minus() -> None:
    assert [formats.signed(points) for points in (12.5, -8.0, 0.0, -0.04)] == ["+12.5", "−8", "0", "0"]


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (14.0, "days", "14 days"),
        (1.0, "days", "1 day"),
        (0.46, "fraction", "46%"),
        (-0.5, "change", "-50%"),
        (0.25, "change", "+25%"),
        (1200.0, "events", "1,200"),
        (True, "", "yes"),
        (None, "days", "unknown"),
        ("pro", "", "pro"),
    ],
)
def test_signal_values(value: Any, unit: str, expected: str) -> None:
    assert formats.value_of(value, unit, EN) == expected


def test_sparkline_spans_the_box_from_zero_to_the_largest() -> None:
    line = formats.sparkline([0, 5, 10], width=104, height=24)
    assert line.line == "M2.0 22.0L52.0 12.0L102.0 2.0"
    assert line.end == (102.0, 2.0)
    assert line.area.endswith("V24H2.0Z")


def test_sparkline_breaks_where_nothing_is_known() -> None:
    line = formats.sparkline([1, None, 2, 3])
    assert line.line.count("M") == 2
    assert formats.sparkline([None, None]).end is None
    assert formats.sparkline([]).line == ""
    assert formats.sparkline([0, 0]).line != ""
