"""How well the rhythm foresees who leaves, on a real history: ``python -m bench.rhythm DIR``.

DIR holds ``accounts.csv`` and ``activity.csv.gz`` as `docs/examples/oulad-mapping.yaml` describes them (one course of
the Open University Learning Analytics dataset). Weeks in time order; the first half of the accounts gives pauses, clock
and base rate, the second half judges. Outcome of an account-week: the account cancels within 28 days, or was never seen
again and did not complete. Beside it plain silence in days, and a logistic regression on the same signals that is
fitted to the *outcomes* of the first half, which the rhythm is not.

Two populations: every account that has not cancelled, and only those not lost yet (an account that never returns
counts as lost 28 days after it was last seen; ranking it later is easy).
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.rhythm import Clock, DaySets, Fleet, Rhythm, calibrated, learn_fleet, population_clock, rhythm

HORIZON = 28
FIRST_WEEK = 2
NEVER = 10**6
COMPLETED = ("Pass", "Distinction")
TOP_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class History:
    """A accounts; days count from the first of the history. ``cancelled`` NEVER: not."""

    active: DaySets
    cancelled: Ints
    completed: Bools
    weeks: Ints

    @property
    def last(self) -> Ints:
        last = np.full(len(self.active), -NEVER)
        last[self.active.account] = self.active.day
        return last

    def outcome(self, day: int, *, lost_too: bool) -> tuple[Bools, Bools]:
        """(accounts that stand for judgement at the end of ``day``, whether they leave). Both (A,)."""
        gone = (self.last <= day) & ~self.completed
        stands = (self.cancelled > day) & (self.active.start <= day)
        if not lost_too:
            stands &= ~(gone & (self.last + HORIZON <= day))
        return stands, (self.cancelled <= day + HORIZON) | gone


def read(directory: Path) -> History:
    with (directory / "accounts.csv").open(encoding="utf-8") as file:
        accounts = list(csv.DictReader(file))
    with gzip.open(directory / "activity.csv.gz", "rt", encoding="utf-8") as file:
        rows = sorted(
            {(row["account_id"], date.fromisoformat(row["date"]).toordinal()) for row in csv.DictReader(file)}
        )
    origin = min(day for _, day in rows)
    place = {account["account_id"]: n for n, account in enumerate(accounts)}

    def days(column: str) -> Ints:
        values = [date.fromisoformat(a[column]).toordinal() - origin if a[column] else NEVER for a in accounts]
        return np.array(values, dtype=np.int64)

    pairs = np.array(sorted((place[account], day - origin) for account, day in rows), dtype=np.int64)
    start, end = days("started_on"), int(days("ended_on").max())
    begin = int(np.median(start)) + 7 * FIRST_WEEK
    return History(
        active=DaySets(account=pairs[:, 0], day=pairs[:, 1], start=start),
        cancelled=days("cancelled_on"),
        completed=np.array([a["final_result"] in COMPLETED for a in accounts]),
        weeks=np.arange(begin, end - HORIZON, 7),
    )


def learn(history: History, half: Bools, *, lost_too: bool) -> Fleet:
    """From the accounts of ``half`` alone."""
    chosen = np.flatnonzero(half)
    place = np.full(len(half), -1)
    place[chosen] = np.arange(len(chosen))
    mine = half[history.active.account]
    active = DaySets(
        account=place[history.active.account[mine]], day=history.active.day[mine], start=history.active.start[chosen]
    )
    outcomes = [history.outcome(int(day), lost_too=lost_too) for day in history.weeks]
    leaving = sum(int((leaves & stands & half).sum()) for stands, leaves in outcomes)
    base_rate = leaving / sum(int((stands & half).sum()) for stands, _ in outcomes)
    clock = population_clock(np.bincount(active.day, minlength=int(history.weeks[-1]) + HORIZON), 0)
    fleet = learn_fleet(active, int(history.weeks[-1]), base_rate=base_rate, clock=clock)
    seen = [
        _only(rhythm(history.active, np.full(len(half), day), fleet), stands & half)
        for day, (stands, _) in zip(history.weeks, outcomes, strict=True)
    ]
    return calibrated(fleet, seen)


def _only(found: Rhythm, chosen: Bools) -> Rhythm:
    parts = {name: part[chosen] for name, part in found.parts.items()}
    columns = {name: value[chosen] for name, value in vars(found).items() if name != "parts"}
    return Rhythm(**columns, parts=parts)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Account-weeks in a row: what is known of each, and what became of it."""

    week: Ints
    leaves: Bools
    found: Rhythm
    plain_silence: Floats

    @classmethod
    def of(cls, history: History, half: Bools, fleet: Fleet, *, lost_too: bool) -> Rows:
        weeks, leaving, found, silence = [], [], [], []
        plain = Fleet(**{**vars(fleet), "clock": Clock.plain()})
        for day in history.weeks:
            stands, leaves = history.outcome(int(day), lost_too=lost_too)
            chosen = stands & half
            at = np.full(len(half), day)
            found.append(_only(rhythm(history.active, at, fleet), chosen))
            silence.append(rhythm(history.active, at, plain).silence[chosen])
            leaving.append(leaves[chosen])
            weeks.append(at[chosen])
        columns = {
            name: np.concatenate([getattr(one, name) for one in found]) for name in vars(found[0]) if name != "parts"
        }
        parts = {name: np.concatenate([one.parts[name] for one in found]) for name in found[0].parts}
        return cls(
            week=np.concatenate(weeks),
            leaves=np.concatenate(leaving),
            found=Rhythm(**columns, parts=parts),
            plain_silence=np.concatenate(silence),
        )

    @property
    def features(self) -> Floats:
        found = self.found
        columns = [
            np.ones(len(self.leaves)), np.log1p(self.plain_silence), np.log(np.maximum(found.tail, 0.01)),
            np.log1p(found.active_days), np.log1p(found.recent_days), np.log(found.usual_pause),
        ]  # fmt: skip
        return np.stack(columns, axis=1)


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


def precision_at_top(rows: Rows, score: Floats) -> float:
    """Of the TOP_SHARE highest of each week, the share that leaves; ties are cut where they fall, in the accounts'
    order."""
    hits = taken = 0
    for week in np.unique(rows.week):
        inside = rows.week == week
        top = np.argsort(-score[inside], kind="stable")[: max(1, round(TOP_SHARE * int(inside.sum())))]
        hits += int(rows.leaves[inside][top].sum())
        taken += len(top)
    return hits / taken


def report(history: History, *, lost_too: bool) -> Mapping[str, float]:
    """Prints the tables; returns the AUC per method."""
    half = np.arange(len(history.active)) % 2 == 0
    fleet = learn(history, half, lost_too=lost_too)
    training = Rows.of(history, half, fleet, lost_too=lost_too)
    rows = Rows.of(history, ~half, fleet, lost_too=lost_too)
    fitted = 1 / (1 + np.exp(-rows.features @ logistic(training.features, training.leaves)))
    base = float(rows.leaves.mean())
    who = "all that have not cancelled" if lost_too else "only those not lost yet"
    print(f"\n{who}: {len(rows.leaves):,} account-weeks, {base:.1%} leave; base rate learnt {fleet.base_rate:.1%}")
    print(f"{'':<24}{'AUC':>8}{'top 5 %':>10}{'Brier':>10}")
    scores = {"rhythm": rows.found.probability, "plain silence": rows.plain_silence, "logistic regression": fitted}
    found = {}
    for name, score in scores.items():
        found[name] = auc(rows.leaves, score)
        brier = "" if name == "plain silence" else f"{np.mean((score - rows.leaves) ** 2):.4f}"
        print(f"{name:<24}{found[name]:>8.4f}{precision_at_top(rows, score):>10.3f}{brier:>10}")
    print(f"{'always the base rate':<24}{0.5:>8.4f}{base:>10.3f}{np.mean((base - rows.leaves) ** 2):>10.4f}")
    print(f"\n{'rhythm score':<16}{'of weeks':>10}{'leave':>8}{'of leavers':>12}{'of stayers':>12}")
    score = rows.found.score
    for name, inside in {"red": score < 40, "yellow": (score >= 40) & (score < 70), "green": score >= 70}.items():
        shares = (inside.mean(), rows.leaves[inside].mean(), inside[rows.leaves].mean(), inside[~rows.leaves].mean())
        print(f"{name:<16}{shares[0]:>10.1%}{shares[1]:>8.1%}{shares[2]:>12.1%}{shares[3]:>12.1%}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    history = read(parser.parse_args().directory)
    worse = [
        who for who in (True, False) if (found := report(history, lost_too=who))["rhythm"] <= found["plain silence"]
    ]
    if worse:
        raise SystemExit("the rhythm does not beat plain silence")


if __name__ == "__main__":
    main()
