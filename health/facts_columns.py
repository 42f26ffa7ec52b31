"""The rows of ``health/facts_queries.py`` as columns: Postgres' binary form (``int8send``, ``timestamptz_send``,
``array_send``), which numpy takes as it is. Decoding value by value would cost more than all the signals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import RowMapping

from health.arrays import Bools, Floats, Ints, Texts
from health.columns import (
    HISTORY_NUMBERS,
    NUMBER_ATTRIBUTES,
    TEXT_ATTRIBUTES,
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
from health.facts_queries import KEPT_ATTRIBUTES, STATUSES
from health.goals import comparable, target_of
from health.instants import DAY, NEVER, Instants, to_us

Row = RowMapping | Mapping[str, Any]

_NUMBERED: Final = np.array(sorted(HISTORY_NUMBERS))
_PG_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01: binary timestamps count from there
_PG_EPOCH: Final = date(2000, 1, 1)
_MONTH_DAYS: Final = 31
_ARRAY_BYTES: Final = 20 + _MONTH_DAYS * 12  # header, then length and int64 per element


@dataclass(frozen=True, kw_only=True)
class Span:
    """The days of the arrays."""

    first_day: date
    days: int

    def scatter(self, row: Ints, month: Ints, values: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
        """Month rows as one day array per ``row``: ``values`` (N, 31) of months given as days since 2000-01-01."""
        begin = month - (self.first_day - _PG_EPOCH).days
        day = begin[:, None] + np.arange(_MONTH_DAYS)
        months = (np.datetime64(_PG_EPOCH) + month.astype("timedelta64[D]")).astype("datetime64[M]")
        length = ((months + 1).astype("datetime64[D]") - months.astype("datetime64[D]")).astype(np.int64)
        inside = (day >= 0) & (day < self.days) & (np.arange(_MONTH_DAYS) < length[:, None])
        grid = np.zeros((rows, self.days), dtype=values.dtype)
        grid[np.broadcast_to(row[:, None], day.shape)[inside], day[inside]] = values[inside]
        return grid


def _int32(value: bytes | None) -> Ints:
    return np.frombuffer(value or b"", dtype=">i4").astype(np.int64)


def _int64(value: bytes | None) -> Ints:
    return np.frombuffer(value or b"", dtype=">i8").astype(np.int64)


def _float64(value: bytes | None) -> Floats:
    return np.frombuffer(value or b"", dtype=">f8").astype(np.float64)


def _time(value: bytes | None) -> Instants:
    """Binary timestamps count from 2000-01-01; the least is -infinity, which stands for none."""
    at = _int64(value)
    return np.where(at == NEVER, NEVER, at + _PG_EPOCH_US)


def _object(values: Sequence[Any] | None) -> Texts:
    column = np.empty(len(values or ()), dtype=object)
    column[:] = list(values or ())
    return column


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
    if value is None:
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan


def _day_arrays(value: bytes | None) -> Ints:
    """(N, 31) from arrays as ``array_send`` writes them: a header, then 4 bytes of length and 8 of value per
    element."""
    raw = np.frombuffer(value or b"", dtype=np.uint8)
    if len(raw) % _ARRAY_BYTES:
        raise ValueError(f"a day array does not hold {_MONTH_DAYS} numbers; rebuild account_months from the events")
    elements = raw.reshape(-1, _ARRAY_BYTES)[:, 20:].reshape(-1, _MONTH_DAYS, 12)[:, :, 4:]
    return np.ascontiguousarray(elements).view(">i8")[:, :, 0].astype(np.int64)


def _bits(value: bytes | None) -> Bools:
    """(N, 31) from masks whose bit d - 1 stands for day d."""
    return ((_int32(value)[:, None] >> np.arange(_MONTH_DAYS)) & 1).astype(np.bool_)


def account_columns(row: Row) -> dict[str, Any]:
    order = np.argsort(_int32(row["place"]))
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
    renewal = np.array([_date(value) for value in row["renewal_on"] or ()], dtype=np.int64)
    return {
        **times,
        "start": start,
        "numbers": {name: np.array([_number(v) for v in row[name] or ()])[order] for name in NUMBER_ATTRIBUTES},
        "texts": {name: _object(row[name])[order] for name in TEXT_ATTRIBUTES},
        "renewal_at": renewal[order],
    }


def day_columns(row: Row, size: int, span: Span) -> dict[str, Any]:
    place, month = _int32(row["place"]), _int32(row["month"])
    return {
        "logins": span.scatter(place, month, _day_arrays(row["logins"]), size),
        "events": span.scatter(place, month, _day_arrays(row["events"]), size),
        "active": span.scatter(place, month, _bits(row["active"]), size),
    }


def months_as_days(row: Row) -> tuple[Ints, Ints]:
    """(account, day since 1970) of the row of DAYS_OF_MONTHS, ascending: a row per account and active day."""
    place, first = _int32(row["place"]), _int32(row["month"])
    order = np.lexsort((first, place))
    place, first = place[order], first[order] + (_PG_EPOCH - date(1970, 1, 1)).days
    bits = _int32(row["active"])[order].astype(np.uint32)
    month, place_in_month = np.nonzero((bits[:, None] >> np.arange(_MONTH_DAYS, dtype=np.uint32)) & 1)
    return place[month], first[month] + place_in_month


def users(row: Row, span: Span) -> Users:
    """Users are told apart by 64 bits of their id within the account."""
    account, _, active = _rows_of_months(row, _int64(row["user_hash"]), span)
    return Users(account=account, active=active)


def _rows_of_months(row: Row, key: Ints, span: Span) -> tuple[Ints, Ints, Bools]:
    """Month rows as one row per account and ``key``, ascending: (account, key, active)."""
    place = _int32(row["place"])
    order = np.lexsort((key, place))
    place, key = place[order], key[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (place[1:] != place[:-1]) | (key[1:] != key[:-1])
    number = np.cumsum(first) - 1
    active = span.scatter(number, _int32(row["month"])[order], _bits(row["active"])[order], int(first.sum()))
    return place[first], key[first], active


def feature_days(row: Row, span: Span) -> FeatureDays:
    names = row["name"] or ()
    listed = sorted(set(names))
    numbers = {name: number for number, name in enumerate(listed)}
    number = np.fromiter(map(numbers.__getitem__, names), np.int64, len(names))
    account, number, active = _rows_of_months(row, number, span)
    return FeatureDays(account=account, name=_object(listed)[number], active=active)


def features(row: Row) -> Features:
    place = _int32(row["place"])
    order = np.argsort(place, kind="stable")
    return Features(
        account=place[order],
        name=_object(row["name"])[order],
        first_at=_time(row["first_at"])[order],
        last_at=_time(row["last_at"])[order],
    )


def records(row: Row, kind: str) -> Records:
    chosen = np.flatnonzero(_object(row["kind"]) == kind)
    place = _int32(row["place"])[chosen]
    chosen = chosen[np.argsort(place, kind="stable")]
    status = _object(row["status"])[chosen]
    stands_since = _int64(row["status_at"])[chosen]
    status_at = {name: _int64(row[f"at_{n}"])[chosen] for n, name in enumerate(STATUSES[kind])}
    for name, at in status_at.items():
        at[:] = np.where(status == name, np.maximum(at, stands_since), at)
    return Records(
        account=_int32(row["place"])[chosen],
        status=status,
        first_at=_time(row["first_at"])[chosen],
        due_at=np.array([_date(value) for value in _object(row["due_on"])[chosen]], dtype=np.int64),
        status_at=status_at,
    )


def goals(row: Row, custom: Mapping[str, CustomSignal]) -> Goals:
    chosen = np.flatnonzero(_object(row["kind"]) == "goal")
    chosen = chosen[np.argsort(_int32(row["place"])[chosen], kind="stable")]
    named = zip(_object(row["signal"])[chosen], _object(row["target"])[chosen], strict=True)
    found = [(comparable(signal, custom), target_of(target)) for signal, target in named]
    measured = [(str(ref), target) if ref is not None and target is not None else None for ref, target in found]
    return Goals(
        **vars(records(row, "goal")),
        name=_object(row["name"])[chosen],
        signal=_object([each and each[0] for each in measured]),
        target=np.array([math.nan if each is None else each[1].value for each in measured], dtype=np.float64),
        at_most=np.array([each is not None and each[1].at_most for each in measured], dtype=np.bool_),
    )


def surveys(row: Row) -> Surveys:
    place, at = _int32(row["place"]), _time(row["at"])
    order = np.lexsort((at, place))
    return Surveys(
        account=place[order], at=at[order], nps=_float64(row["nps"])[order], csat=_float64(row["csat"])[order]
    )


def sessions(row: Row) -> Sessions:
    place, at = _int32(row["place"]), _time(row["at"])
    order = np.lexsort((at, place))
    return Sessions(account=place[order], at=at[order])


def numbers(row: Row) -> History:
    """Of several values of the same instant the one with the greatest event key, by bytes."""
    place, at = _int32(row["place"]), _time(row["at"])
    attribute = _object(row["attribute"])
    number = np.searchsorted(_NUMBERED, attribute.astype(np.str_)) if len(place) else place
    order = np.lexsort((at, number, place))
    sorted_by = np.stack((place, number, at))[:, order]
    if len(place) and (sorted_by[:, 1:] == sorted_by[:, :-1]).all(axis=0).any():
        keys = [key.encode() for key in row["event_key"] or ()]
        newest = {(place[n], number[n], at[n]): n for n in sorted(range(len(keys)), key=keys.__getitem__)}
        order = np.array(sorted(newest.values()), dtype=np.int64)
    order = order[np.lexsort((at[order], place[order]))]
    value = np.array([_number(value) for value in row["value"] or ()], dtype=np.float64)
    return History(account=place[order], attribute=attribute[order], at=at[order], value=value[order])


def known_from(row: Row, size: int) -> dict[str, Instants]:
    place, attribute, valid_from = _int32(row["place"]), _object(row["attribute"]), _time(row["valid_from"])
    known: dict[str, Instants] = {}
    for name in KEPT_ATTRIBUTES:
        known[name] = np.full(size, NEVER, dtype=np.int64)
        chosen = attribute == name
        known[name][place[chosen]] = valid_from[chosen]
    return known


def announced(rows: Sequence[Any], columns: Mapping[str, Any], now_us: int) -> dict[str, Instants]:
    """Puts what has taken effect by now into ``columns``; returns when the next of each attribute will.

    An end voids what was announced before it was said, for a later day: who renewed for July and left in June does not
    come back in July.
    """
    ends = [
        (row.place, to_us(row.valid_from), to_us(row.said_at))
        for row in rows
        if row.attribute == "status" and row.value == "ended" and row.said_at is not None
    ]
    ends += {(row.place, row.ended_us, row.ended_us) for row in rows if row.ended_us is not None}
    following: dict[str, Instants] = {}
    for row in rows:
        at = to_us(row.valid_from)
        said = at if row.said_at is None else to_us(row.said_at)
        if any(place == row.place and ended <= at and said < end_said for place, ended, end_said in ends):
            continue
        if at <= now_us:
            _take_effect(columns, row)
            continue
        found = following.setdefault(row.attribute, np.full(len(columns["start"]), NEVER, dtype=np.int64))
        if found[row.place] == NEVER:  # rows come in the order of their day
            found[row.place] = at
    return following


def _take_effect(columns: Mapping[str, Any], row: Any) -> None:
    if row.attribute == "renewal_on":
        columns["renewal_at"][row.place] = _date(row.value)
    elif row.attribute in columns["numbers"]:
        columns["numbers"][row.attribute][row.place] = _number(row.value)
    else:
        columns["texts"][row.attribute][row.place] = row.value
