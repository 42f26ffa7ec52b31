"""The rows of ``health/facts_queries.py`` as columns: Postgres' binary form (``int8send``, ``timestamptz_send``,
``array_send``), which numpy takes as it is. Decoding value by value would cost more than all the signals.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache
from itertools import repeat
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from health.arrays import Bools, Floats, Ints, Texts
from health.columns import (
    HISTORY_NUMBERS,
    NUMBER_ATTRIBUTES,
    TEXT_ATTRIBUTES,
    ActiveDays,
    Children,
    FeatureDays,
    Features,
    Goals,
    History,
    Records,
    Sessions,
    Surveys,
    Users,
)
from health.custom import CustomSignal
from health.facts_queries import KEPT_ATTRIBUTES, KINDS, MOST_STATUSES, STATUSES, Row
from health.facts_wanted import Wanted
from health.goals import Target, comparable, target_of
from health.instants import DAY, NEVER, Instants

_PG_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01: binary timestamps count from there
_PG_EPOCH: Final = date(2000, 1, 1)
_PG_EPOCH_DAYS: Final = (_PG_EPOCH - date(1970, 1, 1)).days
_MONTH_DAYS: Final = 31
_ARRAY_BYTES: Final = 20 + _MONTH_DAYS * 12  # header, then length and int64 per element
_NUMBERED: Final = np.array(HISTORY_NUMBERS, dtype=object)
_APART: Final = np.uint64(0x9E37_79B9_7F4A_7C15)

NOTHING: Final[Row] = defaultdict(lambda: None)
"""The row of a part that was not asked for."""


class Piece(NamedTuple):
    """Of a month the days within a span: its number among the months, its days there, and their days in the span."""

    month: int
    own: slice
    days: slice


@dataclass(frozen=True)
class Span:
    """The days of day arrays. Months and days are days since 2000-01-01."""

    first: int
    days: int

    @classmethod
    def until(cls, today: date, days: int) -> Span:
        return cls((today - _PG_EPOCH).days - days + 1, days)

    @property
    def last(self) -> int:
        return self.first + self.days - 1

    @cached_property
    def months(self) -> tuple[Ints, Sequence[Piece]]:
        """The months that have days in the span, and which."""
        return _months(self)

    def grid(self, row: Ints, month: Ints, values: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
        """Months of counts as one day array per ``row``: ``values`` (N, 31) of the months ``month``."""
        firsts, pieces = self.months
        number = self._number(month)
        kept = number >= 0
        if not kept.all():
            row, number, values = row[kept], number[kept], values[kept]
        whole = np.zeros((len(firsts), rows, _MONTH_DAYS), dtype=np.int64)
        whole[number, row] = values
        grid = np.zeros((rows, self.days), dtype=np.int64)
        for piece in pieces:
            if (number == piece.month).any():
                grid[:, piece.days] = whole[piece.month, :, piece.own]
        return grid

    def marks(self, row: Ints, month: Ints, bits: npt.NDArray[np.uint32], rows: int) -> Bools:
        """Months of marks as one day array per ``row``: bit d - 1 of ``bits`` (N,) stands for day d."""
        firsts, pieces = self.months
        number = self._number(month)
        kept = number >= 0
        words = np.zeros((rows, len(firsts)), dtype="<u4")
        words[row[kept], number[kept]] = bits[kept]
        every = _unpacked(words.reshape(-1)).reshape(rows, len(firsts), 32)
        return np.concatenate([every[:, piece.month, piece.own] for piece in pieces], axis=1)

    def _number(self, month: Ints) -> Ints:
        """Which of its months each is; -1: none."""
        firsts, _ = self.months
        number = np.searchsorted(firsts, month)
        return np.where(np.append(firsts, -1)[number] == month, number, -1)


@lru_cache(64)
def _months(span: Span) -> tuple[Ints, Sequence[Piece]]:
    firsts: list[int] = []
    pieces: list[Piece] = []
    begin = span.first
    while begin <= span.last:
        day = date.fromordinal(_PG_EPOCH.toordinal() + begin)
        end = min(begin - day.day + _length(day), span.last)
        firsts.append(begin - day.day + 1)
        own = slice(day.day - 1, day.day + end - begin)
        pieces.append(Piece(len(pieces), own, slice(begin - span.first, end + 1 - span.first)))
        begin = end + 1
    return np.array(firsts, dtype=np.int64), pieces


def _length(day: date) -> int:
    """Days of its month."""
    following = date(day.year + day.month // 12, day.month % 12 + 1, 1)
    return (following - day.replace(day=1)).days


def within(month: Ints, span: Span) -> Bools:
    """Which months were sent with their counts, as ``facts_queries`` asks for them."""
    return (month >= span.first - 30) & (month <= span.last)


def _unpacked(words: npt.NDArray[np.uint32]) -> Bools:
    """(N, 32): the bits of each word, the lowest first."""
    octets = np.ascontiguousarray(words, dtype="<u4").view(np.uint8)
    return np.unpackbits(octets, bitorder="little").view(np.bool_).reshape(-1, 32)


def _int32(value: bytes | None) -> Ints:
    return np.frombuffer(value or b"", dtype=">i4").astype(np.int64)


def _bits(value: bytes | None) -> npt.NDArray[np.uint32]:
    return np.frombuffer(value or b"", dtype=">u4").astype(np.uint32)


def _int64(value: bytes | None) -> Ints:
    return np.frombuffer(value or b"", dtype=">i8").astype(np.int64)


def _float64(value: bytes | None) -> Floats:
    return np.frombuffer(value or b"", dtype=">f8").astype(np.float64)


def _time(value: bytes | None) -> Instants:
    """Binary timestamps count from 2000-01-01; the least is -infinity, which stands for none."""
    at = _int64(value)
    return np.where(at == NEVER, NEVER, at + _PG_EPOCH_US)


def _object(values: Sequence[Any] | None) -> Texts:
    values = values or ()
    return np.fromiter(values, dtype=object, count=len(values))


def _dates(values: Iterable[str | None], size: int) -> Instants:
    return np.fromiter(map(_date, values), np.int64, size)


@lru_cache(maxsize=8192)
def _date(value: str | None) -> int:
    """00:00 UTC of an ISO date; NEVER for none and for what is not a date."""
    if value is None:
        return NEVER
    try:
        return (date.fromisoformat(value[:10]) - date(1970, 1, 1)).days * DAY
    except ValueError:
        return NEVER


def _number(value: str | None) -> float:
    """A number from a trait; NaN for none and for what is not a number."""
    try:
        return math.nan if value is None else float(value)
    except ValueError:
        return math.nan


def _numbers(values: Sequence[str | None] | None) -> Floats:
    values = values or ()
    try:
        return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)
    except ValueError:
        return np.array([_number(value) for value in values], dtype=np.float64)


def _day_arrays(value: bytes | None) -> npt.NDArray[Any]:
    """(N, 31) from arrays as ``array_send`` writes them: a header, then 4 bytes of length and 8 of value per
    element."""
    raw = value or b""
    if len(raw) % _ARRAY_BYTES:
        raise ValueError(f"a day array does not hold {_MONTH_DAYS} numbers; rebuild account_months from the events")
    shape, strides = (len(raw) // _ARRAY_BYTES, _MONTH_DAYS), (_ARRAY_BYTES, 12)
    return np.ndarray(shape, dtype=">i8", buffer=raw, offset=24 if raw else 0, strides=strides)


def _ascending(key: Ints) -> Ints | slice:
    """What puts rows into the order of their ``key``, the same ones as they came: nothing to do, mostly."""
    return slice(None) if (key[1:] >= key[:-1]).all() else np.argsort(key, kind="stable")


def account_columns(row: Row) -> dict[str, Any]:
    place = _int32(row["place"])
    order = _ascending(place)
    times = {
        name: _time(row[name])[order]
        for name in (
            "started_at",
            "first_event_at",
            "created_at",
            "last_login_at",
            "last_activity_at",
            "last_contact_at",
        )
    }
    start = times.pop("started_at")
    for otherwise in (times.pop("first_event_at"), times.pop("created_at")):
        start = np.where(start == NEVER, otherwise, start)
    return {
        **times,
        "start": start,
        "numbers": {name: _numbers(row[name])[order] for name in NUMBER_ATTRIBUTES},
        "texts": {name: _object(row[name])[order] for name in TEXT_ATTRIBUTES},
        "renewal_at": _dates(row["renewal_on"] or (), len(place))[order],
    }


def day_columns(row: Row, size: int, span: Span, wanted: Wanted) -> dict[str, Any]:
    place, month = _int32(row["place"]), _int32(row["month"])
    sent, columns = within(month, span), dict[str, Any]()
    for name, is_wanted in (("logins", wanted.logins), ("events", wanted.events)):
        chosen = sent if is_wanted else np.zeros_like(sent)
        columns[name] = span.grid(place[chosen], month[chosen], _day_arrays(row[name] if is_wanted else None), size)
    columns["active"] = span.marks(place, month, _bits(row["active"]), size)
    return columns


def active_days(row: Row, first: date) -> ActiveDays:
    """Of the months from ``first`` on."""
    account, day = months_as_days(row)
    kept = day >= (first - date(1970, 1, 1)).days
    return ActiveDays(account=account[kept], day=day[kept])


def months_as_days(row: Row) -> tuple[Ints, Ints]:
    """(account, day since 1970) of rows of months, ascending: a row per account and active day."""
    place, first = _int32(row["place"]), _int32(row["month"])
    order = _ascending((place << 32) + first)
    place, first = place[order], first[order] + _PG_EPOCH_DAYS
    marked = np.flatnonzero(_unpacked(_bits(row["active"])[order] & np.uint32(2**_MONTH_DAYS - 1)))
    month = marked >> 5
    return place[month], first[month] + (marked & 31)


def users(row: Row, span: Span) -> Users:
    """Users are told apart by 64 bits of their id within the account."""
    account, _, active = _rows_of_months(row, _int64(row["user_hash"]), span)
    return Users(account=account, active=active)


def _rows_of_months(row: Row, key: Ints, span: Span) -> tuple[Ints, Ints, Bools]:
    """Month rows as one row per account and ``key``, ascending by account: (account, key, active)."""
    place = _int32(row["place"])
    both = key.view(np.uint64) ^ (place.astype(np.uint64) * _APART)
    order = np.argsort(both)
    both = both[order]
    first = np.ones(len(order), dtype=np.bool_)
    np.not_equal(both[1:], both[:-1], out=first[1:])
    found = order[first]
    by_account = np.argsort(place[found], kind="stable")
    rank = np.empty(len(found), dtype=np.int64)
    rank[by_account] = np.arange(len(found))
    number = np.empty(len(order), dtype=np.int64)
    number[order] = rank[np.cumsum(first) - 1]
    active = span.marks(number, _int32(row["month"]), _bits(row["active"]), len(found))
    found = found[by_account]
    return place[found], key[found], active


def feature_hashes(row: Row) -> list[int]:
    """Each once."""
    hashes: list[int] = np.unique(_int64(row["feature_hash"])).tolist()
    return hashes


def feature_days(row: Row, span: Span, names: Mapping[int, str]) -> FeatureDays:
    """``names`` of the hashes; one whose rows have gone since they were read has none."""
    account, key, active = _rows_of_months(row, _int64(row["feature_hash"]), span)
    name = np.fromiter(map(names.get, key.tolist()), dtype=object, count=len(key))
    return FeatureDays(account=account, name=name, active=active)


def features(row: Row) -> Features:
    place = _int32(row["place"])
    order = _ascending(place)
    return Features(
        account=place[order],
        name=_object(row["name"])[order],
        first_at=_time(row["first_at"])[order],
        last_at=_time(row["last_at"])[order],
    )


def records(row: Row, custom: Mapping[str, CustomSignal]) -> dict[str, Any]:
    """Tickets, payments, milestones and goals, as ``Facts`` calls them."""
    place, kind = _int32(row["place"]), _int32(row["kind"])
    order = np.lexsort((place, kind))
    status = row["status"] or ()
    at = np.stack([_int64(row[f"at_{n}"]) for n in range(MOST_STATUSES)])
    # The status that stands may have been taken once more than its own register tells.
    taken = np.fromiter(map(_NUMBER_OF.get, zip(kind.tolist(), status, strict=True), repeat(-1)), np.int64, len(status))
    stands = np.flatnonzero(taken >= 0)
    at[taken[stands], stands] = np.maximum(at[taken[stands], stands], _int64(row["status_at"])[stands])
    first_at, due_at = _time(row["first_at"]), _dates(row["due_on"] or (), len(status))
    texts = _object(status)
    edges = np.searchsorted(kind[order], np.arange(len(KINDS) + 1)).tolist()
    found: dict[str, Records] = {}
    for number, name in enumerate(KINDS):
        chosen = order[edges[number] : edges[number + 1]]
        found[f"{name}s"] = Records(
            account=place[chosen],
            status=texts[chosen],
            first_at=first_at[chosen],
            due_at=due_at[chosen],
            status_at={status: at[n, chosen] for n, status in enumerate(STATUSES[name])},
        )
    return found | {"goals": _goals(row, found["goals"], np.argsort(place[kind == _GOAL], kind="stable"), custom)}


_GOAL: Final = KINDS.index("goal")
_NUMBER_OF: Final = {
    (kind, status): number for kind, statuses in enumerate(STATUSES.values()) for number, status in enumerate(statuses)
}


def _goals(row: Row, goals: Records, order: Ints, custom: Mapping[str, CustomSignal]) -> Goals:
    """``order`` puts the columns of goals alone into that of ``goals``."""
    named = list(zip(row["signal"] or (), row["target"] or (), strict=True))
    found = {each: _measure(*each, custom) for each in set(named)}
    measured = [found[each] for each in named]
    return Goals(
        **vars(goals),
        name=_object(row["name"])[order],
        signal=_object([each and each[0] for each in measured])[order],
        target=np.array([math.nan if each is None else each[1].value for each in measured], dtype=np.float64)[order],
        at_most=np.array([each is not None and each[1].at_most for each in measured], dtype=np.bool_)[order],
    )


def _measure(signal: str | None, target: str | None, custom: Mapping[str, CustomSignal]) -> tuple[str, Target] | None:
    """What a goal is measured by, None for nothing."""
    ref, wanted = comparable(signal, custom), target_of(target)
    return None if ref is None or wanted is None else (str(ref), wanted)


def surveys(row: Row) -> Surveys:
    place, at = _int32(row["place"]), _time(row["at"])
    order = np.lexsort((at, place))
    return Surveys(
        account=place[order], at=at[order], nps=_float64(row["nps"])[order], csat=_float64(row["csat"])[order]
    )


def sessions(row: Row) -> Sessions:
    place, at = _int32(row["place"]), _time(row["first_at"])
    order = np.lexsort((at, place))
    return Sessions(account=place[order], at=at[order])


def numbers(row: Row) -> History:
    """Of several values of the same instant the one with the greatest event key, by bytes."""
    place, at, number = _int32(row["place"]), _time(row["valid_from"]), _int32(row["attribute"])
    order = np.lexsort((number, at, place))
    sorted_by = np.stack((place, at, number))[:, order]
    if (sorted_by[:, 1:] == sorted_by[:, :-1]).all(axis=0).any():
        keys = [key.encode() for key in row["event_key"] or ()]
        newest = {(place[n], at[n], number[n]): n for n in sorted(range(len(keys)), key=keys.__getitem__)}
        order = np.array([newest[same] for same in sorted(newest)], dtype=np.int64)
    value = _numbers(row["value"])[order]
    return History(account=place[order], attribute=_NUMBERED[number[order]], at=at[order], value=value)


def children(row: Row) -> Children:
    return Children.of(_int32(row["place"]).tolist(), list(map(msgspec.json.decode, row["told"] or ())))


def known_from(row: Row, size: int) -> dict[str, Instants]:
    place, attribute, valid_from = _int32(row["place"]), _object(row["attribute"]), _time(row["valid_from"])
    known: dict[str, Instants] = {}
    for name in KEPT_ATTRIBUTES:
        known[name] = np.full(size, NEVER, dtype=np.int64)
        chosen = attribute == name
        known[name][place[chosen]] = valid_from[chosen]
    return known


class Announced(NamedTuple):
    """A value of the history that takes effect ``at``, was ``said_at`` (None: then), of an account that ``ended_us``
    (None: not)."""

    place: int
    attribute: str
    value: str | None
    at: int
    said_at: int | None
    ended_us: int | None


def announced(row: Row, columns: Mapping[str, Any], now_us: int) -> dict[str, Instants]:
    """Puts what has taken effect by now into ``columns``; returns when the next of each attribute will.

    An end voids what was announced before it was said, for a later day: who renewed for July and left in June does not
    come back in July.
    """
    rows = [Announced(*values) for values in msgspec.json.decode(row["rows"] or "[]")]
    ends = [
        (row.place, row.at, row.said_at)
        for row in rows
        if row.attribute == "status" and row.value == "ended" and row.said_at is not None
    ]
    ends += {(row.place, row.ended_us, row.ended_us) for row in rows if row.ended_us is not None}
    following: dict[str, Instants] = {}
    for told in rows:
        said = told.at if told.said_at is None else told.said_at
        if any(place == told.place and ended <= told.at and said < end_said for place, ended, end_said in ends):
            continue
        if told.at <= now_us:
            _take_effect(columns, told)
            continue
        found = following.setdefault(told.attribute, np.full(len(columns["start"]), NEVER, dtype=np.int64))
        if found[told.place] == NEVER:  # rows come in the order of their day
            found[told.place] = told.at
    return following


def _take_effect(columns: Mapping[str, Any], told: Announced) -> None:
    if told.attribute == "renewal_on":
        columns["renewal_at"][told.place] = _date(told.value)
    elif told.attribute in columns["numbers"]:
        columns["numbers"][told.attribute][told.place] = _number(told.value)
    else:
        columns["texts"][told.attribute][told.place] = told.value
