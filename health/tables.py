"""The facts: what is known of every account, one SQLAlchemy Core table per kind of fact.

The consumers add to these tables, health and the service read them. Every column that the pipeline writes names how two
values of it merge (``Merge``), so that the content of a table is a function of the *set* of events: the order, the
batching and the redelivery of events do not matter. ``consumers/store.py`` builds its upserts from these marks alone.

Times are ``timestamptz``; days are UTC days; ``month`` is the first day of a UTC month and a day array has 31 places,
place 1 being the first of the month. Quantities are thousandths (``QUANTITY_SCALE``), so that sums are exact in any
order.
"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    Float,
    Identity,
    Index,
    Integer,
    Interval,
    MetaData,
    Numeric,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

Merge = Literal["key", "max", "min", "add", "or", "add_days", "registers", "once"]
"""How two values of a column merge.

``max``/``min`` ignore NULL; ``add`` sums; ``or`` sets bits; ``add_days`` adds day arrays place by place;
``registers`` keeps per field the value with the greatest (event time, event key); ``once`` is written by the first
row and never changed, used only where every event with that key carries the same value.
"""

QUANTITY_SCALE = 1000
"""Stored quantities are whole thousandths."""

HISTORY_ATTRIBUTES = ("plan", "mrr", "currency", "owner", "renewal_on", "segment", "status", "seats")
"""Attributes of an account whose every value is kept, with *valid from* (event time) and *known at* (arrival)."""

TZ = TIMESTAMP(timezone=True)
ID = Text(collation="C")  # byte order, so that Python's sorted() and Postgres agree on the lock order


def key(name: str, type_: Any, **kw: Any) -> Column[Any]:
    return Column(name, type_, primary_key=True, info={"merge": "key"}, **kw)


def fact(name: str, type_: Any, merge: Merge, **kw: Any) -> Column[Any]:
    return Column(name, type_, info={"merge": merge}, **kw)


DAY_COUNTS = ARRAY(BigInteger)

accounts = Table(
    "accounts",
    metadata,
    key("account_id", ID),
    fact("first_event_at", TZ, "min"),
    fact("last_event_at", TZ, "max"),
    fact("started_at", TZ, "min"),  # explicit start (group trait started_at, trial or subscription start)
    fact("last_login_at", TZ, "max"),
    fact("last_activity_at", TZ, "max"),  # login, usage, session or custom activity by the account's people
    fact("last_contact_at", TZ, "max"),
    fact("events", BigInteger, "add", nullable=False, server_default="0"),
    fact("logins", BigInteger, "add", nullable=False, server_default="0"),
    fact("version", BigInteger, "add", nullable=False, server_default="0"),  # +1 per batch that touched the account
    fact("changed_at", TZ, "max", nullable=False),  # wall time of the last batch
    fact("imported_until", TZ, "max"),  # wall time of the last applied row of an import
    fact("sources", BigInteger, "or", nullable=False, server_default="0"),  # health/source_bits.py; -1: any
    comment="The account row: hot, no index beside its key, written last in each transaction",
    postgresql_with={"fillfactor": 70},
)

account_attributes = Table(
    "account_attributes",
    metadata,
    key("account_id", ID),
    fact("fields", JSONB, "registers", nullable=False),
    comment='Current attributes: {"plan": {"v": "pro", "t": 1700000000000000, "k": "source:event_id"}, …}; t in µs',
    postgresql_with={"fillfactor": 80},
)

account_history = Table(
    "account_history",
    metadata,
    key("account_id", ID),
    key("attribute", Text),
    key("valid_from", TZ),
    key("event_key", Text),
    fact("value", JSONB, "once"),
    fact("known_at", TZ, "min", nullable=False),
)

account_months = Table(
    "account_months",
    metadata,
    key("account_id", ID),
    key("month", Date),
    fact("logins", DAY_COUNTS, "add_days", nullable=False),
    fact("events", DAY_COUNTS, "add_days", nullable=False),  # logins and usage and custom activity
    fact("active_days", Integer, "or", nullable=False),  # bit d-1 set: active on day d
    postgresql_with={"fillfactor": 80},
)

user_months = Table(
    "user_months",
    metadata,
    key("account_id", ID),
    key("month", Date),
    key("user_id", Text),
    fact("active_days", Integer, "or", nullable=False),
    fact("last_at", TZ, "max", nullable=False),
    postgresql_with={"fillfactor": 80},
)

users = Table(
    "users",
    metadata,
    key("account_id", ID),
    key("user_id", Text),
    fact("fields", JSONB, "registers", nullable=False),
    fact("first_identified_at", TZ, "min", nullable=False),
)

features = Table(
    "features",
    metadata,
    key("account_id", ID),
    key("feature", Text),
    fact("first_at", TZ, "min", nullable=False),
    fact("last_at", TZ, "max", nullable=False),
    fact("quantity", BigInteger, "add", nullable=False),
    postgresql_with={"fillfactor": 80},
)

feature_months = Table(
    "feature_months",
    metadata,
    key("account_id", ID),
    key("month", Date),
    key("feature", Text),
    fact("quantities", DAY_COUNTS, "add_days", nullable=False),
    fact("active_days", Integer, "or", nullable=False),
    postgresql_with={"fillfactor": 80},
)

records = Table(
    "records",
    metadata,
    key("account_id", ID),
    key("kind", Text),  # ticket | payment | survey | milestone | goal | contact | session | subscription
    key("record_id", Text),
    fact("first_at", TZ, "min", nullable=False),
    fact("last_at", TZ, "max", nullable=False),
    fact("fields", JSONB, "registers", nullable=False),
    comment="A row per ticket, payment, …: its fields as registers, its state in fields.status",
    postgresql_with={"fillfactor": 80},
)

record_events = Table(
    "record_events",
    metadata,
    key("account_id", ID),
    key("kind", Text),
    key("record_id", Text),
    key("at", TZ),
    key("event_key", Text),
    fact("user_id", Text, "once"),
    fact("data", JSONB, "once", nullable=False),
    fact("known_at", TZ, "min", nullable=False),
    Index("ix_record_events_timeline", "account_id", text("at DESC")),
    comment="Every discrete fact as it happened, for the timeline and for seeing any past day as it was known then",
)

late_arrivals = Table(
    "late_arrivals",
    metadata,
    key("account_id", ID),
    key("event_day", Date),
    key("arrival_day", Date),
    fact("logins", BigInteger, "add", nullable=False),
    fact("events", BigInteger, "add", nullable=False),
    comment="What arrived after its own day was over, so that a backtest sees only what was known",
)

source_hours = Table(
    "source_hours",
    metadata,
    key("source", Text),
    key("hour", TZ),  # event time, UTC hour
    fact("events", BigInteger, "add", nullable=False),
)

sources = Table(
    "sources",
    metadata,
    key("source", Text),
    fact("first_event_at", TZ, "min", nullable=False),
    fact("last_event_at", TZ, "max", nullable=False),
    fact("last_live_at", TZ, "max"),  # arrival of the newest event that was not imported; NULL: only imports so far
    comment="Where events come from; a source without live events is never watched for silence",
)

FACT_TABLES: tuple[Table, ...] = (
    late_arrivals,
    record_events,
    records,
    feature_months,
    features,
    users,
    user_months,
    account_months,
    account_history,
    account_attributes,
    accounts,
    sources,
    source_hours,
)
"""The one order in which a transaction writes them (another order deadlocks). Of an account's own tables, the
account row comes last; after it the few rows that all consumers share, so that they are locked for as short as can
be."""

gaps = Table(
    "gaps",
    metadata,
    Column("gap_id", BigInteger, Identity(), primary_key=True),
    Column("source", Text),  # NULL: every source
    Column("from_at", TZ, nullable=False),
    Column("until_at", TZ),  # NULL while the gap goes on
    Column("state", Text, nullable=False),  # open | refilled | lost
    Column("reason", Text, nullable=False),
    Column("noticed_at", TZ, nullable=False),
    Column("closed_at", TZ),
    # A person noted it, or said what became of its data: the guard leaves it alone.
    Column("by_hand", Boolean, nullable=False, server_default="false"),
    # Ended by a person: its source is not waited for before it has sent again.
    Column("retired", Boolean, nullable=False, server_default="false"),
    Index(
        "uq_gaps_open_source",
        "source",
        unique=True,
        postgresql_where=text("state = 'open' AND until_at IS NULL"),
        postgresql_nulls_not_distinct=True,
    ),
    comment="Time during which a source was not observed; days-since subtract open and lost gaps",
)

watch = Table(
    "watch",
    metadata,
    Column("one", Boolean, primary_key=True),  # the only row
    Column("judged_through", TZ),  # up to here the guard has looked for silent sources
    Column("held_since", TZ),  # consumers are behind since; NULL: they are not
    Column("complete_since", TZ),  # nothing holds absence since; NULL: something does
    Column("places", JSONB),  # [country, time zone, share of the accounts], for holidays
    Column("places_on", Date),  # the UTC day on which they were counted
    comment="How far the guard over the sources has looked; its lock makes the evaluators take turns",
)

cadences = Table(
    "cadences",
    metadata,
    Column("source", Text, primary_key=True),
    Column("cadence", Interval, nullable=False),
    comment="Sources that deliver now and then, as rules/sources.yaml says: for those who cannot read it",
)

imports = Table(
    "imports",
    metadata,
    Column("import_id", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("files", JSONB, nullable=False),  # [{name, sha256, rows}]
    Column("shift_us", BigInteger, nullable=False, server_default="0"),
    Column("rows_total", BigInteger),
    Column("rows_sent", BigInteger, nullable=False, server_default="0"),  # acknowledged by the broker, in row order
    Column("events_sent", BigInteger, nullable=False, server_default="0"),
    Column("rows_refused", BigInteger, nullable=False, server_default="0"),
    Column("started_at", TZ, nullable=False),
    Column("finished_at", TZ),
)

people = Table(
    "people",
    metadata,
    Column("person_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("email", Text),
    Column("slack_id", Text),
    Column("slack_webhook", Text),  # encrypted (service/secrets.py): the address is a secret
    Column("language", Text, nullable=False, server_default="en"),
    Column("timezone", Text, nullable=False, server_default="UTC"),
    Column("role", Text, nullable=False, server_default="csm"),  # csm | manager | sales
    Column("manager", Text),
    Column("stand_in", Text),
    Column("away_from", TZ),
    Column("away_until", TZ),
    Column("updated_at", TZ, nullable=False),
)

health = Table(
    "health",
    metadata,
    Column("account_id", ID, primary_key=True),
    Column("name", Text),
    Column("plan", Text),
    Column("owner", Text),
    Column("segment", Text),
    Column("status", Text),  # active | trial | paused | ended
    Column("mrr", Numeric(18, 4)),
    Column("currency", Text),
    Column("renewal_on", Date),
    Column("score", Float),  # one decimal; NULL: not enough is known
    Column("band", Text),  # green | yellow | red
    Column("mrr_at_risk", Numeric(18, 4)),
    Column("open_alerts", Integer, nullable=False, server_default="0"),
    Column("last_seen_at", TZ),
    Column("last_login_at", TZ),
    Column("signals", JSONB),
    Column("contributions", JSONB),  # [{measure, group, weight, points, contribution, value, reason}]
    Column("scorecard", Text),  # name@version
    Column("incomplete_since", TZ),  # absence is held: data incomplete since
    Column("problem", Text),  # why the last evaluation of this account failed
    Column("parent_id", ID),  # the account that it names as its parent
    Column("parent_problem", Text),  # why that does not count: itself | cycle | too_deep
    Column("as_child", JSONB),  # what it told its parent; NULL without one
    Column("rollup", JSONB),  # of the accounts below it; NULL without any
    Column("facts_version", BigInteger, nullable=False, server_default="-1"),  # accounts.version evaluated
    Column("round", BigInteger, nullable=False, server_default="0"),  # reevaluations.round under which it was evaluated
    Column("holding", JSONB),  # {rule: {version, since, live_from}}: over the score, and its `for` goes on
    Column("imported_until", TZ),  # accounts.imported_until evaluated
    Column("waiting_since", TZ),  # arrival of the oldest event whose evaluation was put off
    Column("evaluated_at", TZ),
    Column("due_at", TZ),
    Column("created_at", TZ, nullable=False, server_default=func.now()),
    Index("ix_health_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index("ix_health_score", "score", "account_id"),
    Index("ix_health_mrr_at_risk", text("mrr_at_risk DESC NULLS LAST"), "account_id"),
    Index("ix_health_last_seen", "last_seen_at", "account_id"),
    Index("ix_health_renewal", "renewal_on", "account_id"),
    Index("ix_health_owner", "owner", text("mrr_at_risk DESC NULLS LAST"), "account_id"),
    Index("ix_health_parent", "parent_id", "account_id", postgresql_where=text("parent_id IS NOT NULL")),
    Index("ix_health_problem", "account_id", postgresql_where=text("problem IS NOT NULL")),
    comment="One row per account: what the lists show, and when to look again",
    postgresql_with={"fillfactor": 80},
)

score_history = Table(
    "score_history",
    metadata,
    Column("account_id", ID, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("score", Float),
    Column("band", Text),
    Column("scorecard", Text, nullable=False),
    Column("contributions", JSONB),
    comment="The last score of each day, with the version of the scorecard that made it",
)

score_overrides = Table(
    "score_overrides",
    metadata,
    Column("override_id", BigInteger, Identity(), primary_key=True),
    Column("account_id", ID, nullable=False),
    Column("score", Numeric(4, 1), nullable=False),
    Column("reason", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("created_at", TZ, nullable=False),
    Column("expires_at", TZ, nullable=False),
    Column("ended_at", TZ),  # when another took its place, it was taken back, or it was seen to have expired
    Column("ended_by", Text),  # NULL: it expired
    Index("uq_score_overrides_standing", "account_id", unique=True, postgresql_where=text("ended_at IS NULL")),
    comment="Scores that people set, with why and until when; at most one not ended per account",
)

fleets = Table(
    "fleets",
    metadata,
    Column("day", Date, primary_key=True),  # the last UTC day that it knows
    Column("payload", JSONB, nullable=False),  # health/fleet.py
    Column("learnt_at", TZ, nullable=False),
    comment="What all accounts say together: pauses, clock, base rate; fixed at the close of a day",
)

touched = Table(
    "touched",
    metadata,
    Column("touched_id", BigInteger, Identity(), primary_key=True),
    Column("account_ids", ARRAY(ID)),  # sorted; NULL with everyone_since
    Column("everyone_since", TZ),  # catching up: everyone whose facts changed since
    Column("after_account_id", ID),  # how far an everyone-marker has been worked off
    Column("urgent", Boolean, nullable=False, server_default=text("false")),
    Column("oldest_event_at", TZ),  # arrival of the oldest event in the batch, for the latency histograms
    Column("created_at", TZ, nullable=False),
    Index("ix_touched_queue", text("urgent DESC"), "touched_id", postgresql_where=text("account_ids IS NOT NULL")),
    Index("ix_touched_everyone", "everyone_since", postgresql_where=text("everyone_since IS NOT NULL")),
    comment="Door (a): which accounts a batch touched. Appended by the consumers, consumed by the evaluators",
)

reevaluations = Table(
    "reevaluations",
    metadata,
    Column("round", BigInteger, Identity(), primary_key=True),
    Column("why", Text, nullable=False),  # rules | observed | asked
    Column("state", Text, nullable=False, server_default="running"),  # running | done | replaced
    Column("accounts", BigInteger, nullable=False),  # how many there were when it began
    Column("done", BigInteger, nullable=False, server_default="0"),  # of them evaluated since, through any door
    Column("next_at", TZ, nullable=False),  # not before: keeps the rate, whatever the number of evaluators
    Column("began_at", TZ, nullable=False),
    Column("ended_at", TZ),
    comment="Rounds in which everybody is looked at again; an account is up to date when its row names the newest",
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("one", Boolean, primary_key=True),  # the only row
    Column("after_account_id", ID, nullable=False),  # up to here the present circle has come
    Column("swept_at", TZ, nullable=False),
    Column("circle_began_at", TZ, nullable=False),
    comment="How far the sweep for missed accounts has come; its lock makes the evaluators take turns",
)

__all__ = [name for name, value in list(globals().items()) if isinstance(value, (Table, MetaData))] + [
    "FACT_TABLES",
    "HISTORY_ATTRIBUTES",
    "QUANTITY_SCALE",
    "Merge",
]
