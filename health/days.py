"""The days of accounts: where their dates begin by their time zone, and which are business days in their country. Pure.

A date is a whole number of days since 1970. Accounts without a known time zone live in UTC; without a known country
Monday to Friday are business days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo

import holidays
import numpy as np

from health.arrays import Bools, Ints, Texts
from health.instants import DAY, NEVER, Instants, to_us

_EPOCH = date(1970, 1, 1)
_SATURDAY = 5
_SPAN = 512
_YEARS = 4
_LAST = 84_000
"""A date in 2199: no event is later."""


@dataclass(frozen=True)
class Places:
    """Where accounts are: (A,) names of time zones and of countries that are known here."""

    zone: Texts
    country: Texts

    @classmethod
    def of(cls, zones: Texts, countries: Texts) -> Places:
        return cls(zone=_known(zones, known_zone), country=_known(countries, known_country))

    @cached_property
    def zones(self) -> tuple[list[str], Ints]:
        """The time zones, and the number of each account's among them. (A,)"""
        return _coded(self.zone)

    @cached_property
    def countries(self) -> tuple[list[str], Ints]:
        """The countries, and the number of each account's among them. (A,)"""
        return _coded(self.country)

    @cached_property
    def _by_zone(self) -> dict[str, Ints]:
        names, code = self.zones
        return {name: np.flatnonzero(code == number) for number, name in enumerate(names)}

    def dates(self, at: Instants, of: Ints | None = None) -> Ints:
        """The date of each instant by its account's zone; ``at`` (A, …), or (R, …) for rows ``of`` these accounts (R,).
        What lies at NEVER has no meaning."""
        names, code = self.zones
        found: Ints = at // DAY
        if not at.size or names == ["UTC"]:
            return found
        at = np.clip(np.where(at == NEVER, at.max(), at), 0, _LAST * DAY)
        first, last = int(at.min() // DAY) - 2, int(at.max() // DAY) + 2
        rows = self._by_zone if of is None else {name: np.flatnonzero(code[of] == n) for n, name in enumerate(names)}
        for zone, some in rows.items():
            if zone != "UTC":
                found[some] = first + np.searchsorted(borders(zone, first, last), at[some], "right") - 1
        return found

    def dates_at(self, instants: Instants) -> Ints:
        """The dates of the same instants (T,) for every account. (A, T)"""
        at = np.clip(instants, 0, _LAST * DAY)
        first, last = int(at.min() // DAY) - 2, int(at.max() // DAY) + 2
        names, code = self.zones
        found = [
            instants // DAY if zone == "UTC" else first + np.searchsorted(borders(zone, first, last), at, "right") - 1
            for zone in names
        ]
        return np.array(found, dtype=np.int64).reshape(len(names), len(at))[code]

    def next_midnight(self, now: int) -> Instants:
        """When each account's date changes next. (A,)."""
        names, code = self.zones
        ahead = [borders(zone, now // DAY - 1, now // DAY + 3) for zone in names]
        return np.array([own[np.searchsorted(own, now, "right")] for own in ahead], dtype=np.int64)[code]

    def midnights(self, first: int, last: int) -> Iterator[tuple[Ints, Instants]]:
        """All changes of date in (first, last], as (accounts, instants) pairs."""
        for zone, rows in self._by_zone.items():
            at = borders(zone, first // DAY - 1, last // DAY + 2)
            at = at[(at > first) & (at <= last)]
            yield np.repeat(rows, len(at)), np.tile(at, len(rows))

    def groups(self) -> Iterator[tuple[str, str, Ints]]:
        """(zone, country, accounts) for all that share both."""
        for zone, rows in self._by_zone.items():
            for country in dict.fromkeys(self.country[rows].tolist()):
                yield zone, country, rows[self.country[rows] == country]


def borders(zone: str, first: int, last: int) -> Instants:
    """When the dates ``first`` to ``last`` begin in a zone, ascending."""
    if zone == "UTC":
        return np.arange(first, last + 1, dtype=np.int64) * DAY
    begin, end = (_year_of(day) // _YEARS for day in (first, last))
    before = _year_begins(begin * _YEARS)
    return _borders(zone, begin, end)[first - before : last - before + 1]


@lru_cache(maxsize=256)
def _borders(zone: str, begin: int, end: int) -> Instants:
    """Of whole spans of years, so that few of them are kept."""
    return np.concatenate([_year_borders(zone, year) for year in range(begin * _YEARS, (end + 1) * _YEARS)])


def business(country: str, first: int, last: int) -> Bools:
    """Whether the dates ``first`` to ``last`` are business days in a country."""
    begin, end = _year_of(first), _year_of(last)
    before = _year_begins(begin)
    whole = np.concatenate([_year_business(country, year) for year in range(begin, end + 1)])
    return whole[first - before : last - before + 1]


def business_before(country: str, first: int, last: int) -> Ints:
    """How many business days lie before each of the dates ``first`` to ``last``, counted from some date on that is the
    same for all of them."""
    low, high = first - first % _SPAN, last + _SPAN - last % _SPAN
    return _sums(country, low, high)[first - low : last - low + 1]


@lru_cache(maxsize=1024)
def _sums(country: str, first: int, last: int) -> Ints:
    return np.append(0, np.cumsum(business(country, first, last - 1)))


def _year_of(day: int) -> int:
    return (_EPOCH + timedelta(days=day)).year


@lru_cache(maxsize=256)
def _year_begins(year: int) -> int:
    return (date(year, 1, 1) - _EPOCH).days


def _dates_of(year: int) -> list[date]:
    return [date(year, 1, 1) + timedelta(days=n) for n in range(_year_begins(year + 1) - _year_begins(year))]


@lru_cache(maxsize=2048)
def _year_borders(zone: str, year: int) -> Instants:
    # Where the clock is put forward at midnight, the date begins with the jump: fold 0 says so.
    place = ZoneInfo(zone)
    begins = [datetime(day.year, day.month, day.day, tzinfo=place).astimezone(UTC) for day in _dates_of(year)]
    return np.array([to_us(begin) for begin in begins], dtype=np.int64)


@lru_cache(maxsize=2048)
def _year_business(country: str, year: int) -> Bools:
    calendar = holidays.country_holidays(country, years=year) if country else None
    return np.array(
        [day.weekday() < _SATURDAY if calendar is None else calendar.is_working_day(day) for day in _dates_of(year)]
    )


@lru_cache(maxsize=4096)
def known_zone(name: str | None) -> str:
    """The name of a time zone of the IANA database as it is, else UTC."""
    try:
        ZoneInfo(name or "UTC")
    except (ValueError, OSError, LookupError):
        return "UTC"
    return name or "UTC"


@lru_cache(maxsize=4096)
def known_country(name: str | None) -> str:
    """A country's ISO 3166 code of two or three letters if its holidays are known, else ''."""
    code = (name or "").strip().upper()
    return code if code in _COUNTRIES else ""


_COUNTRIES = frozenset(holidays.list_supported_countries())


def _known(names: Texts, known: Callable[[str | None], str]) -> Texts:
    listed = names.tolist()
    found = {name: known(name) for name in dict.fromkeys(listed)}
    column = np.empty(len(listed), dtype=object)
    column[:] = list(map(found.__getitem__, listed))
    return column


def _coded(names: Texts) -> tuple[list[str], Ints]:
    listed = names.tolist()
    numbers = {name: number for number, name in enumerate(dict.fromkeys(listed))}
    return list(numbers), np.fromiter(map(numbers.__getitem__, listed), np.int64, len(listed))
