"""What a reader asked a list for: query parameters in, filters out, and back into links. Pure.

A value that cannot be read is not an error page: it is left out, and the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any, Protocol, Self, get_args
from urllib.parse import urlencode

from service.board.formats import BANDS
from service.board.words import Words
from service.queries import AlertFilter, RiskFilter, RiskSort

MAX_TEXT = 200
MAX_MONEY = Decimal(10) ** 14  # what the column holds
CENT_OF_A_CENT = Decimal("0.0001")
DEFAULT_SORT: RiskSort = "mrr_at_risk"
SORTS: tuple[RiskSort, ...] = get_args(RiskSort)
ALERT_TABS: Mapping[str, str] = {"open": "Open", "snoozed": "Snoozed", "closed": "Closed"}


class Parameters(Protocol):
    """A query string, as Starlette gives it."""

    def get(self, key: str, /) -> str | None: ...
    def getlist(self, key: str, /) -> list[str]: ...


def text_of(parameters: Parameters, name: str) -> str:
    """What was written there, trimmed and cut; empty when nothing was."""
    return (parameters.get(name) or "").replace("\0", "").strip()[:MAX_TEXT]


def link(path: str, values: Sequence[tuple[str, str]]) -> str:
    """The address with those that have a value."""
    kept = [(name, value) for name, value in values if value]
    return f"{path}?{urlencode(kept)}" if kept else path


@dataclass(frozen=True, kw_only=True)
class RiskForm:
    """The filters of the risk list as they were written, and what could not be read."""

    sort: RiskSort = DEFAULT_SORT
    bands: tuple[str, ...] = ()
    owner: str = ""
    rule: str = ""
    plan: str = ""
    min_mrr: str = ""
    renews_before: str = ""
    parent: str = ""
    text: str = ""
    cursor: str | None = None
    problems: tuple[str, ...] = ()

    @classmethod
    def read(cls, parameters: Parameters, words: Words) -> Self:
        problems: list[str] = []
        min_mrr, renews_before = text_of(parameters, "min_mrr"), text_of(parameters, "renews_before")
        if min_mrr and _money(min_mrr) is None:
            problems.append(words("“MRR from” is not an amount: write digits, such as 500."))
            min_mrr = ""
        if renews_before and read_date(renews_before) is None:
            problems.append(words("“Renews before” is not a date: write it as 2026-12-31."))
            renews_before = ""
        sort = next((known for known in SORTS if known == parameters.get("sort")), DEFAULT_SORT)
        return cls(
            sort=sort,
            bands=tuple(band for band in BANDS if band in parameters.getlist("band")),
            owner=text_of(parameters, "owner"),
            rule=text_of(parameters, "rule"),
            plan=text_of(parameters, "plan"),
            min_mrr=min_mrr,
            renews_before=renews_before,
            parent=text_of(parameters, "parent"),
            text=text_of(parameters, "q"),
            cursor=parameters.get("cursor") or None,
            problems=tuple(problems),
        )

    @property
    def narrowed(self) -> bool:
        """Whether one of the filters is set that a small screen folds away."""
        return any((self.owner, self.rule, self.plan, self.min_mrr, self.renews_before, self.parent))

    @property
    def where(self) -> RiskFilter:
        return RiskFilter(
            bands=self.bands,
            owners=(self.owner,) if self.owner else (),
            rules=(self.rule,) if self.rule else (),
            plans=(self.plan,) if self.plan else (),
            min_mrr=_money(self.min_mrr),
            renews_before=read_date(self.renews_before),
            parent=self.parent or None,
            text=self.text or None,
        )

    def url(self, **changes: Any) -> str:
        """The list with these changes, all else as it is."""
        form = replace(self, **changes)
        return link(
            "/",
            [
                ("sort", form.sort if form.sort != DEFAULT_SORT else ""),
                *(("band", band) for band in form.bands),
                ("owner", form.owner),
                ("rule", form.rule),
                ("plan", form.plan),
                ("min_mrr", form.min_mrr),
                ("renews_before", form.renews_before),
                ("parent", form.parent),
                ("q", form.text),
                ("cursor", form.cursor or ""),
            ],
        )


@dataclass(frozen=True, kw_only=True)
class AlertForm:
    """The tab and the filters of the alerts page."""

    state: str = "open"
    owner: str = ""
    rule: str = ""
    account: str = ""
    cursor: str | None = None

    @classmethod
    def read(cls, parameters: Parameters) -> Self:
        state = parameters.get("state") or "open"
        return cls(
            state=state if state in ALERT_TABS else "open",
            owner=text_of(parameters, "owner"),
            rule=text_of(parameters, "rule"),
            account=text_of(parameters, "account"),
            cursor=parameters.get("cursor") or None,
        )

    @property
    def where(self) -> AlertFilter:
        closed = self.state == "closed"
        return AlertFilter(
            states=("resolved", "withdrawn") if closed else ("open",),
            snoozed=None if closed else self.state == "snoozed",
            rules=(self.rule,) if self.rule else (),
            owners=(self.owner,) if self.owner else (),
            account_id=self.account or None,
        )

    def url(self, **changes: Any) -> str:
        form = replace(self, **changes)
        return link(
            "/alerts",
            [
                ("state", form.state if form.state != "open" else ""),
                ("owner", form.owner),
                ("rule", form.rule),
                ("account", form.account),
                ("cursor", form.cursor or ""),
            ],
        )


def _money(text: str) -> Decimal | None:
    try:
        amount = Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
    if not amount.is_finite() or not 0 <= amount < MAX_MONEY:
        return None
    # Exact for what the column holds, and the database takes no number with a million decimals.
    return amount.quantize(CENT_OF_A_CENT, rounding=ROUND_CEILING)


def read_date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def own_path(path: str | None) -> str:
    """``path`` when it is one of the board's own, else the front page: a link must not lead anywhere else."""
    if path and path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable():
        return path
    return "/"
