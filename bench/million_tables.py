"""A million accounts made by SQL, with facts and health rows as consumers and evaluators leave them.

Each account has its attributes, two months of day counts, two users, two features with their month, and a health row of
some 60 signals, evaluated under a scorecard that is not the present one. Last logins lie within 6 days, of one in 25
between 14 and 40 days.
"""

from __future__ import annotations

import time
from typing import Any, Final

CHUNK: Final = 50_000

NUMBERS: Final = """
CREATE TEMPORARY TABLE numbers AS
SELECT format('acct-%s', lpad(n::text, 7, '0')) AS account_id, n,
    now() - make_interval(days => CASE WHEN n % 25 = 0 THEN 14 + n % 27 ELSE n % 5 END,
                          secs => (n::bigint * 7919 % 86400)::float8) AS last_at
FROM generate_series($1::int, $2::int) AS n
"""
REGISTER: Final = "jsonb_build_object('v', {}, 't', 1700000000000000, 'k', 'bench:1')"
STEPS: Final = (
    """
INSERT INTO accounts (account_id, first_event_at, last_event_at, last_login_at, last_activity_at, events, logins,
    version, changed_at, sources)
SELECT account_id, now() - interval '200 days', last_at, last_at, last_at, 400, 60, 1, last_at, 1 FROM numbers
""",
    f"""
INSERT INTO account_attributes (account_id, fields)
SELECT account_id, jsonb_build_object(
    'name', {REGISTER.format("'Account ' || n")},
    'plan', {REGISTER.format("(ARRAY['free', 'team', 'pro'])[1 + n % 3]")},
    'mrr', {REGISTER.format("n % 997 * 10")}, 'currency', {REGISTER.format("'EUR'::text")},
    'owner', {REGISTER.format("'owner-' || n % 40")}, 'seats', {REGISTER.format("5 + n % 50")},
    'renewal_on', {REGISTER.format("to_char(now() + make_interval(days => 100 + n % 200), 'YYYY-MM-DD')")})
FROM numbers
""",
    """
INSERT INTO account_months (account_id, month, logins, events, active_days)
SELECT account_id, month::date, array_agg(CASE WHEN active THEN 1 ELSE 0 END ORDER BY day),
    array_agg(CASE WHEN active THEN 3 + n % 5 ELSE 0 END ORDER BY day),
    sum(CASE WHEN active THEN 1 << (day - 1) ELSE 0 END)
FROM (
    SELECT account_id, n, month, day,
        (n * 31 + day * 17) % 7 < 3 AND month + make_interval(days => day - 1) <= last_at AT TIME ZONE 'UTC' AS active
    FROM numbers, (VALUES (date_trunc('month', now() AT TIME ZONE 'UTC')),
        (date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month')) AS months(month),
        generate_series(1, 31) AS day
) AS days GROUP BY account_id, month
""",
    """
INSERT INTO user_months (account_id, month, user_id, active_days, last_at)
SELECT account_id, date_trunc('month', last_at AT TIME ZONE 'UTC')::date, 'u-' || u, 73, last_at
FROM numbers, generate_series(1, 2) AS u
""",
    """
INSERT INTO features (account_id, feature, first_at, last_at, quantity)
SELECT account_id, f, now() - interval '200 days', last_at, 90 FROM numbers, (VALUES ('export'), ('report')) AS x(f)
""",
    """
INSERT INTO feature_months (account_id, month, feature, quantities, active_days)
SELECT account_id, date_trunc('month', last_at AT TIME ZONE 'UTC')::date, f, array_fill(1, ARRAY[31]), 73
FROM numbers, (VALUES ('export'), ('report')) AS x(f)
""",
    """
INSERT INTO health (account_id, name, plan, owner, status, mrr, currency, score, band, mrr_at_risk, last_seen_at,
    last_login_at, signals, contributions, scorecard, facts_version, evaluated_at, due_at)
SELECT account_id, 'Account ' || n, 'team', 'owner-' || n % 40, 'active', n % 997 * 10, 'EUR', score,
    CASE WHEN score >= 70 THEN 'green' WHEN score >= 40 THEN 'yellow' ELSE 'red' END,
    CASE WHEN score >= 70 THEN 0 WHEN score >= 40 THEN 0.5 ELSE 1 END * (n % 997 * 10), last_at, last_at,
    (SELECT jsonb_object_agg('signal_number_' || s, (n + s) % 100) FROM generate_series(1, 60) AS s),
    (SELECT jsonb_agg(jsonb_build_object('measure', 'measure-' || m, 'group', 'Engagement', 'weight', 10, 'points',
        n % 100, 'contribution', 7.5, 'value', n % 30)) FROM generate_series(1, 10) AS m),
    'another@0', 1, now() - interval '3 hours', now() + interval '6 hours' + make_interval(secs => n % 3600)
FROM (SELECT *, 20 + n * 13 % 80 AS score FROM numbers) AS scored
""",
)


async def fill(connection: Any, accounts: int) -> None:
    began = time.monotonic()
    await connection.execute("SET synchronous_commit = off")
    for start in range(0, accounts, CHUNK):
        async with connection.transaction():
            await connection.execute("DROP TABLE IF EXISTS numbers")
            first, last = start + 1, min(start + CHUNK, accounts)
            await connection.execute(NUMBERS.replace("$1", str(first)).replace("$2", str(last)))
            for step in STEPS:
                await connection.execute(step)
        print(f"# {last:,} accounts made, {time.monotonic() - began:.0f} s", flush=True)
    await connection.execute("VACUUM ANALYZE")
    size = await connection.fetchval("SELECT pg_database_size(current_database())")
    print(f"# the database has {size / 2**30:.1f} GiB; made in {time.monotonic() - began:.0f} s", flush=True)
