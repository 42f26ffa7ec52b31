"""Of which rules and accounts an evaluation looks closer, and how severe it takes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np

from alerts.episodes import Episode
from alerts.observing import holding_pairs, pairs, severities
from alerts.rules.expression import Compiled, compile_expression
from health.catalogue import SIGNALS

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
ACCOUNTS = ("a", "b", "c")


def episode(rule: str, account: str, **more: Any) -> tuple[tuple[str, str], Episode]:
    known: dict[str, Any] = {"state": "open", "severity": "warning", "pre_existing": False, **more}
    return (rule, account), Episode(
        episode_id=uuid4(), rule_id=rule, account_id=account, since=NOW, opened_at=NOW, **known
    )


def level(name: str, condition: str | None = None) -> Any:
    when = None if condition is None else compile_expression(condition, SIGNALS)
    assert when is None or isinstance(when, Compiled), when
    return SimpleNamespace(level=name, when=when)


def batch(*rules: Any, **signals: list[float]) -> Any:
    columns = {name: np.array(values)[:, None] for name, values in signals.items()}
    return SimpleNamespace(
        context=SimpleNamespace(rulebook=SimpleNamespace(rules=rules)),
        facts=Sized(ACCOUNTS),
        table=SimpleNamespace(columns=columns),
    )


class Sized:
    """As much of the facts as counts here."""

    def __init__(self, account_ids: tuple[str, ...]) -> None:
        self.account_ids = account_ids

    def __len__(self) -> int:
        return len(self.account_ids)


def rule(rule_id: str, *levels: Any) -> Any:
    return SimpleNamespace(id=rule_id, levels=levels or (level("warning"),))


def test_what_holds_or_is_not_over_rule_by_rule() -> None:
    over = {"state": "resolved", "closed_at": NOW, "cleared_at": NOW + timedelta(days=1)}
    known = dict([
        episode("second", "a"),
        episode("first", "c", **over),
        episode("first", "b", **over),
        episode("second", "b", state="resolved", closed_at=NOW),
        episode("gone", "a"),
    ])  # fmt: skip
    verdicts = np.array([[np.nan, 1.0, 0.0], [0.0, np.nan, 1.0]])
    made = batch(rule("first"), rule("second"))
    assert holding_pairs(made, verdicts) == [("first", "b"), ("second", "c")]
    found = [(pair.rule, pair.place, pair.episode) for pair in pairs(made, verdicts, known)]
    assert found == [
        (0, 1, known["first", "b"]),
        (1, 0, known["second", "a"]),
        (1, 1, known["second", "b"]),
        (1, 2, None),
    ], "an episode that is over counts where its rule holds again"


def test_the_first_level_whose_condition_is_met() -> None:
    steps = rule("steps", level("critical", "mrr >= 1000"), level("warning", "mrr >= 100"), level("info"))
    single, unheld = rule("single"), rule("unheld", level("critical", "mrr > 0"), level("info"))
    verdicts = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, np.nan]])
    found = severities(batch(steps, single, unheld, mrr=[5000.0, 150.0, np.nan]), verdicts)
    assert found.tolist() == [[0, 1, 2], [0, 0, 0], [1, 1, 1]]


def test_without_rules_nothing_is_seen() -> None:
    nothing = np.empty((0, 3))
    assert severities(batch(), nothing).shape == (0, 3)
    assert holding_pairs(batch(), nothing) == [] and pairs(batch(), nothing, dict([episode("gone", "a")])) == []
