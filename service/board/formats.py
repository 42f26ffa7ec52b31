"""How values read on the board: money, times, bands, sparklines. Pure; each takes the page's :class:`Words`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from babel.dates import format_date, format_datetime
from babel.numbers import format_compact_currency, format_currency, format_decimal, format_percent

from service.board.words import Words

NOTHING = "–"
MINUTE, HOUR, DAY = 60, 3600, 86400
CENTS_BELOW = 100  # a small amount shows its cents, a large one would only be harder to read
SHORTENED_FROM = 10_000

BANDS = {"red": "At risk", "yellow": "Watch", "green": "Healthy"}
SEVERITIES = {"critical": "Critical", "warning": "Warning", "info": "Info"}
OUTCOMES = {
    "saved": "Saved",
    "churned": "Churned",
    "false_alarm": "False alarm",
    "expected": "Expected, no action needed",
    "no_answer": "No answer",
}


def money(amount: Decimal | float | None, currency: str | None, words: Words) -> str:
    """``$4,200``; without a currency only the number."""
    if amount is None:
        return NOTHING
    exact = Decimal(str(amount))
    digits = 2 if 0 < abs(exact) < CENTS_BELOW and exact != int(exact) else 0
    rounded = round(exact, digits)
    if not currency:
        return format_decimal(rounded, locale=words.language)
    pattern = "¤#,##0.00" if digits else "¤#,##0"
    return format_currency(rounded, currency, format=pattern, locale=words.language, currency_digits=False)


def money_short(amount: Decimal | float | None, currency: str | None, words: Words) -> str:
    """``$1.2M`` for the large figures on top of a page."""
    if amount is None or not currency or abs(Decimal(str(amount))) < SHORTENED_FROM:
        return money(amount, currency, words)
    return format_compact_currency(Decimal(str(amount)), currency, locale=words.language, fraction_digits=1)


def number(value: float | Decimal | None, words: Words, *, digits: int = 1) -> str:
    """Up to ``digits`` decimals, none when whole."""
    if value is None:
        return NOTHING
    return format_decimal(round(Decimal(str(value)), digits).normalize() + 0, locale=words.language)


def percent(share: float | None, words: Words) -> str:
    return NOTHING if share is None else format_percent(share, locale=words.language)


def signed(points: float) -> str:
    """``+12.5`` or ``−8``, with a real minus sign."""
    text = f"{abs(points):.1f}".removesuffix(".0")
    if text == "0":
        return "0"
    return f"+{text}" if points > 0 else f"−{text}"


def ago(at: datetime, now: datetime, words: Words) -> str:
    """``3 h ago`` or ``in 12 days``; whole units, rounded down."""
    seconds = int((now - at).total_seconds())
    past, size = seconds >= 0, abs(seconds)
    if size < MINUTE:
        return words("just now") if past else words("in a moment")
    if size < HOUR:
        one, many, n = (
            ("{n} min ago", "{n} min ago", size // MINUTE) if past else ("in {n} min", "in {n} min", size // MINUTE)
        )
    elif size < DAY:
        one, many, n = ("{n} h ago", "{n} h ago", size // HOUR) if past else ("in {n} h", "in {n} h", size // HOUR)
    else:
        n = size // DAY
        one, many = ("{n} day ago", "{n} days ago") if past else ("in {n} day", "in {n} days")
    return words.count(one, many, n)


def days_until(day: date, today: date, words: Words) -> str:
    """``today``, ``in 30 days`` or ``5 days ago``."""
    n = (day - today).days
    if n == 0:
        return words("today")
    if n > 0:
        return words.count("in {n} day", "in {n} days", n)
    return words.count("{n} day ago", "{n} days ago", -n)


def absolute(at: datetime, words: Words) -> str:
    """Date and time in UTC, said so."""
    return f"{format_datetime(at, 'medium', locale=words.language)} UTC"


def day(value: date, words: Words) -> str:
    return format_date(value, "medium", locale=words.language)


@dataclass(frozen=True, kw_only=True)
class Sparkline:
    """Paths for an SVG of ``width`` by ``height``: a line, the area below it, and where it ends."""

    width: int
    height: int
    line: str
    area: str
    end: tuple[float, float] | None


def sparkline(
    values: Sequence[float | None], *, width: int = 112, height: int = 28, top: float | None = None
) -> Sparkline:
    """A line through ``values``, oldest first, from zero to ``top`` (else the largest); None leaves a hole."""
    pad = 2.0
    ceiling = max(top or 0.0, max((v for v in values if v is not None), default=0.0)) or 1.0
    step = (width - 2 * pad) / max(len(values) - 1, 1)
    runs: list[list[tuple[float, float]]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(
                (round(pad + index * step, 1), round(height - pad - value / ceiling * (height - 2 * pad), 1))
            )
    drawn = [run for run in runs if run]
    line = "".join(_path(run) for run in drawn)
    area = "".join(f"{_path(run)}V{height}H{run[0][0]}Z" for run in drawn if len(run) > 1)
    return Sparkline(width=width, height=height, line=line, area=area, end=drawn[-1][-1] if drawn else None)


def _path(points: Sequence[tuple[float, float]]) -> str:
    (x, y), *rest = points
    return f"M{x} {y}" + "".join(f"L{px} {py}" for px, py in rest)


def value_of(value: Any, unit: str | None, words: Words) -> str:
    """A signal's value with its unit (of the catalogue), as a person would write it."""
    if value is None:
        return words("unknown")
    if isinstance(value, bool) or (unit == "boolean" and value in {0, 1}):
        return words("yes") if value else words("no")
    if isinstance(value, (int, float)):
        if unit == "days":
            return words.count("{n} day", "{n} days", round(value))
        if unit == "fraction":
            return percent(float(value), words)
        if unit == "change":
            return ("+" if value > 0 else "") + percent(float(value), words)
        return number(value, words)
    return str(value)
