"""How well the rhythm foresees who leaves, on a real history: ``python -m bench.rhythm DIR`` (``--json``).

DIR holds the two files that `bench/histories.py` describes. Weeks in time order: each week accounts are judged by what
was known at its end. The first half of the accounts, in the file's order, gives pauses, clock and base rate; the second
half judges. Outcome of an account-week: the account cancels within 28 days, or is never seen again and does not
complete. Beside it plain silence in days, and a logistic regression on the same inputs that is fitted to the *outcomes*
of the first half, of which the rhythm knows only how many they are.

Two populations: every account that has not cancelled, as the outcome has it; and of these only those seen within the
recent days (28, or 112 of a product whose accounts come seldom), for the long lost are easily told.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bench.histories import HORIZON, NEVER, History, HistoryError, read_history
from health.arrays import Bools, Floats, Ints
from health.learning import STANDS, Page, calibrated, learn_clock, learn_fleet
from health.rhythm import SHIPPED, DaySets, Fleet, rhythm

TOP_SHARE = 0.05
BANDS = {"red": (-1.0, 40.0), "yellow": (40.0, 70.0), "green": (70.0, 101.0)}
COLUMNS = ("silence", "usual_pause", "tail", "active_days", "recent_days", "log_odds")
Population = Literal["all", "seen"]
POPULATIONS: tuple[Population, ...] = ("all", "seen")
WORDS = {
    "all": "all that have not cancelled",
    "seen": "of these, seen in the last {days} days",
}
ENOUGH = 10
"""Account-weeks that leave and that stay, at least, for anything to be said."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Account-weeks: what the rhythm says of each without an intercept, and what became of it."""

    week: Ints
    account: Ints
    leaves: Bools
    plain_silence: Floats
    columns: Mapping[str, Floats]

    @classmethod
    def of(cls, history: History, half: Bools, fleets: Sequence[Fleet], who: Population) -> Rows:
        days = _only(history.active, half)
        found: dict[str, list[npt.NDArray[Any]]] = {
            name: [] for name in ("week", "account", "leaves", "plain", *COLUMNS)
        }
        for day, fleet in zip(history.weeks.tolist(), fleets, strict=True):
            at = np.full(len(days), day)
            known = days.until(at)
            seen = rhythm(known, at, fleet)
            last = days.start.copy()
            last[known.account] = known.day
            values = {**vars(seen), "log_odds": sum(seen.parts.values(), np.zeros(len(days)))}
            stands, leaves = (marks[half] for marks in history.outcome(day))
            if who == "seen":
                stands &= day - last < fleet.recent_days
            values |= {
                "week": at,
                "account": np.arange(len(days)),
                "leaves": leaves,
                "plain": np.maximum(day - last, 0),
            }
            for name, column in found.items():
                column.append(values[name][stands])
        joined: dict[str, Any] = {name: np.concatenate(column) for name, column in found.items()}
        own = {name: joined.pop(name) for name in ("week", "account", "leaves")}
        return cls(**own, plain_silence=joined.pop("plain").astype(np.float64), columns=joined)

    @property
    def features(self) -> Floats:
        found = self.columns
        columns = [
            np.ones(len(self.leaves)), np.log1p(self.plain_silence), np.log(np.maximum(found["tail"], 0.01)),
            np.log1p(found["active_days"]), np.log1p(found["recent_days"]), np.log(found["usual_pause"]),
        ]  # fmt: skip
        return np.stack(columns, axis=1)

    def probability(self, intercept: float) -> Floats:
        p: Floats = 1 / (1 + np.exp(-self.columns["log_odds"] - intercept))
        return p


def weekly_fleets(history: History, half: Bools) -> list[Fleet]:
    """What the accounts of ``half`` said together at the end of each week."""
    days = _only(history.active, half)
    ends = np.minimum(history.cancelled, history.ends + 1)[half]
    page = [Page(active=days, ends=np.where(ends > history.weeks[-1] + HORIZON, STANDS, ends))]
    clock = learn_clock(lambda: page, 0, int(history.weeks[-1]) + HORIZON)
    return [learn_fleet(lambda: page, day, clock=clock) for day in history.weeks.tolist()]


def _only(active: DaySets, half: Bools) -> DaySets:
    place = np.cumsum(half) - 1
    mine = half[active.account]
    return DaySets(account=place[active.account[mine]], day=active.day[mine], start=active.start[half])


def logistic(features: Floats, leaves: Bools, rounds: int = 50) -> Floats:
    """Weights by iteratively reweighted least squares with a little ridge."""
    weights = np.zeros(features.shape[1])
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-features @ weights))
        hessian = features.T @ (features * (p * (1 - p))[:, None]) + 1e-3 * np.eye(len(weights))
        step = np.linalg.solve(hessian, features.T @ (leaves - p) - 1e-3 * weights)
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    return np.asarray(weights)


def auc(leaves: Bools, score: Floats) -> float:
    """The chance that one who leaves ranks above one who stays; ties count half."""
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    rank = (ends - (counts - 1) / 2)[place]
    leaving, staying = int(leaves.sum()), int((~leaves).sum())
    return float((rank[leaves].sum() - leaving * (leaving + 1) / 2) / (leaving * staying))


def precision_at_top(week: Ints, leaves: Bools, score: Floats) -> float:
    """Of the TOP_SHARE highest of each week, the share that leaves; of those tied at its end as many as fit, at their
    mean."""
    hits, taken = 0.0, 0
    for one in np.unique(week):
        inside = week == one
        size = max(1, round(TOP_SHARE * int(inside.sum())))
        scores, left = score[inside], leaves[inside]
        least = np.sort(scores)[-size]
        above, tied = scores > least, scores == least
        hits += float(left[above].sum() + (size - above.sum()) * left[tied].mean())
        taken += size
    return hits / taken


def judge(history: History, fleets: Sequence[Fleet], half: Bools, who: Population) -> Mapping[str, Any] | None:
    """The figures of one population; None where too few leave or stay to say any."""
    training = Rows.of(history, half, fleets, who)
    rows = Rows.of(history, ~half, fleets, who)
    for some in (training, rows):
        if min(int(some.leaves.sum()), int((~some.leaves).sum())) < ENOUGH:
            return None
    base, learnt = float(rows.leaves.mean()), float(training.leaves.mean())
    fleet = calibrated(replace(fleets[-1], base_rate=learnt), training.columns["log_odds"])
    p = rows.probability(fleet.intercept)
    odds = p / (1 - p) * (1 - learnt) / learnt
    scores = {
        "rhythm": p,
        "plain silence": rows.plain_silence,
        "logistic regression": 1 / (1 + np.exp(-rows.features @ logistic(training.features, training.leaves))),
        "always the base rate": np.full(len(p), learnt),
    }
    gain, between = _gain(rows, p)
    return {
        "population": WORDS[who].format(days=fleets[-1].recent_days),
        "account_weeks": len(p),
        "leave": base,
        "base_rate_learnt": learnt,
        "methods": {
            name: {
                "auc": auc(rows.leaves, score),
                "precision_top_5_percent": precision_at_top(rows.week, rows.leaves, score),
                "brier": None if name == "plain silence" else float(np.mean((score - rows.leaves) ** 2)),
            }
            for name, score in scores.items()
        },
        "gain": gain,
        "gain_95_percent": between,
        "bands": bands(np.clip(70 - 30 * np.log2(odds), 0, 100), rows.leaves),
    }


def _gain(rows: Rows, score: Floats, draws: int = 200) -> tuple[float, tuple[float, float]]:
    """How much more AUC than plain silence, and between what: of accounts drawn with replacement."""
    size = int(rows.account.max()) + 1
    random = np.random.default_rng(20250101)
    order = np.argsort(rows.account, kind="stable")
    begins = np.searchsorted(rows.account[order], np.arange(size + 1))
    few = [order[begins[n] : begins[n + 1]] for n in range(size)]
    gains = []
    for _ in range(draws):
        chosen = np.concatenate([few[n] for n in random.integers(0, size, size)])
        leaves = rows.leaves[chosen]
        if leaves.any() and not leaves.all():
            gains.append(auc(leaves, score[chosen]) - auc(leaves, rows.plain_silence[chosen]))
    low, high = np.percentile(gains, [2.5, 97.5])
    gain = auc(rows.leaves, score) - auc(rows.leaves, rows.plain_silence)
    return gain, (float(low), float(high))


def bands(score: Floats, leaves: Bools) -> Mapping[str, Mapping[str, float]]:
    found = {}
    for name, (least, below) in BANDS.items():
        inside = (score >= least) & (score < below)
        found[name] = {
            "of_weeks": float(inside.mean()),
            "leave": float(leaves[inside].mean()) if inside.any() else 0.0,
            "of_leavers": float(inside[leaves].mean()),
            "of_stayers": float(inside[~leaves].mean()),
        }
    return found


def seconds_per_day(together: int = 100_000, days: Sequence[int] = (50, 200, 800)) -> Mapping[str, float]:
    """CPU microseconds per active day of an evaluation of accounts with so many of them: the same for any number."""
    found = {}
    for number in days:
        accounts = together // number
        active = DaySets(
            account=np.repeat(np.arange(accounts), number),
            day=np.tile(np.arange(number), accounts),
            start=np.zeros(accounts, dtype=np.int64),
        )
        rounds = []
        for _ in range(5):
            begun = time.process_time()
            rhythm(active, np.full(accounts, number), SHIPPED)
            rounds.append(time.process_time() - begun)
        found[str(number)] = min(rounds) / (accounts * number) * 1e6
    return found


def report(directory: Path) -> Mapping[str, Any]:
    """Everything, as --json prints it; raises HistoryError."""
    history = read_history(directory)
    half = np.arange(len(history)) < len(history) // 2
    fleets = weekly_fleets(history, half)
    populations = [judge(history, fleets, half, who) for who in POPULATIONS]
    return {
        "history": {
            "accounts": len(history),
            "active_days": len(history.active.day),
            "cancelled": int((history.cancelled < NEVER).sum()),
            "first_day": history.first_day.isoformat(),
            "weeks": len(history.weeks),
            "rows_of_unknown_accounts": history.left_out,
        },
        "fleet": {"mean_pause_days": fleets[-1].mean_pause, "recent_days": fleets[-1].recent_days},
        "populations": [found for found in populations if found is not None],
        "microseconds_per_active_day": seconds_per_day(),
    }


def show(found: Mapping[str, Any]) -> None:
    history, fleet = found["history"], found["fleet"]
    print(
        f"{history['accounts']:,} accounts, {history['cancelled']:,} of them cancelled, {history['active_days']:,} "
        f"active days from {history['first_day']} on, judged at the end of {history['weeks']} weeks"
    )
    if history["rows_of_unknown_accounts"]:
        print(f"{history['rows_of_unknown_accounts']:,} rows of activity are of accounts not in accounts.csv: left out")
    print(f"mean pause {fleet['mean_pause_days']:.1f} days, recent days are the last {fleet['recent_days']}")
    for one in found["populations"]:
        _show_population(one)
    spent = found["microseconds_per_active_day"].items()
    print("\nCPU µs per active day, by active days of an account:", ", ".join(f"{n}: {us:.2f}" for n, us in spent))


def _show_population(one: Mapping[str, Any]) -> None:
    print(f"\n{one['population']}: {one['account_weeks']:,} account-weeks of the second half, "
          f"{one['leave']:.1%} leave; base rate of the first half {one['base_rate_learnt']:.1%}")  # fmt: skip
    print(f"{'':<24}{'AUC':>8}{'top 5 %':>10}{'Brier':>10}")
    for name, method in one["methods"].items():
        brier = "" if method["brier"] is None else f"{method['brier']:.4f}"
        print(f"{name:<24}{method['auc']:>8.4f}{method['precision_top_5_percent']:>10.3f}{brier:>10}")
    low, high = one["gain_95_percent"]
    print(f"{'rhythm − plain silence':<24}{one['gain']:>+8.4f}  95 %: {low:+.4f} to {high:+.4f}, accounts drawn anew")
    print(f"\n{'rhythm score':<16}{'of weeks':>10}{'leave':>8}{'of leavers':>12}{'of stayers':>12}")
    for name, band in one["bands"].items():
        print(f"{name:<16}{band['of_weeks']:>10.1%}{band['leave']:>8.1%}{band['of_leavers']:>12.1%}"
              f"{band['of_stayers']:>12.1%}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--json", action="store_true", help="all figures as JSON")
    given = parser.parse_args()
    try:
        found = report(given.directory)
    except HistoryError as error:
        raise SystemExit(str(error)) from None
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    if not found["populations"]:
        raise SystemExit(f"less than {ENOUGH} account-weeks of either half leave, or stay: nothing can be said")
    if any(one["gain"] <= 0 for one in found["populations"]):
        raise SystemExit("the rhythm does not beat plain silence")


if __name__ == "__main__":
    main()
