"""Writes ``docs/signals.md`` from the catalogue: ``python -m health.signals_page``. A test fails when they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from health.catalogue import SIGNALS, Signal

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "signals.md"

_INTRODUCTION: Final = """\
# Signals

A signal is a named measure of one account at one instant, computed from the facts. Rules and scorecards are written in
signals. This page is generated from `health/catalogue.py`; after a change there, run `python -m health.signals_page`.

- Names with `['…']` take an argument: `days_since_feature['export']`. A quote inside is doubled.
- A value that is not known is NULL: it neither fires a rule nor resolves one.
- `days_since_…` count whole days of elapsed time: 14 means that 14 × 24 hours have passed. They leave out time that was
  not observed (gaps that are open or lost, and what has not been applied yet). An account that never did it counts from
  its start: its contract or trial, else its first event, else the day it was first seen here.
- Windows (`…_7d`, `…_28d`) are UTC days, today being the last one. A window that touches a gap is NULL.
- *Days*: whose days a signal counts in. `utc`: what is counted per day is kept per UTC day, for every account alike.
  `zone`: dates of the account's `timezone` attribute (an IANA name such as `Asia/Tokyo`; UTC without a known one).
  Empty: days play no part, or elapsed time is exact.
- Business days leave out weekends and public holidays of the account's `country` attribute (an ISO 3166 code such as
  `JP`); without a known one, Monday to Friday are business days.
- *Absence*: the value may only mean that nobody looked. Rules that use it are held while data is incomplete.
- A past instant is answered as far as the facts tell, else NULL: before the last login, the one before it is not known;
  within a past day, a daily sum is known only if the day makes no difference.
- A ticket, payment, milestone or goal keeps per status the last time it was taken. At a past instant it had the status
  taken last by then.
- Tickets, payments and sessions in a window go by exact time: 30 days are 30 × 24 hours.

## Signals of your own

`rules/signals.yaml` beside the rules declares more, by the schema `rules/signals.schema.json`; rules name them like any
other. They are derived from facts that are kept anyway, so that they are exact back to the first event, imported and
replayed ones included; `replay` is not needed for them. Of an attribute only its present value is known.

```yaml
signals:
  - name: exports_28d
    measure: sum            # count | sum | last | distinct | attribute
    event: usage            # login, usage, custom, or a record: ticket, payment, survey, milestone, goal, …
    of: quantity            # the field that is summed, told apart or taken; user and record are fields, too
    where: {feature: export}  # fields of the event, each one value or a list; properties.tier goes deeper
    days: 28
    unit: exports
    meaning: {en: "Exports in the last 28 days", ja: "直近28日間の出力数"}
  - name: employees
    measure: attribute
    of: employees
    meaning: {en: "Employees of the account", ja: "従業員数"}
```

Logins and usage are kept per UTC day: count of logins; sum of quantity, distinct of day or of feature of usage. Other
events are kept one by one and counted by exact time. Signals over a window are absence. What is not kept, such as
properties of usage, is refused; send it as a custom event.

Scorecards take them, too: those that are numbers as measures and caps, all in reasons, attributes to say whose card it
is. A changed declaration makes another version of the cards that use it. While a card speaks of a signal that was taken
out or became a text, the running rules and cards stay. `GET /api/v1/signals` lists them after the catalogue, with
`valid`: from when on each is right.

## Goals and their signals

A `goal` event may name a `signal`, its `target` and a date, `due_on`. The target is a number to rise to (`8`, `>= 8`,
`80 %` for 0.8) or to fall to (`<= 2`).

- **Progress** is the part of the target that the signal has come to, 1 from the target on; of `<= 2`, 5 has come two
  fifths of the way.
- **Pace** is even: from the day on which the goal was first heard of to its date, by the account's time zone. A goal
  is **behind** when it lacks a tenth of the way or more of it, **overdue** after its date while neither reached nor
  at its target.
- A goal without a date has no pace. One without a target, or by a name that is no number of this catalogue or of
  `signals.yaml` (the score and the signals of goals are none), goes by its status and date alone; so does one whose
  signal is unknown though everything was observed. Over a gap, what hangs on it is unknown.
- Of the past, the target and date that the goal has now are applied.

`goal_most_behind` says which goal lacks most: `Everybody on board: 2 (≥ 8)`.

## Stages of life

`lifecycle_stage` is `paused`, `ended` or `trial` where the account's status says so; else `onboarding` on its first
90 days; else `renewal` from 90 days before its renewal date on, and past it until a new one is known; else
`adoption`. Unknown before the account's start.

## The catalogue

| signal | type | unit | days | absence | meaning | 意味 |
|---|---|---|---|---|---|---|
"""


def page() -> str:
    return _INTRODUCTION + "".join(_row(signal) for signal in SIGNALS.values())


def _row(signal: Signal) -> str:
    name = f"{signal.name}['{signal.parameter}']" if signal.parameter else signal.name
    absence = "yes" if signal.absence else ""
    words = signal.meaning
    cells = (f"`{name}`", signal.type, signal.unit, signal.day_border, absence, words["en"], words["ja"])
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
