"""How a score came to be where it is: its course by day, its trend, and who set it by hand. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.board import formats, lines
from service.board.words import Words
from service.queries import AccountDetail, ScoreOverride, ScorePoint

TREND_DAYS = 28
FEWEST_POINTS, SHORTEST_DAYS = 5, 7
"""As for the signal ``score_trend``, which is only computed where a rule or a card speaks of it."""


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A day's score; ``before`` is the card of the day before, where another one took over."""

    point: ScorePoint
    before: str | None


def score_rows(points: Sequence[ScorePoint]) -> list[ScoreRow]:
    cards = [None, *(point.scorecard for point in points)]
    return [
        ScoreRow(point=point, before=before if before not in (None, point.scorecard) else None)
        for point, before in zip(points, cards, strict=False)
    ]


@dataclass(frozen=True, kw_only=True)
class Course:
    """How the score moves, in words; ``tone`` colours what the arrow and the sign say already."""

    arrow: str
    tone: str
    text: str


def points_a_week(points: Sequence[ScorePoint]) -> float | None:
    """The slope of the latest card's daily scores, by least squares; None for too few."""
    last = points[-1] if points else None
    if last is None or last.score is None:
        return None
    known = [
        ((point.day - last.day).days, point.score)
        for point in points
        if point.score is not None and point.scorecard == last.scorecard and (last.day - point.day).days < TREND_DAYS
    ]
    if len(known) < FEWEST_POINTS or known[0][0] > -SHORTEST_DAYS:
        return None
    mean_x = sum(x for x, _ in known) / len(known)
    mean_y = sum(y for _, y in known) / len(known)
    spread = sum((x - mean_x) ** 2 for x, _ in known)
    return 7 * sum((x - mean_x) * (y - mean_y) for x, y in known) / spread


def score_course(account: AccountDetail, points: Sequence[ScorePoint], words: Words) -> Course | None:
    """None as long as there is no change to speak of, no past of the same card to compare with, or a score that a
    person set."""
    if account.override is not None:
        return None
    month, week = account.signals.get("score_change_28d"), points_a_week(points)
    moves: list[tuple[float, str]] = []
    if month is not None and round(month):
        moves.append((month, words("{points} in 28 days", points=formats.signed(round(month)))))
    if week is not None and round(week, 1):
        moves.append((week, words("{points} a week of late", points=formats.signed(round(week, 1)))))
    if not moves:
        return None
    falls = moves[0][0] < 0
    return Course(
        arrow="↘" if falls else "↗", tone="down" if falls else "up", text=" · ".join(text for _, text in moves)
    )


def by_hand(override: ScoreOverride | None, words: Words) -> str | None:
    """Who set the score to what, why, and until when."""
    if override is None:
        return None
    return words(
        "{name} set the score to {score} on {day}, until {until}: {reason}",
        name=lines.actor_name(override.author),
        score=formats.number(override.score, words),
        day=formats.day(override.created_at.date(), words),
        until=formats.absolute(override.expires_at, words),
        reason=override.reason,
    )
