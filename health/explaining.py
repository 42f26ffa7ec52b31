"""One account's score as of a day, beside what was recorded on it, and why the two differ. Pure.

``health/past.py`` reads what was so then; ``docs/scorecards.md`` tells it to people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import msgspec

from health.columns import Facts
from health.gaps import Observed
from health.score_lines import Contribution, Override, explain
from health.scorecard_file import OVERRIDE
from health.scorecards import Scorecards, Scores
from health.signals import compute

Words = dict[str, str]


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """A score with the lines that add up to it; none: too little is known."""

    score: float | None
    band: str | None
    scorecard: str  # name@version
    confidence: float | None  # share of the card's weight that had data; null: it was not kept
    incomplete: bool  # a value is missing because time was not observed
    contributions: list[dict[str, Any]]
    explanation: Words


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Something to know about it: a stable code, a sentence in English and Japanese, what it is made of."""

    code: str
    reason: Words
    data: dict[str, Any] = {}


class LineChange(msgspec.Struct, frozen=True, kw_only=True):
    """A line that differs: what it took or gave before, and after."""

    measure: str
    before: float
    after: float
    reason: Words


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """``now``: by the facts known now and the cards in force, or the one asked about. ``recorded``: as the day ended.
    ``by_recorded_card``: by the card of then and the facts known now, when that is another card and was kept."""

    account_id: str
    day: date
    at: datetime
    name: str | None
    plan: str | None
    status: str | None
    mrr: float | None
    currency: str | None
    now: Scored
    recorded: Scored | None
    by_recorded_card: Scored | None
    lines: list[LineChange]  # from recorded to now, the largest first
    differences: list[Told]
    not_known: list[Told]


class Late(msgspec.Struct, frozen=True, kw_only=True):
    """What has been learnt of the time up to a day after that day: logins and uses, discrete facts, attributes; whether
    an import came, how many gaps were noticed, ended or marked since."""

    events: int = 0
    records: int = 0
    attributes: int = 0
    imported: bool = False
    gaps: int = 0


def score_each(
    cards: Sequence[Scorecards],
    facts: Facts,
    observed: Observed,
    bands: Sequence[str | None],
    overrides: Sequence[Override | None],
) -> list[Scores]:
    """The accounts of ``facts`` at ``facts.now`` under each of ``cards``; ``bands`` as they stood, for hysteresis."""
    refs = dict.fromkeys(ref for some in cards for ref in some.refs)
    table = compute(facts, [facts.now], refs, observed)
    return [some.score(table, facts, bands, overrides) for some in cards]


def scored(scores: Scores, place: int) -> Scored:
    value = float(scores.score[place])
    lines = scores.contributions[place]
    return Scored(
        score=None if math.isnan(value) else value,
        band=scores.band[place],
        scorecard=scores.scorecard[place],
        confidence=round(float(scores.confidence[place]), 4),
        incomplete=bool(scores.incomplete[place]),
        contributions=list(lines),
        explanation=_sentence(lines),
    )


def nothing(card: str) -> Scored:
    """Of an account of which nothing had been heard."""
    return Scored(
        score=None, band=None, scorecard=card, confidence=0.0, incomplete=False, contributions=[],
        explanation=_sentence([]),
    )  # fmt: skip


def recorded(row: Any) -> Scored:
    """Of a row of score_history. Days before lines were kept have none."""
    lines = row.contributions or []
    return Scored(
        score=row.score, band=row.band, scorecard=row.scorecard, confidence=None, incomplete=False,
        contributions=lines, explanation=_sentence(lines),
    )  # fmt: skip


def _sentence(lines: Sequence[Contribution]) -> Words:
    return {"en": explain(lines, "en"), "ja": explain(lines, "ja")}


def line_changes(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[LineChange]:
    """The lines that differ, the largest difference first; a line that is not there takes nothing."""
    sides = [{line["measure"]: line for line in lines} for lines in (before, after)]
    names = dict.fromkeys([*sides[1], *sides[0]])
    changes = [_line_change(name, *(side.get(name) for side in sides)) for name in names]
    return sorted((c for c in changes if c.before != c.after), key=lambda c: (-abs(c.after - c.before), c.measure))


def _line_change(name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> LineChange:
    told = after or before or {}
    reason = told["reason"]
    if told.get("points", 0) is None and told.get("weight") is not None:  # the reason of missing data names nothing
        reason = {language: f"{name}: {words}" for language, words in reason.items()}
    return LineChange(
        measure=name,
        before=0.0 if before is None else before["contribution"],
        after=0.0 if after is None else after["contribution"],
        reason=reason,
    )


def differences(now: Scored, then: Scored | None, late: Late, *, other_card: bool) -> list[Told]:
    """Why the score as of a day is not what was recorded on it; nothing when it is. ``other_card``: it was asked what
    the score would be under a card that does not run."""
    if then is None:
        words = {"en": "Nothing was recorded on that day.", "ja": "この日のスコアは記録されていません。"}
        return [Told(code="not_recorded", reason=words)]
    if (now.score, now.band, now.scorecard) == (then.score, then.band, then.scorecard):
        return []
    found = [*_card(now, then, other_card=other_card), *_by_hand(now, then), *_late(late)]
    if not found and now.score == then.score:
        words = {
            "en": f"The band stood at {then.band} by what it was before that day: near a border it stays.",
            "ja": "境界付近のため、前日までの判定が維持されていました。",
        }
        return [Told(code="hysteresis", reason=words)]
    if not found:
        words = {
            "en": "The cause is not kept: time zone, country or touch model of then, the hours of older activity, what "
            "all accounts did, or how an earlier release counted.",
            "ja": "原因は記録に残っていません(当時のタイムゾーン・国・タッチモデル、過去の利用時刻、全体の利用状況、"
            "または旧バージョンの計算方法)。",
        }
        return [Told(code="not_kept", reason=words)]
    return found


def _card(now: Scored, then: Scored, *, other_card: bool) -> list[Told]:
    if now.scorecard == then.scorecard:
        return []
    data = {"recorded": then.scorecard, "now": now.scorecard}
    if other_card:
        words = {
            "en": f"It was recorded under {then.scorecard}; you asked about {now.scorecard}.",
            "ja": f"記録は{then.scorecard}によるもので、お尋ねは{now.scorecard}によるものです。",
        }
    else:
        words = {
            "en": f"A change of card, not of behaviour: {then.scorecard} scored that day, {now.scorecard} does now.",
            "ja": f"利用状況ではなくスコアカードの変更です:当時は{then.scorecard}、現在は{now.scorecard}。",
        }
    return [Told(code="card", reason=words, data=data)]


def _by_hand(now: Scored, then: Scored) -> list[Told]:
    was, is_now = (any(line["measure"] == OVERRIDE for line in side.contributions) for side in (then, now))
    if was == is_now:
        return []
    words = (
        {
            "en": "A person had set the score during the day; it no longer stood when the day ended.",
            "ja": "この日のうちに手動設定がありましたが、日の終わりには解除されていました。",
        }
        if was
        else {
            "en": "A person had set the score by the end of the day; the last evaluation had not seen it.",
            "ja": "日の終わりには手動設定がありましたが、最後の評価には反映されていませんでした。",
        }
    )
    return [Told(code="override", reason=words)]


def _late(late: Late) -> list[Told]:
    found: list[Told] = []
    if late.events or late.records or late.attributes or late.imported:
        data = {"events": late.events, "records": late.records, "attributes": late.attributes,
                "imported": late.imported}  # fmt: skip
        parts = [
            (f"{late.events} logins and uses", f"ログイン・利用{late.events}件", late.events),
            (f"{late.records} discrete facts", f"個別の出来事{late.records}件", late.records),
            (f"{late.attributes} attribute values", f"属性値{late.attributes}件", late.attributes),
            ("an import", "インポート", late.imported),
        ]
        en = ", ".join(en for en, _, there in parts if there)
        ja = "、".join(ja for _, ja, there in parts if there)
        words = {
            "en": f"Data of that day or before came after it: {en}.",
            "ja": f"当日以前のデータが後から届きました:{ja}。",
        }
        found.append(Told(code="late", reason=words, data=data))
    if late.gaps:
        words = {
            "en": f"What was not observed is known better now. Gaps noticed, ended or marked since: {late.gaps}.",
            "ja": f"観測の欠落{late.gaps}件が後から判明・終了・確定しました。",
        }
        found.append(Told(code="gaps", reason=words, data={"gaps": late.gaps}))
    return found


def not_known(
    *, undated: Sequence[str], fleet_day: date | None, wanted_day: date, hours: bool, children: bool
) -> list[Told]:
    """What cannot be told of a past day. ``undated``: attributes set since, of which only the present value is kept;
    ``fleet_day``: of what all accounts said together, None for what ships; ``hours``: a gap lies where only the days
    of activity are kept, not their hours; ``children``: the account has some."""
    found: list[Told] = []
    if undated:
        names = ", ".join(undated)
        words = {
            "en": f"{names}: set after that day, and earlier values are not kept; as they are now.",
            "ja": f"{names}:当日より後に設定され、以前の値は残っていないため、現在の値を使用。",
        }
        found.append(Told(code="attributes", reason=words, data={"attributes": list(undated)}))
    if fleet_day != wanted_day:
        of = "the shipped one" if fleet_day is None else f"that of {fleet_day}"
        of_ja = "同梱の値" if fleet_day is None else f"{fleet_day}の値"
        words = {
            "en": f"What all accounts did by {wanted_day} was not kept; for the rhythm {of} was taken.",
            "ja": f"{wanted_day}時点の全体の利用状況は残っていないため、リズムの計算には{of_ja}を使用。",
        }
        data = {"wanted": wanted_day.isoformat(), "taken": None if fleet_day is None else fleet_day.isoformat()}
        found.append(Told(code="fleet", reason=words, data=data))
    if hours:
        words = {
            "en": "A gap lies after the last activity of then, whose hour is not kept: days since may be one too few.",
            "ja": "当時の最終利用後に観測の欠落があり、時刻が残っていないため、経過日数は1日少ない場合があります。",
        }
        found.append(Told(code="hours", reason=words))
    if children:
        words = {
            "en": "What its child accounts tell is as of now.",
            "ja": "子アカウントの情報は現在のものです。",
        }
        found.append(Told(code="children", reason=words))
    return found


def not_begun(first: datetime | None) -> list[Told]:
    """Of an account that had not begun by the day."""
    known = first is not None
    words = {
        "en": f"Nothing of the account had happened by then; its first event was on {first.date()}."
        if first is not None
        else "Nothing of the account has been heard of yet.",
        "ja": f"この時点では何も起きていません。最初のイベントは{first.date()}です。"
        if first is not None
        else "このアカウントのイベントはまだ届いていません。",
    }
    return [Told(code="not_begun", reason=words, data={"first": first.isoformat()} if known and first else {})]
