"""What a batch of events adds, row by row."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from consumers import fold as fold_module
from consumers import fold_records
from consumers.events import Event, Group, Login, Payment, Session, Subscription, Usage, thousandths
from consumers.faults import source_is_good
from consumers.fold import COLUMNS, fold, from_us, month_place, to_us
from consumers.registers import Registers, write
from health.tables import FACT_TABLES, HISTORY_ATTRIBUTES, QUANTITY_SCALE
from health.volume import IMPORTED

AT = datetime(2026, 5, 31, 23, 30, tzinfo=UTC)
NOW = datetime(2026, 6, 2, tzinfo=UTC)


def common(n: int, at: datetime = AT, **more: Any) -> dict[str, Any]:
    return {"event_id": f"e{n}", "account_id": "acme", "timestamp": at, **more}


def rows(table: str, *events: Event, arrived: datetime | None = None) -> list[dict[str, Any]]:
    folded = fold([(event, to_us(arrived or event.timestamp)) for event in events], now=NOW)
    return [{name: readable(name, value) for name, value in zip(COLUMNS[table], row, strict=True)}
            for row in folded.rows[table]]  # fmt: skip


def readable(name: str, value: Any) -> Any:
    """Times as datetimes, days as dates."""
    if name in {"month", "event_day", "arrival_day"}:
        return date.fromisoformat(value)
    is_time = name.endswith("_at") or name in {"at", "hour", "valid_from", "imported_until"}
    return from_us(value) if is_time and value is not None else value


def test_columns_and_constants_are_those_of_the_tables() -> None:
    assert {t.name: tuple(c.name for c in t.columns) for t in FACT_TABLES} == dict(COLUMNS)
    assert fold_records.HISTORY_ATTRIBUTES == HISTORY_ATTRIBUTES
    assert thousandths(1) == QUANTITY_SCALE
    assert fold_module.IMPORTED == IMPORTED
    assert not source_is_good(f"crm{IMPORTED}")


def test_logins_and_usage_fill_the_day_the_month_and_the_user() -> None:
    later = AT + timedelta(hours=1)  # the next month
    events: list[Event] = [
        Login(**common(1, user_id="u")),
        Usage(feature="export", quantity=1.5, **common(2, user_id="u")),
        Usage(feature="export", quantity=2, **common(3, later)),
    ]
    (account,) = rows("accounts", *events)
    assert (account["events"], account["logins"], account["last_login_at"]) == (3, 1, AT)
    assert account["last_activity_at"] == account["last_event_at"] == later
    may, june = rows("account_months", *events)
    assert (may["month"], may["logins"], may["events"], may["active_days"]) == (
        date(2026, 5, 1),
        {30: 1},
        {30: 2},
        1 << 30,
    )
    assert (june["month"], june["logins"], june["events"], june["active_days"]) == (date(2026, 6, 1), {}, {0: 1}, 1)
    (user,) = rows("user_months", *events)
    assert (user["user_id"], user["active_days"], user["last_at"]) == ("u", 1 << 30, AT)
    (feature,) = rows("features", *events)
    assert (feature["first_at"], feature["last_at"], feature["quantity"]) == (AT, later, 3500)
    assert [row["quantities"] for row in rows("feature_months", *events)] == [{30: 1500}, {0: 2000}]
    assert [row["events"] for row in rows("source_hours", *events)] == [2, 1]


def test_only_live_activity_that_arrives_after_its_day_is_late() -> None:
    login = Login(**common(1))
    assert rows("late_arrivals", login, arrived=AT + timedelta(minutes=29)) == []
    (late,) = rows("late_arrivals", login, arrived=AT + timedelta(minutes=30))
    assert (late["event_day"], late["arrival_day"], late["logins"], late["events"]) == (
        date(2026, 5, 31), date(2026, 6, 1), 1, 1,
    )  # fmt: skip
    imported = Login(**common(1), import_id="i", import_row=0)
    assert rows("late_arrivals", imported, arrived=NOW) == []
    assert rows("sources", imported)[0]["last_live_at"] is None
    assert [row["source"] for row in rows("source_hours", login, imported)] == ["default", "default#import"]
    assert rows("accounts", imported)[0]["imported_until"] == NOW


def test_a_subscription_writes_attributes_and_history_from_its_effective_day() -> None:
    event = Subscription(change="expanded", mrr=500, plan="pro", effective_on=date(2026, 7, 1), **common(1))
    history = {row["attribute"]: (row["value"], row["valid_from"]) for row in rows("account_history", event)}
    from_july = datetime(2026, 7, 1, tzinfo=UTC)
    assert history == {"mrr": ("500", from_july), "plan": ('"pro"', from_july), "status": ('"active"', from_july)}
    assert rows("account_attributes", event)[0]["fields"] == "{}", "announced, not in force"
    begun = Subscription(change="expanded", mrr=500, effective_on=AT.date(), **common(1))
    assert '"mrr":{"v":500' in rows("account_attributes", begun)[0]["fields"]
    (record,) = rows("records", event)
    assert (record["kind"], record["record_id"]) == ("subscription", "main")
    assert '"expanded_at":{"v":"2026-05-31T23:30:00Z"' in record["fields"]
    ended = Subscription(change="not_renewed", **common(2))
    assert '"status":{"v":"ended"' in rows("account_attributes", ended)[0]["fields"]
    started = Subscription(change="trial_started", **common(3))
    assert rows("accounts", started)[0]["started_at"] == AT


def test_the_earliest_explicit_start_counts() -> None:
    group = Group(traits={"started_at": "2025-02-03", "plan": None}, **common(1))
    assert rows("accounts", group, Subscription(change="started", **common(2)))[0]["started_at"] == datetime(
        2025, 2, 3, tzinfo=UTC
    )
    assert rows("account_history", group)[0]["value"] == "null"
    assert rows("accounts", group)[0]["events"] == 0


def test_urgent_accounts_oldest_arrival_and_kinds_are_named() -> None:
    events: list[Event] = [
        Payment(payment_id="p", status="failed", **common(1)),
        Session(session_id="s", session="training", event_id="e2", account_id="zeta", timestamp=AT),
    ]
    folded = fold([(events[0], to_us(NOW)), (events[1], to_us(AT))], now=NOW)
    assert folded.accounts == ("acme", "zeta")
    assert folded.urgent == ("acme",)
    assert folded.oldest_arrival == AT
    assert folded.kinds == {"payment": 1, "session": 1}
    assert [dict(zip(COLUMNS["accounts"], row, strict=True))["events"] for row in folded.rows["accounts"]] == [0, 1]


@given(st.integers(0, 230 * 365 * 86_400_000_000))
def test_instants_survive_and_days_find_their_month(microseconds: int) -> None:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    assert from_us(to_us(at)) == at
    month, place = month_place(to_us(at) // 86_400_000_000)
    assert (month // 12, month % 12 + 1, place + 1) == (at.year, at.month, at.day)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"), st.integers(0, 2), st.sampled_from(("k", "l")), st.sampled_from((None, 1, "x"))
        )
    )
)
def test_registers_do_not_depend_on_the_order(writes: list[tuple[str, int, str, Any]]) -> None:
    forward: Registers = {}
    backward: Registers = {}
    for name, at, key, value in writes:
        write(forward, name, value, at, key)
    for name, at, key, value in reversed(writes):
        write(backward, name, value, at, key)
    assert forward == backward
    assert forward.keys() == {name for name, _, _, _ in writes}
