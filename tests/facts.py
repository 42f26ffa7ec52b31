"""Facts made by hand, for tests of what is computed from them: ``facts(now, [Account(…), …])``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import numpy as np

from health.columns import (
    NUMBER_ATTRIBUTES,
    TEXT_ATTRIBUTES,
    ActiveDays,
    Facts,
    FeatureDays,
    Features,
    Goals,
    History,
    Records,
    Sessions,
    Surveys,
    Users,
)
from health.instants import DAY, NEVER, to_us
from health.rhythm import SHIPPED, Fleet


@dataclass(kw_only=True)
class Record:
    """``taken``: when each status was last taken; the latest is the present one."""

    taken: Mapping[str, datetime]
    due_on: date | None = None
    first_at: datetime | None = None
    name: str = ""
    signal: str | None = None
    target: float | None = None
    at_most: bool = False

    @property
    def status(self) -> str:
        return max(self.taken, key=lambda status: self.taken[status])


@dataclass(kw_only=True)
class Account:
    account_id: str = "acme"
    start: datetime | None = None
    last_login: datetime | None = None
    last_activity: datetime | None = None
    last_contact: datetime | None = None
    logins: Mapping[int, int] = field(default_factory=dict)  # days before today: count
    events: Mapping[int, int] = field(default_factory=dict)
    users: Sequence[Sequence[int]] = ()  # per user the days before today
    features: Mapping[str, tuple[datetime, datetime]] = field(default_factory=dict)
    feature_days: Mapping[str, Sequence[int]] = field(default_factory=dict)
    tickets: Sequence[Record] = ()
    payments: Sequence[Record] = ()
    milestones: Sequence[Record] = ()
    goals: Sequence[Record] = ()
    surveys: Sequence[tuple[datetime, float | None]] = ()  # None: a CSAT answer of 3
    sessions: Sequence[datetime] = ()
    history: Mapping[str, Sequence[tuple[datetime, float]]] = field(default_factory=dict)
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    renewal_on: date | None = None


def facts(now: datetime, accounts: Sequence[Account], *, days: int = 92, fleet: Fleet = SHIPPED) -> Facts:
    now_us = to_us(now)
    first_day = now_us - now_us % DAY - (days - 1) * DAY
    numbers = {name: _floats([a.attributes.get(name) for a in accounts]) for name in NUMBER_ATTRIBUTES}
    texts = {name: np.array([a.attributes.get(name) for a in accounts] + [None], dtype=object)[:-1]
             for name in TEXT_ATTRIBUTES}  # fmt: skip
    return Facts(
        account_ids=tuple(a.account_id for a in accounts),
        now_us=now_us,
        first_day_us=first_day,
        start=_times([a.start for a in accounts]),
        last_login_at=_times([a.last_login for a in accounts]),
        last_activity_at=_times([a.last_activity for a in accounts]),
        last_contact_at=_times([a.last_contact for a in accounts]),
        logins=_days([a.logins for a in accounts], days),
        events=_days([a.events for a in accounts], days),
        active=_days([a.events for a in accounts], days) > 0,
        users=Users(
            account=_places([a.users for a in accounts]),
            active=_days([dict.fromkeys(user, 1) for a in accounts for user in a.users], days) > 0,
        ),
        features=Features(
            account=_places([list(a.features) for a in accounts]),
            name=np.array([name for a in accounts for name in a.features] + [None], dtype=object)[:-1],
            first_at=_times([first for a in accounts for first, _ in a.features.values()]),
            last_at=_times([last for a in accounts for _, last in a.features.values()]),
        ),
        feature_days=FeatureDays(
            account=_places([list(a.feature_days) for a in accounts]),
            name=np.array([name for a in accounts for name in a.feature_days] + [None], dtype=object)[:-1],
            active=_days([dict.fromkeys(used, 1) for a in accounts for used in a.feature_days.values()], days) > 0,
        ),
        tickets=_records([a.tickets for a in accounts], ("open", "pending", "solved", "closed")),
        payments=_records([a.payments for a in accounts], ("failed", "overdue", "paid", "refunded")),
        milestones=_records([a.milestones for a in accounts], ("planned", "reached")),
        goals=_goals([a.goals for a in accounts]),
        surveys=Surveys(
            account=_places([a.surveys for a in accounts]),
            at=_times([at for a in accounts for at, _ in sorted(a.surveys, key=lambda answer: answer[0])]),
            nps=_floats([nps for a in accounts for _, nps in sorted(a.surveys, key=lambda answer: answer[0])]),
            csat=_floats(
                [3 if nps is None else None for a in accounts for _, nps in sorted(a.surveys, key=lambda s: s[0])]
            ),
        ),
        sessions=Sessions(
            account=_places([a.sessions for a in accounts]), at=_times([at for a in accounts for at in a.sessions])
        ),
        history=_history(accounts),
        numbers=numbers,
        texts=texts,
        renewal_at=_dates([a.renewal_on for a in accounts]),
        known_from={},
        active_days=ActiveDays(
            account=_places([list(a.events) for a in accounts]),
            day=np.array([now_us // DAY - ago for a in accounts for ago in sorted(a.events, reverse=True)], np.int64),
        ),
        fleet=fleet,
    )


def _history(accounts: Sequence[Account]) -> History:
    values = [sorted((at, name, value) for name, known in a.history.items() for at, value in known) for a in accounts]
    return History(
        account=_places(values),
        attribute=np.array([name for rows in values for _, name, _ in rows] + [None], dtype=object)[:-1],
        at=_times([at for rows in values for at, _, _ in rows]),
        value=_floats([value for rows in values for _, _, value in rows]),
    )


def _times(values: Sequence[datetime | None]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([NEVER if value is None else to_us(value) for value in values], dtype=np.int64)


def _dates(values: Sequence[date | None]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    epoch = date(1970, 1, 1)
    return np.array([NEVER if v is None else (v - epoch) // timedelta(days=1) * DAY for v in values], dtype=np.int64)


def _floats(values: Sequence[str | float | None]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)


def _days(counts: Sequence[Mapping[int, int]], days: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    grid = np.zeros((len(counts), days), dtype=np.int64)
    for row, per_day in enumerate(counts):
        for ago, count in per_day.items():
            grid[row, days - 1 - ago] = count
    return grid


def _places(per_account: Sequence[Sequence[object]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.repeat(np.arange(len(per_account)), [len(rows) for rows in per_account]).astype(np.int64)


def _records(per_account: Sequence[Sequence[Record]], statuses: Sequence[str]) -> Records:
    rows = [record for records in per_account for record in records]
    return Records(
        account=_places(per_account),
        status=np.array([record.status for record in rows] + [None], dtype=object)[:-1],
        first_at=_times([record.first_at or min(record.taken.values()) for record in rows]),
        due_at=_dates([record.due_on for record in rows]),
        status_at={status: _times([record.taken.get(status) for record in rows]) for status in statuses},
    )


def _goals(per_account: Sequence[Sequence[Record]]) -> Goals:
    rows = [record for records in per_account for record in records]
    return Goals(
        **vars(_records(per_account, ("set", "reached", "dropped"))),
        name=np.array([record.name for record in rows] + [None], dtype=object)[:-1],
        signal=np.array([record.signal for record in rows] + [None], dtype=object)[:-1],
        target=_floats([record.target for record in rows]),
        at_most=np.array([record.at_most for record in rows], dtype=np.bool_),
    )
