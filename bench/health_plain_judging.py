"""Scores, rules and levels of one account in plain Python, as one would write them for one account at a time.

What is written once for all accounts, the words of a line and the code of a condition, is made ready once here, too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp

from alerts.rules import Rule, RuleBook
from health.score_lines import Contribution, Wording, full_mark, worst_of
from health.scorecard_file import Card, Measure
from health.scorecards import Scorecards

Signals = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """``holding``: the rules that hold, each with its level."""

    card: str
    score: float | None
    band: str | None
    lines: list[Contribution]
    holding: dict[str, str]


class Judge:
    """The rules and scorecards in force."""

    def __init__(self, book: RuleBook, cards: Scorecards) -> None:
        self._cards = [(one.card, one.name, *_wordings(one.card)) for one in cards.cards]
        self._rules = [(rule, condition(rule.when.source), _levels(rule)) for rule in book.rules]

    def judge(self, known: Signals) -> Judged:
        card, name, wordings, cap_wordings = next(one for one in self._cards if _matches(one[0], known))
        score, lines = _score(card, wordings, cap_wordings, known)
        bands = card.bands
        band = (
            None if score is None else "green" if score >= bands.green else "yellow" if score >= bands.yellow else "red"
        )
        everything = {**known, "score": score, "band": band}
        holding = {}
        for rule, holds, levels in self._rules:
            if not rule.names_status and known["status"] in ("ended", "paused"):
                continue
            if holds(everything):
                holding[rule.id] = next(str(level) for level, met in levels if met is None or met(everything))
        return Judged(card=name, score=score, band=band, lines=lines, holding=holding)


def _wordings(card: Card) -> tuple[list[Wording], list[Wording]]:
    return [Wording.of(measure) for measure in card.measures], [Wording.of(cap) for cap in card.caps]


def _levels(rule: Rule) -> list[tuple[str, Callable[[Signals], bool] | None]]:
    return [(level.level, None if level.when is None else condition(level.when.source)) for level in rule.levels]


def condition(source: str) -> Callable[[Signals], bool]:
    """A condition of a rule as Python: what is unknown does not hold."""
    code = _python(sqlglot.parse_one(source, dialect="postgres"))
    made: Callable[[Signals], bool] = eval(f"lambda s: bool({code})")
    return made


def _python(node: Any) -> str:
    if isinstance(node, (exp.And, exp.Or)):
        word = "and" if isinstance(node, exp.And) else "or"
        return f"({_python(node.left)} {word} {_python(node.right)})"
    if isinstance(node, exp.Not):
        return f"({_known(node.this)} and not {_value(node.this)})"
    if isinstance(node, exp.Between):
        low, high = _value(node.args["low"]), _value(node.args["high"])
        return f"({_known(node.this)} and {low} <= {_value(node.this)} <= {high})"
    if isinstance(node, exp.In):
        return f"({_value(node.this)} in ({', '.join(map(_value, node.expressions))},))"
    signs: dict[Any, str] = {exp.GTE: ">=", exp.LTE: "<=", exp.GT: ">", exp.LT: "<", exp.EQ: "=="}
    if type(node) in signs:
        return f"({_known(node)} and {_value(node.left)} {signs[type(node)]} {_value(node.right)})"
    return _value(node)


def _known(node: Any) -> str:
    """That every signal of it is known, and no divisor is 0."""
    tests = [f"{_value(name)} is not None" for name in _names(node)]
    tests += [_value(part.right) for part in node.find_all(exp.Div)]
    return " and ".join(tests) or "True"


def _names(node: Any) -> list[Any]:
    if isinstance(node, exp.Bracket):
        return [node]
    return [node] if isinstance(node, exp.Column) else [n for part in node.iter_expressions() for n in _names(part)]


def _value(node: Any) -> str:
    if isinstance(node, exp.Bracket):
        return f"s.get({node.this.name + '[' + repr(node.expressions[0].name) + ']'!r})"
    if isinstance(node, exp.Column):
        return f"s.get({node.name!r})"
    if isinstance(node, exp.Literal):
        return repr(node.this) if node.is_string else str(node.this)
    if isinstance(node, (exp.Paren, exp.Neg)):
        return f"({'-' if isinstance(node, exp.Neg) else ''}{_value(node.this)})"
    signs: dict[Any, str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/"}
    return f"({_value(node.left)} {signs[type(node)]} {_value(node.right)})"


def _matches(card: Card, known: Signals) -> bool:
    if card.match is None:
        return True
    return any(all(_meets(found, known.get(name)) for name, found in entry.items()) for entry in card.match)


def _meets(asked: Any, value: Any) -> bool:
    if asked.one_of is not None:
        return value in asked.one_of
    if value is None or (asked.at_least is not None and value < asked.at_least):
        return False
    return asked.below is None or bool(value < asked.below)


def _points(measure: Measure, value: Any) -> float | None:
    if value is None:
        return None
    bounds = [bound for bound, _ in measure.mapping]
    place = bisect_right(bounds, value) - 1
    if measure.line is None or place < 0 or place == len(bounds) - 1:
        return float(measure.mapping[max(place, 0)][1])
    (low, mark), (high, top) = measure.mapping[place], measure.mapping[place + 1]
    return float(mark + (top - mark) * (value - low) / (high - low))


def _weights(card: Card, marks: Sequence[float | None]) -> list[float]:
    """What is missing goes to the rest of its group, a missing group's to the other groups."""
    own: dict[Any, float] = {}
    for measure, mark in zip(card.measures, marks, strict=True):
        if mark is not None:
            own[measure.group] = own.get(measure.group, 0) + measure.weight
    total = sum(float(card.groups[group].weight) for group in own)
    return [
        0.0 if mark is None else measure.weight / own[measure.group] * card.groups[measure.group].weight / total
        for measure, mark in zip(card.measures, marks, strict=True)
    ]


def _score(
    card: Card, wordings: Sequence[Wording], cap_wordings: Sequence[Wording], known: Signals
) -> tuple[float | None, list[Contribution]]:
    marks = [_points(measure, known.get(measure.signal)) for measure in card.measures]
    weights = _weights(card, marks)
    full = _weights(card, [0.0] * len(marks))
    confidence = sum(weight for weight, mark in zip(full, marks, strict=True) if mark is not None)
    scored = confidence >= card.minimum_confidence and confidence > 0
    lost = [
        weight * (100 - (mark or 0)) if mark is not None else 0.0 for weight, mark in zip(weights, marks, strict=True)
    ]
    worst = _worst(card, marks, weights, lost)
    exact = [*lost, *(extra for _, _, extra in worst)]
    tenths = round((sum(weights) * 100 - sum(exact)) * 10)
    whole = _whole([part * 10 for part in exact], 1000 - tenths) if scored else [0] * len(exact)
    lines = [full_mark()] if scored else []
    for wording, mark, weight, part in zip(wordings, marks, weights, whole, strict=False):
        lines.append(
            wording.measured(_Known(known), float("nan") if mark is None else mark, weight, part, unseen=False)
        )
    if not scored:
        return None, lines
    for (group, place, _), part in zip(worst, whole[len(marks) :], strict=True):
        if part:
            lines.append(worst_of(group, lines[1 + place], part))
    for cap, wording in zip(card.caps, cap_wordings, strict=True):
        value = known.get(cap.signal)
        if value is None or not (value >= cap.at_least if cap.at_least is not None else value < (cap.below or 0)):
            continue
        named = {"red": card.bands.yellow - 0.1, "yellow": card.bands.green - 0.1}
        limit = round(float(named.get(cap.limit, cap.limit) if isinstance(cap.limit, str) else cap.limit) * 10)
        if tenths > limit:
            lines.append(wording.capped(_Known(known), limit / 10, tenths - limit))
            tenths = limit
    return tenths / 10, lines


class _Known(dict[str, Any]):
    def __missing__(self, name: str) -> None:
        return None


def _worst(
    card: Card, marks: Sequence[float | None], weights: Sequence[float], lost: Sequence[float]
) -> list[tuple[str, int, float]]:
    """Of each group that counts as its worst measure: which one, and what it costs more than the mean."""
    found: list[tuple[str, int, float]] = []
    for group, part in card.groups.items():
        if part.combine != "worst":
            continue
        members = [n for n, one in enumerate(card.measures) if one.group == group and marks[n] is not None]
        if members:
            place = min(members, key=lambda n: marks[n] or 0)
            share = sum(weights[n] for n in members)
            extra = share * (100 - (marks[place] or 0)) - sum(lost[n] for n in members)
            found.append((group, place, max(extra, 0.0)))
    return found


def _whole(parts: Sequence[float], total: int) -> list[int]:
    """Whole numbers that sum to ``total``: the largest remainders get what is left over."""
    whole = [int(part) for part in parts]
    order = sorted(range(len(parts)), key=lambda n: whole[n] - parts[n])
    for place in order[: total - sum(whole)]:
        whole[place] += 1
    return whole
