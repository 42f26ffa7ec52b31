"""What the board says of an account's parent, and of the accounts below it. Pure."""

from __future__ import annotations

from service.board import formats
from service.board.words import Words
from service.queries import ParentAccount, RollUp

PROBLEMS = {
    "itself": "It names itself: the link does not count",
    "cycle": "Its parents lead back to it: the link does not count",
    "too_deep": "More than 16 levels: the link does not count",
}


def parent_problem(parent: ParentAccount | None, words: Words) -> str:
    """Why the link to the parent does not count; empty when it does."""
    return "" if parent is None or parent.problem is None else words(PROBLEMS[parent.problem])


def below(rollup: RollUp | None, words: Words) -> str:
    """One sentence: how many, their mean, the worst of them, the money."""
    if rollup is None:
        return ""
    if rollup.score is None:
        return words.count("{n} account, none scored", "{n} accounts, none scored", rollup.children)
    score = formats.number(rollup.score, words)
    n = rollup.children
    parts = [
        words.count("{n} account, {score} on average by MRR", "{n} accounts, {score} on average by MRR", n, score=score)
    ]
    if rollup.red:
        parts.append(words("{n} red", n=rollup.red))
    if rollup.worst is not None:
        name = rollup.worst.name or rollup.worst.account_id
        parts.append(words("worst is {name} at {score}", name=name, score=formats.number(rollup.worst.score, words)))
    if rollup.mrr_at_risk:
        money = formats.money(rollup.mrr_at_risk, rollup.currency, words)
        parts.append(words("MRR at risk {money}", money=money))
    if rollup.mixed:
        parts.append(words("several currencies, so weighted equally"))
    if rollup.incomplete:
        parts.append(words("data incomplete below"))
    return ("、" if words.language == "ja" else "; ").join(parts)
