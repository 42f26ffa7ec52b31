"""A real history through the whole road: ``python -m bench.real_history DIR``.

DIR holds ``accounts.csv`` and ``activity.csv.gz`` as ``docs/examples/oulad-mapping.yaml`` describes them. Everything is
real: Apache Kafka, PostgreSQL, the service's own processes. Shows that every row is accounted for, that SIGKILL of
the consumer and of the backfill changes nothing, that silent accounts are on the lists for the right reason, that
ended ones are not, and that nobody is told about the past.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gzip
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bench.history_run import ROOT, Stage, fingerprint_now, run_killed, run_through
from embedded.kafka import EmbeddedKafka
from embedded.postgres import EmbeddedPostgres
from service.db import make_engine, migrate

MAPPING = ROOT / "docs" / "examples" / "oulad-mapping.yaml"
TOPIC, PARTITIONS = "kizashi.events", 32
EVALUATION_SECONDS = 600.0
QUIET_SECONDS = 20.0
"""How long after the last evaluation deliveries are still looked for."""

SUMS = """
SELECT (SELECT count(*) FROM accounts) AS accounts,
    (SELECT sum(events) FROM accounts) AS activity_events,
    (SELECT sum(events) FROM source_hours) AS events,
    (SELECT sum(quantity)::bigint / 1000 FROM features) AS clicks,
    (SELECT count(*) FROM record_events WHERE data->>'change' = 'ended') AS cancelled,
    (SELECT count(*) FROM dead_letters) AS dead_letters,
    (SELECT events_sent FROM imports) AS events_sent, (SELECT rows_sent FROM imports) AS rows_sent,
    (SELECT rows_refused FROM imports) AS rows_refused, (SELECT shift_us FROM imports) AS shift_us
"""
BACKLOG = """
SELECT (SELECT count(*) FROM touched) + (SELECT count(*) FROM accounts a LEFT JOIN health h USING (account_id)
    WHERE h.facts_version IS DISTINCT FROM a.version) AS waiting
"""
PER_RULE = """
SELECT e.rule_id, count(*) AS opened, count(*) FILTER (WHERE e.state = 'open') AS open,
    count(*) FILTER (WHERE e.pre_existing) AS pre_existing,
    count(DISTINCT d.delivery_id) AS delivered
FROM episodes e LEFT JOIN deliveries d USING (episode_id) GROUP BY 1 ORDER BY 1
"""
WRONG = """
SELECT count(*) FILTER (WHERE h.status = 'ended' AND e.state = 'open') AS ended_on_the_lists,
    count(*) FILTER (WHERE e.pre_existing AND d.delivery_id IS NOT NULL) AS told_about_the_past
FROM episodes e JOIN health h USING (account_id) LEFT JOIN deliveries d USING (episode_id)
"""
SILENT = """
SELECT count(*) AS silent, count(e.episode_id) AS listed,
    count(*) FILTER (WHERE substring(e.reason->>'en' from '([0-9]+) days')::int
        = floor(extract(epoch from e.opened_at - coalesce(a.last_activity_at, a.started_at)) / 86400)) AS rightly
FROM accounts a
JOIN health h USING (account_id)
LEFT JOIN episodes e ON e.account_id = a.account_id AND e.rule_id = 'no-activity' AND e.state = 'open'
WHERE coalesce(h.status, '') <> 'ended'
    AND coalesce(a.last_activity_at, a.started_at) <= h.evaluated_at - interval '7 days'
"""
EXAMPLE = """
SELECT e.account_id, e.rule_id, e.reason->>'en' AS reason, e.since, a.last_activity_at FROM episodes e
JOIN accounts a USING (account_id) WHERE e.state = 'open' AND e.rule_id = 'no-activity' ORDER BY e.since LIMIT 3
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    files = [options.directory / name for name in ("accounts.csv", "activity.csv.gz")]
    arguments = [*map(str, files), "--mapping", str(MAPPING), "--shift-to-now"]
    expected = expectations(*files)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kizashi-history-")))
        folder.chmod(0o755)  # PostgreSQL may run as another user, below it
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
        kafka = stack.enter_context(EmbeddedKafka(folder / "kafka"))
        calm = stack.enter_context(stage(folder, "calm", postgres, kafka))
        killed = stack.enter_context(stage(folder, "killed", postgres, kafka))
        problems = calmly(calm, arguments, expected)
        problems += disturbed(killed, calm, arguments, options.kills, options.seed)
    print("\n" + ("\n".join(f"WRONG: {problem}" for problem in problems) or "All of it holds."))
    sys.exit(bool(problems))


def expectations(accounts: Path, activity: Path) -> dict[str, int]:
    """What the files themselves say."""
    with accounts.open(newline="") as file:
        rows = list(csv.DictReader(file))
    cancelled = sum(bool(row["cancelled_on"]) for row in rows)
    with gzip.open(activity, "rt", newline="") as file:
        clicks = [int(row["events"]) for row in csv.DictReader(file)]
    return {
        "accounts": len(rows), "activity_events": len(clicks), "clicks": sum(clicks), "cancelled": cancelled,
        "events": 2 * len(rows) + cancelled + len(clicks), "events_sent": 2 * len(rows) + cancelled + len(clicks),
        "rows_sent": len(rows) + len(clicks), "rows_refused": 0, "dead_letters": 0,
    }  # fmt: skip


@contextmanager
def stage(folder: Path, name: str, postgres: EmbeddedPostgres, kafka: EmbeddedKafka) -> Iterator[Stage]:
    """A database, a topic and a folder of its own."""
    database, topic = f"kizashi_{name}", f"{TOPIC}.{name}"
    postgres.create_database(database)
    migrate(postgres.dsn(database))
    kafka.create_topic(topic, PARTITIONS)
    logs = folder / name
    logs.mkdir()
    made = Stage(
        folder=logs,
        environment={
            "KIZASHI_DATABASE_URL": postgres.dsn(database), "KIZASHI_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "KIZASHI_EVENTS_TOPICS": f'["{topic}"]', "KIZASHI_CONSUMER_GROUP": name,
            # Channels that alerts would go to; no sender runs, so that what is meant for them stays to be counted.
            "KIZASHI_SMTP_HOST": "127.0.0.1", "KIZASHI_DEFAULT_RECIPIENT": "team@example.com",
        },
    )  # fmt: skip
    try:
        yield made
    finally:
        made.stop()


def calmly(stage: Stage, arguments: list[str], expected: Mapping[str, int]) -> list[str]:
    """Consumer and evaluator run; nothing is disturbed."""
    stage.role("consumer")
    stage.role("evaluator")
    seconds = run_through(stage, arguments)
    sums = query(stage, SUMS)[0]
    print(f"\nSent and applied in {seconds:.1f} s ({sums['rows_sent'] / seconds:,.0f} rows/s), "
          f"laid {sums['shift_us'] // 86_400_000_000:,} days later.")  # fmt: skip
    problems = []
    for name, wanted in expected.items():
        print(f"  {name:<16} file {wanted:>10,}   facts {sums[name]:>10,}")
        if sums[name] != wanted:
            problems.append(f"{name}: {sums[name]} instead of {wanted}")
    begun = time.monotonic()
    while query(stage, BACKLOG)[0]["waiting"] and time.monotonic() - begun < EVALUATION_SECONDS:
        time.sleep(1)
    print(f"Everybody evaluated {time.monotonic() - begun:.1f} s later; watching {QUIET_SECONDS:.0f} s more.")
    time.sleep(QUIET_SECONDS)
    return problems + alerts(stage)


def alerts(stage: Stage) -> list[str]:
    """What the evaluator made of the past."""
    print(f"  {'rule':<28}{'opened':>8}{'open':>8}{'pre-existing':>14}{'delivered':>11}")
    for row in query(stage, PER_RULE):
        counts = f"{row['opened']:>8}{row['open']:>8}{row['pre_existing']:>14}{row['delivered']:>11}"
        print(f"  {row['rule_id']:<28}{counts}")
    for row in query(stage, EXAMPLE):
        print(f"  e.g. {row['account_id']}: {row['reason']} (since {row['since']:%Y-%m-%d %H:%M}, "
              f"last active {row['last_activity_at']})")  # fmt: skip
    wrong, silent = query(stage, WRONG)[0], query(stage, SILENT)[0]
    delivered = query(stage, "SELECT count(*) AS n FROM deliveries")[0]["n"]
    print(f"  silent for 7 days and not ended: {silent['silent']}, on the list for it: {silent['listed']}, "
          f"with the right days in its reason: {silent['rightly']}; "
          f"ended on the lists: {wrong['ended_on_the_lists']}; deliveries: {delivered}")  # fmt: skip
    problems = [f"{name}: {count}" for name, count in wrong.items() if count]
    if silent["silent"] == 0 or silent["listed"] != silent["silent"]:
        problems.append(f"of {silent['silent']} silent accounts {silent['listed']} are on the list")
    if silent["rightly"] != silent["listed"]:
        problems.append(f"{silent['listed'] - silent['rightly']} reasons tell another time than the facts")
    if delivered:
        problems.append(f"{delivered} deliveries about a past that was imported")
    return problems


def disturbed(stage: Stage, calm: Stage, arguments: list[str], kills: int, seed: int) -> list[str]:
    """The same history again, into another database and topic, with SIGKILL in between."""
    begun = time.monotonic()
    # Paced tightly, so that it takes long enough to be hit in its middle.
    paced = [*arguments, "--max-unread-kib", "32"]
    run_killed(stage, paced, seed=seed, kills=kills)
    same = [facts(stage), facts(calm)]
    shifts = [query(each, "SELECT shift_us FROM imports")[0]["shift_us"] for each in (stage, calm)]
    print(f"\n{stage.kills} SIGKILLs in {time.monotonic() - begun:.1f} s (seed {seed}); it went on after rows "
          f"{', '.join(str(row) for row in stage.resumed_after()) or 'none'}.")  # fmt: skip
    for table, found in same[0].items():
        print(f"  {table:<20}{found:<28}{'same' if found == same[1][table] else 'OTHER: ' + same[1][table]}")
    if shifts[0] != shifts[1]:
        return ["the two runs were laid onto different days (noon came between): run it again"]
    return [f"{table} differs after the kills" for table, found in same[0].items() if found != same[1][table]]


def facts(stage: Stage) -> dict[str, str]:
    return fingerprint_now(stage.environment["KIZASHI_DATABASE_URL"])


def query(stage: Stage, statement: str) -> list[Mapping[str, Any]]:
    async def run() -> list[Mapping[str, Any]]:
        engine = make_engine(stage.environment["KIZASHI_DATABASE_URL"], pool_size=1)
        try:
            async with engine.connect() as conn:
                return [dict(row) for row in (await conn.execute(text(statement))).mappings()]
        finally:
            await engine.dispose()

    return asyncio.run(run())


if __name__ == "__main__":
    main()
