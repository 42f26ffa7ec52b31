"""Templates and the page that they draw on: one reader, one language, one instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from service.board import formats, measures
from service.board.assets import Asset
from service.board.session import Session
from service.board.words import LANGUAGES, Language, Words

TEMPLATES = Path(__file__).resolve().parent / "templates"


def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals["languages"] = LANGUAGES
    return made


def account_url(account_id: str) -> str:
    return f"/accounts/{quote(account_id, safe='')}"


@dataclass(frozen=True, kw_only=True)
class Page:
    """What every template may call; ``here`` is the page's own path, ``form_token`` what its forms bring back."""

    words: Words
    now: datetime
    session: Session | None
    form_token: str
    here: str
    assets: Mapping[str, Asset]
    languages: Mapping[Language, str]

    @property
    def language(self) -> Language:
        return self.words.language

    @property
    def may_write(self) -> bool:
        return self.session is not None and self.session.may_write

    def asset(self, name: str) -> str:
        return f"/static/{self.assets[name].served_as}"

    account_url = staticmethod(account_url)
    signed = staticmethod(formats.signed)

    def say(self, english: str, /, **values: object) -> Markup:
        """A sentence with marked-up values in it; what is not marked up is escaped."""
        return Markup(self.words(english)).format(**values)  # noqa: S704 - wording is ours, format escapes the rest

    def when(self, at: datetime) -> Markup:
        """Relative, with the instant itself for hovering, for scripts and for screen readers."""
        return Markup('<time datetime="{}" title="{}">{}</time>').format(
            at.isoformat(timespec="seconds"), formats.absolute(at, self.words), formats.ago(at, self.now, self.words)
        )

    def date_of(self, at: datetime) -> Markup:
        return Markup('<time datetime="{}" title="{}">{}</time>').format(
            at.isoformat(timespec="seconds"), formats.absolute(at, self.words), formats.day(at.date(), self.words)
        )

    def wake_day(self, at: datetime) -> Markup:
        """The day of a snooze's end: scripts put that of the reader's own zone in its place."""
        return Markup('<time datetime="{}" title="{}" data-local-day>{}</time>').format(
            at.isoformat(timespec="seconds"), formats.absolute(at, self.words), formats.day(at.date(), self.words)
        )

    def day(self, value: date) -> str:
        return formats.day(value, self.words)

    def day_relative(self, value: date) -> Markup:
        return Markup('<time datetime="{}">{}</time> <span class="small muted">{}</span>').format(
            value.isoformat(), self.day(value), formats.days_until(value, self.now.date(), self.words)
        )

    def money(self, amount: Decimal | float | None, currency: str | None) -> str:
        return formats.money(amount, currency, self.words)

    def money_short(self, amount: Decimal | float | None, currency: str | None) -> str:
        return formats.money_short(amount, currency, self.words)

    def number(self, value: float | None, digits: int = 1) -> str:
        return formats.number(value, self.words, digits=digits)

    def percent(self, share: float) -> str:
        return formats.percent(float(share), self.words)

    def band_name(self, band: str | None) -> str:
        return self.words(formats.BANDS.get(band or "", "Unknown"))

    def severity_name(self, severity: str) -> str:
        return self.words(formats.SEVERITIES.get(severity, severity))

    def status_name(self, status: str) -> str:
        return self.words(measures.STATUSES[status]) if status in measures.STATUSES else status

    def localised(self, text: Any) -> str:
        return measures.localised(text, self.words)
