"""The lines that say why a score is what it is, and the sentence made of them; in English and Japanese. Pure.

Lines are whole tenths and add up to the score exactly. See ``docs/scorecards.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from health.arrays import Bools, Floats, Ints
from health.catalogue import SIGNALS, Signal, SignalRef
from health.numbers import plain
from health.scorecard_file import FULL_MARK, OVERRIDE, VALUE, WORST_OF, Cap, Measure

Language = Literal["en", "ja"]
Contribution = dict[str, Any]
Values = Mapping[str, Any]
"""Signals of one account by ``str(ref)``; NaN or None: unknown."""

SENTENCE_LINES = 3
MOST_SAID = 3_000
"""Lines kept of a measure; some 1.5 KB each with their JSON."""
YES_NO = "boolean"
MOST_TIMES = 100
"""A sentence does not tell a thousandfold from a hundredfold: nobody acts on the difference."""

_FULL_MARK_REASON = {"en": "full mark", "ja": "満点"}
_MISSING = {
    "en": "no data; its weight is shared among the others",
    "ja": "データなし(重みは他の項目に配分)",
}
_INCOMPLETE = {
    "en": "data incomplete; its weight is shared among the others",
    "ja": "データ欠落あり(重みは他の項目に配分)",
}
_GROUPS_JA = {"Deployment": "導入", "Engagement": "エンゲージメント", "Adoption": "活用", "ROI": "成果",
              "Children": "配下"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Override:
    """A score that a person set, with why and until when."""

    score: float
    reason: str
    author: str
    expires_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """Writes the line of one measure or cap; made once per card, since every account has every line."""

    measure: str
    group: str | None
    signal: str
    unit: str
    en: str
    ja: str
    mentioned: tuple[tuple[str, str, str], ...]
    """Other signals in the reason: as written in braces, the reference, the unit."""
    texts: tuple[str, ...]
    """Those of them that are texts."""

    @classmethod
    def of(cls, part: Measure | Cap, catalogue: Mapping[str, Signal] = SIGNALS) -> Wording:
        ref = SignalRef.parse(part.signal)
        others = [(name, SignalRef.parse(name)) for name in part.reason.mentioned]
        return cls(
            measure=part.id,
            group=part.group if isinstance(part, Measure) else None,
            signal=str(ref),
            unit=_unit(catalogue[ref.name]),
            en=part.reason.en,
            ja=part.reason.ja,
            mentioned=tuple((f"{{{name}}}", str(other), _unit(catalogue[other.name])) for name, other in others),
            texts=tuple(str(other) for _, other in others if catalogue[other.name].type == "text"),
        )

    @property
    def spoken(self) -> tuple[str, ...]:
        """The signals whose values are in the line."""
        return (self.signal, *(signal for _, signal, _ in self.mentioned))

    @property
    def numbers(self) -> tuple[str, ...]:
        """Those of them that are not texts."""
        return tuple(signal for signal in self.spoken if signal not in self.texts)

    def measured(self, values: Values, mark: float, weight: float, lost: int, *, unseen: bool) -> Contribution:
        missing = math.isnan(mark)
        value = values[self.signal]
        return {
            "measure": self.measure,
            "group": self.group,
            "signal": self.signal,
            "value": None if missing else value,
            "points": None if missing else round(mark, 1),
            "weight": round(weight, 4),
            "contribution": -lost / 10 + 0.0,
            "reason": (_INCOMPLETE if unseen else _MISSING) if missing else self.reason(values),
        }

    def capped(self, values: Values, limit: float, taken: int) -> Contribution:
        return {
            "measure": self.measure,
            "group": None,
            "signal": self.signal,
            "value": values[self.signal],
            "points": limit,
            "weight": None,
            "contribution": -taken / 10,
            "reason": self.reason(values),
        }

    def reason(self, values: Values) -> dict[str, str]:
        en, ja = spoken(values[self.signal], self.unit)
        words = {"en": self.en.replace(f"{{{VALUE}}}", en), "ja": self.ja.replace(f"{{{VALUE}}}", ja)}
        for braces, signal, unit in self.mentioned:
            en, ja = spoken(values.get(signal), unit)
            words = {"en": words["en"].replace(braces, en), "ja": words["ja"].replace(braces, ja)}
        return words


class Line(dict[str, Any]):
    """A contribution that stands in many accounts: made JSON once."""

    __slots__ = ("_json",)

    _json: bytes

    def written(self) -> bytes:
        try:
            return self._json
        except AttributeError:
            self._json = msgspec.json.encode(self)
            return self._json


class Said(dict[Any, Line]):
    """The lines of one measure, by all that is in them: written once for all accounts of which they say the same.

    A key is the bytes of ``coded`` and of the numbers spoken of, NaN for unknown, as numpy makes them of whole columns;
    where texts are spoken of, too, a tuple of that and these.
    """

    def __init__(
        self, wording: Wording, place: int, shares: Sequence[Sequence[float]], points: Callable[[Floats], Floats]
    ) -> None:
        """``shares``: weights of all measures, among which this one's has its ``place``. ``points``: of its values."""
        super().__init__()
        self._wording = wording
        self._numbers, self._texts = wording.numbers, wording.texts
        self._place = place
        self._shares = shares
        self._points = points

    def of(self, codes: Ints, columns: Mapping[str, npt.NDArray[Any]]) -> list[Line]:
        """The lines of accounts; all (A,)."""
        rows = np.empty((len(codes), 1 + len(self._numbers)), dtype=np.int64)
        rows[:, 0] = codes
        for place, name in enumerate(self._numbers, 1):
            rows[:, place] = columns[name].astype(np.float64, copy=False).view(np.int64)
        keys = rows.view(f"V{rows.shape[1] * rows.itemsize}")[:, 0].tolist()
        if self._texts:
            keys = list(zip(keys, *(columns[name].tolist() for name in self._texts), strict=True))
        return list(map(self.__getitem__, keys))

    def __missing__(self, key: Any) -> Line:
        if len(self) >= MOST_SAID:
            self.clear()
        row, *texts = key if self._texts else (key,)
        code, numbers = int(np.frombuffer(row, dtype=np.int64)[0]), np.frombuffer(row, dtype=np.float64)[1:]
        known = dict(zip(self._numbers, numbers.tolist(), strict=True)) | dict(zip(self._texts, texts, strict=True))
        known = {name: None if value != value else value for name, value in known.items()}  # noqa: PLR0124 - NaN alone
        weight, lost = self._shares[code >> 12][self._place], code >> 1 & 0x7FF
        mark = float(self._points(numbers[:1])[0])
        line = self[key] = Line(self._wording.measured(known, mark, weight, lost, unseen=bool(code & 1)))
        return line


def coded(share: Ints, lost: Ints, unseen: Bools) -> Ints:
    """As one number: the place of its weight among the shares, how many tenths a measure lost (at most 1000), and
    whether it is unknown for want of observation."""
    code: Ints = share << 12 | lost << 1 | unseen
    return code


def full_mark() -> Contribution:
    return {"measure": FULL_MARK, "group": None, "signal": None, "value": None, "points": 100.0, "weight": 1.0,
            "contribution": 100.0, "reason": _FULL_MARK_REASON}  # fmt: skip


def worst_of(group: str, worst: Contribution, taken: int) -> Contribution:
    """What a group loses more because it counts as the ``worst`` of its measures."""
    reason = worst["reason"]
    return {
        "measure": f"{WORST_OF}{group.lower()}",
        "group": group,
        "signal": worst["signal"],
        "value": worst["value"],
        "points": worst["points"],
        "weight": None,
        "contribution": -taken / 10,
        "reason": {
            "en": f"{group} counts as its worst measure: {reason['en']}",
            "ja": f"{_GROUPS_JA.get(group, group)}は最も低い項目で評価:{reason['ja']}",
        },
    }


def overridden(override: Override, change: int) -> Contribution:
    """Signed: a person may know better in both directions. ``change`` in tenths."""
    until = override.expires_at.date().isoformat()
    who = override.author.partition(":")[2] or override.author  # key:<name>, board:<name>
    score = f"{override.score:g}"
    return {
        "measure": OVERRIDE,
        "group": None,
        "signal": None,
        "value": override.score,
        "points": override.score,
        "weight": None,
        "contribution": change / 10,
        "author": override.author,
        "expires_at": override.expires_at.isoformat(),
        "reason": {
            "en": f"set to {score} by {who} until {until}: {override.reason}",
            "ja": f"{who}が{until}まで{score}に設定:{override.reason}",
        },
    }


def explain(contributions: Sequence[Contribution], language: Language) -> str:
    """One sentence: the score, whether a person set it, and the lines that cost it most."""
    japanese = language == "ja"
    if not any(line["measure"] == FULL_MARK for line in contributions):
        return "情報が不足しており、スコアを算出できません。" if japanese else "Too little is known for a health score."
    score = f"{round(sum(line['contribution'] for line in contributions), 1) + 0.0:g}"
    by_hand = [line for line in contributions if line["measure"] == OVERRIDE]
    losses = sorted(
        (line for line in contributions if line["contribution"] < 0 and line["measure"] != OVERRIDE),
        key=lambda line: line["contribution"],
    )
    told = [*by_hand, *losses][:SENTENCE_LINES]
    if not told:
        return f"スコア{score}:減点なし。" if japanese else f"Health score {score}: nothing counts against it."
    said = [(line["reason"][language], _signed(line["contribution"])) for line in told]
    if japanese:
        return f"スコア{score}:{'、'.join(f'{why}({points})' for why, points in said)}。"
    return f"Health score {score}: {'; '.join(f'{why} ({points})' for why, points in said)}."


def _signed(amount: float) -> str:
    return f"−{-amount:g}" if amount < 0 else f"+{amount:g}"


def _unit(signal: Signal) -> str:
    return YES_NO if signal.type == YES_NO else signal.unit


def spoken(value: Any, unit: str) -> tuple[str, str]:
    """A value with its unit, in English and in Japanese."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "unknown", "不明"
    if isinstance(value, str):
        return value, value
    value = float(value)
    if unit == YES_NO:
        return ("yes", "はい") if value else ("no", "いいえ")
    if unit == "days":
        days = plain(value, 0)
        return "1 day" if days == "1" else f"{days} days", f"{days}日"
    if unit == "times" and value > MOST_TIMES:
        return f"over {MOST_TIMES} times", f"{MOST_TIMES}倍超"
    if unit == "times":
        factor = f"{value:.2g}" if 0.01 <= value < 10 else plain(value, 0)
        return f"{factor} times", f"{factor}倍"
    if unit == "fraction":
        words = f"{value:.0%}"
    elif unit == "change":
        words = f"{value:+.0%}".replace("-", "−") if round(value, 2) else "0%"
    else:
        words = plain(value, 2 if abs(value) < 10 else 1)
    return words, words
