"""Many faults, one after the other, on a road under load; then the ledger against the facts.

    python -m tests.faults.campaign --injections 200

Prints each injection as it happens and a table at the end; the seed that it names repeats the choices (not the
timing). Ends with status 1 when anything was lost or counted twice.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import contextlib
import ctypes
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.faults.injections import FAULTS, Fault
from tests.faults.ledger import Ledger, Verdict
from tests.faults.rig import ROOT, NotRecovered, Rig, rigged_road

SMALL_DISK = b"size=288m,mode=0755"
SMALL_DISK_SETTINGS = {"max_wal_size": "48MB", "min_wal_size": "32MB"}
RATE = 150.0
LEFT = "client left"

Report = dict[str, Any]
Tell = Callable[[str], None]


@dataclass(kw_only=True)
class Injection:
    """``recovery_seconds``: from the end of the fault until all that had been acknowledged was in the facts and both
    doors acknowledged again."""

    number: int
    fault: str
    detail: str
    began_at: float
    recovery_seconds: float


def planned(faults: Sequence[Fault], count: int, chance: random.Random) -> list[Fault]:
    """``count`` of them by weight, each at least once where that fits, in random order."""
    total = sum(fault.weight for fault in faults)
    shares = [max(1, round(count * fault.weight / total)) for fault in faults]
    plan = [fault for fault, share in zip(faults, shares, strict=True) for _ in range(share)]
    plan += chance.choices(faults, [fault.weight for fault in faults], k=max(0, count - len(plan)))
    chance.shuffle(plan)
    return plan[:count]


async def inject(rig: Rig, plan: Sequence[Fault], chance: random.Random, tell: Tell) -> list[Injection]:
    done: list[Injection] = []
    began = time.monotonic()
    for number, fault in enumerate(plan, start=1):
        await asyncio.sleep(chance.uniform(0.1, 0.8))
        began_at = time.time()
        try:
            detail = await fault.inject(rig, chance)
        except TimeoutError as error:
            tell(f"{number:>4} {fault.name}: NOT INJECTED, {error}")
            await rig.recovered(time.time())
            continue
        try:
            seconds = await rig.recovered(time.time())
        except NotRecovered as error:
            tell(f"{number:>4} {fault.name} ({detail}): NOT RECOVERED, no further injections\n{error}")
            seconds = math.inf
        done.append(
            Injection(number=number, fault=fault.name, detail=detail, began_at=began_at, recovery_seconds=seconds)
        )
        if seconds == math.inf:
            break
        tell(f"{number:>4}/{len(plan)} {time.monotonic() - began:6.0f} s  {fault.name} ({detail}): {seconds:.1f} s")
    return done


async def run(folder: Path, plan: Sequence[Fault], *, seed: str, rate: float, tell: Tell, small: bool) -> Report:
    """One road, the faults of ``plan``, the comparison."""
    chance = random.Random(seed)
    settings = SMALL_DISK_SETTINGS if small else None
    async with rigged_road(folder, seed=seed, rate=rate, settings=settings) as rig:
        done = await inject(rig, plan, chance, tell)
        verdict = await rig.drained()
        ends = {name: process.ends for name, process in rig.processes.items() if process.ends}
    return {
        "injections": [asdict(injection) for injection in done],
        "faults": _by_fault(done, rig.ledger, verdict),
        "totals": {
            "sent": verdict.sent, "acknowledged": verdict.acknowledged, "lost": len(verdict.lost),
            "double": len(verdict.double), "unknown": len(verdict.unknown),
        },
        "lost": verdict.lost, "double": verdict.double, "unknown": verdict.unknown,
        "differences": verdict.differences,
        "clients_said": verdict.said,
        "roles_ended_by_themselves": ends,
        "acks": sorted(rig.acks),
    }  # fmt: skip


def _by_fault(done: Sequence[Injection], ledger: Ledger, verdict: Verdict) -> dict[str, Report]:
    """An event belongs to the fault during which, or after which, it was first sent."""
    starts = [injection.began_at for injection in done]
    lost, double = set(verdict.lost), set(verdict.double)
    rows: dict[str, Report] = {}
    for injection in done:
        row = rows.setdefault(
            injection.fault, {"injections": 0, "acknowledged": 0, "lost": 0, "double": 0, "recovery_seconds": []}
        )
        row["injections"] += 1
        row["recovery_seconds"].append(round(injection.recovery_seconds, 2))
    for event_id, sent in ledger.sent.items():
        place = bisect.bisect_right(starts, sent.at) - 1
        if place < 0:
            continue
        row = rows[done[place].fault]
        row["acknowledged"] += sent.acknowledged_at is not None
        row["lost"] += event_id in lost
        row["double"] += event_id in double
    return rows


def table(report: Report) -> str:
    """The figures as text."""
    lines = [f"{'fault':<36}{'injections':>11}{'acknowledged':>14}{'lost':>6}{'double':>8}   recovery p50/p95/max, s"]
    rows = sorted(report["faults"].items(), key=lambda item: [f.name for f in FAULTS].index(item[0]))
    for name, row in rows:
        seconds = sorted(row["recovery_seconds"])
        figures = " / ".join(f"{quantile(seconds, share):.1f}" for share in (0.5, 0.95, 1.0))
        lines.append(
            f"{name:<36}{row['injections']:>11}{row['acknowledged']:>14,}{row['lost']:>6}{row['double']:>8}   {figures}"
        )
    totals = report["totals"]
    lines.append(
        f"{'all':<36}{len(report['injections']):>11}{totals['acknowledged']:>14,}{totals['lost']:>6}"
        f"{totals['double']:>8}"
    )
    left, again = report["clients_said"].get(LEFT, 0), report["clients_said"].get("sent again", 0)
    lines.append(f"besides: {left} clients left in the middle of a request, {again} acknowledged events sent again")
    return "\n".join(lines)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share does not exceed."""
    return ordered[max(0, -(-int(share * len(ordered) * 1000) // 1000) - 1)]


def good(report: Report) -> bool:
    recovered = all(injection["recovery_seconds"] < math.inf for injection in report["injections"])
    return recovered and not any(report[name] for name in ("lost", "double", "unknown", "differences"))


def merged(reports: Sequence[Report]) -> Report:
    found: Report = {"injections": [], "faults": {}, "totals": {}, "clients_said": {}, "roles_ended_by_themselves": {}}
    found |= {name: [] for name in ("lost", "double", "unknown", "differences")}
    for report in reports:
        for name, row in report["faults"].items():
            known = found["faults"].setdefault(name, {key: type(value)() for key, value in row.items()})
            for key, value in row.items():
                known[key] += value
        for name in ("injections", "lost", "double", "unknown", "differences"):
            found[name] += report[name]
        for name in ("totals", "clients_said"):
            for key, count in report[name].items():
                found[name][key] = found[name].get(key, 0) + count
        for role, ends in report["roles_ended_by_themselves"].items():
            found["roles_ended_by_themselves"].setdefault(role, []).extend(ends)
    return found


def namespace() -> tuple[list[str], str | None]:
    """The command that gives a process mounts of its own; why not, when this system does not allow it."""
    command = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        command = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount"]
    try:
        done = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return command, "there is no unshare(1) here"
    return command, done.stderr.strip() or "unshare is refused" if done.returncode else None


def on_a_small_disk(count: int, *, seed: str, rate: float, out: Path) -> int:
    """Runs the faults that need one, in a mount namespace; returns the exit status, the report is in ``out``."""
    command, problem = namespace()
    if problem:
        raise RuntimeError(problem)
    arguments = ["--small-disk", "--injections", str(count), "--seed", seed, "--rate", str(rate), "--out", str(out)]
    return subprocess.run(
        [*command, sys.executable, "-m", "tests.faults.campaign", *arguments], cwd=ROOT, check=False
    ).returncode


def _mount_small_disk(folder: Path) -> None:
    folder.mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, SMALL_DISK) != 0:
        raise OSError(ctypes.get_errno(), "no small disk could be mounted")


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def _tell(line: str) -> None:
    print(line, flush=True)


def _campaign(chosen: argparse.Namespace, folder: Path) -> Report:
    chance = random.Random(f"{chosen.seed} plan")
    faults = [fault for fault in FAULTS if not chosen.only or any(word in fault.name for word in chosen.only)]
    if chosen.small_disk:
        faults = [fault for fault in faults if fault.small_disk]
        _mount_small_disk(folder / "road" / "postgres")
    plan = planned(faults, chosen.injections, chance)
    rest = [fault for fault in plan if fault.small_disk] if not chosen.small_disk else []
    plan = [fault for fault in plan if fault not in rest]
    reports = []
    if plan:
        work = run(folder / "road", plan, seed=chosen.seed, rate=chosen.rate, tell=_tell, small=chosen.small_disk)
        reports.append(asyncio.run(work))
    _, problem = namespace()
    if rest and problem:
        _tell(f"NOT RUN: {rest[0].name}, {len(rest)} injections: {problem}")
    elif rest:
        out = folder / "small-disk.json"
        on_a_small_disk(len(rest), seed=f"{chosen.seed}d", rate=chosen.rate, out=out)
        reports.append(json.loads(out.read_text()))
    return merged(reports)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--injections", type=int, default=200)
    parser.add_argument("--seed", help="of the choices; none: a new one")
    parser.add_argument("--rate", type=float, default=RATE, help="events per second")
    parser.add_argument("--only", nargs="+", help="faults whose name holds one of these words")
    parser.add_argument("--out", type=Path, help="write the report here, as JSON")
    parser.add_argument("--keep", type=Path, help="use this new folder, and keep its logs and ledger")
    parser.add_argument("--small-disk", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.seed = chosen.seed or f"{random.SystemRandom().randrange(10**6):06}"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped either way
    commit = _commit()
    _tell(f"seed {chosen.seed}, commit {commit}, {chosen.injections} injections")
    with contextlib.ExitStack() as stack:
        folder = chosen.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="kizashi-faults-", ignore_cleanup_errors=True))
        )
        folder.mkdir(parents=True, exist_ok=True)
        report = _campaign(chosen, folder) | {"seed": chosen.seed, "commit": commit}
    if chosen.out:
        chosen.out.write_text(json.dumps(report, indent=1))
    _tell(f"\n{table(report)}\nseed {chosen.seed}, commit {commit}")
    for name in ("lost", "double", "unknown", "differences", "clients_said", "roles_ended_by_themselves"):
        if report[name]:
            _tell(f"{name}: {report[name]}")
    raise SystemExit(0 if good(report) else 1)


if __name__ == "__main__":
    main()
