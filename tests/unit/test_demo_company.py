"""The sample company: the same for the same seed and anchor, and each archetype what its name says."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from consumers.events import Event, Goal, Group, Login, Payment, Session, Survey, Ticket, Usage, decode, encode
from health.goals import comparable, target_of
from service import people_file
from service.demo import names, stories
from service.demo.company import SHARES, Account, Company, make_company
from service.demo.people import OWN_CHANNELS, PEOPLE, people_document, webhook_variable
from service.demo.plans import CORE_FEATURES, SOURCE, Days, user_id
from service.demo.servers import choose_broker, choose_port
from service.demo.state import DemoError, Folder, State

ANCHOR = datetime(2026, 5, 20, 9, 30, 12, 345678, tzinfo=UTC)
LONG_AGO = ANCHOR - timedelta(days=400)


@pytest.fixture(scope="module")
def company() -> Company:
    return make_company(20, ANCHOR, accounts=60)


@pytest.fixture(scope="module")
def history(company: Company) -> dict[str, list[Event]]:
    return {events[0].account_id: list(events) for events in stories.all_history(company)}


def of(company: Company, archetype: str) -> list[Account]:
    silent = stories.silent_accounts(company)
    return [a for a in company.accounts if a.archetype == archetype and a.account_id not in silent]


def test_it_is_the_same_company_each_time(company: Company, history: dict[str, list[Event]]) -> None:
    again = make_company(20, ANCHOR, accounts=60)
    assert again == company
    assert list(stories.all_history(again)) == list(history.values())
    assert make_company(21, ANCHOR, accounts=60) != company


def test_a_larger_company_has_the_intended_mix_and_no_name_twice() -> None:
    accounts = make_company(20, ANCHOR).accounts
    assert len(accounts) == 300
    assert len({account.name for account in accounts}) == 300
    assert Counter(account.archetype for account in accounts) == SHARES
    assert {account.currency for account in accounts} == {"USD", "EUR", "JPY"}
    assert {account.touch_model for account in accounts} == {"high-touch", "low-touch", "tech-touch"}
    owners = {account.owner for account in accounts} - {None}
    assert owners == {person for person, known in PEOPLE.items() if known.get("role") != "manager"}


def test_in_each_language_a_customer_has_two_branches() -> None:
    accounts = {account.account_id: account for account in make_company(20, ANCHOR).accounts}
    branches = [account for account in accounts.values() if account.parent_id is not None]
    assert sorted((account.country, account.archetype) for account in branches) == [
        ("JP", "fading"), ("JP", "healthy"), ("US", "fading"), ("US", "healthy"),
    ]  # fmt: skip
    for branch in branches:
        parent = accounts[branch.parent_id or ""]
        assert (parent.country, parent.archetype, parent.parent_id) == (branch.country, "healthy", None)
        assert branch.name.startswith(parent.name)
        assert branch.currency == parent.currency
    assert make_company(20, ANCHOR, accounts=3).accounts[0].parent_id is None


def test_every_event_of_the_history_is_one_that_the_door_takes(history: dict[str, list[Event]]) -> None:
    ids: set[str] = set()
    count = 0
    for events in history.values():
        for event in events:
            assert decode(encode(event)) == event
            assert event.source == SOURCE
            assert event.timestamp < ANCHOR
            ids.add(event.event_id)
            count += 1
    assert len(ids) == count
    assert 500 < count / len(history) < 850, "300 accounts should make 150,000 to 250,000 events"


def test_an_account_says_who_it_is_before_what_it_did_and_the_newest_first(history: dict[str, list[Event]]) -> None:
    for events in history.values():
        assert isinstance(events[0], Group)
        did = [event.timestamp for event in events if event.kind not in {"group", "identify"}]
        assert all(newer >= older for newer, older in pairwise(did))


def test_time_cut_anywhere_gives_the_same_events(company: Company) -> None:
    start, end = ANCHOR - timedelta(days=3), ANCHOR + timedelta(days=3)
    cuts = [start, start + timedelta(hours=7), ANCHOR, ANCHOR + timedelta(minutes=1), ANCHOR + timedelta(days=1), end]
    for account in company.accounts[:12]:
        days = Days(company, account)
        assert [e for a, b in pairwise(cuts) for e in days.between(a, b)] == days.between(start, end)
    whole = stories.live(company, ANCHOR, end)
    parts = [event for a, b in pairwise(cuts[2:]) for event in stories.live(company, a, b)]
    assert parts == whole
    assert whole and all(ANCHOR <= event.timestamp < end for event in whole)


def test_people_work_on_weekdays_in_their_own_day(company: Company) -> None:
    tokyo = [account for account in of(company, "healthy") if account.timezone == "Asia/Tokyo"]
    visits = [event for account in tokyo for event in activity(Days(company, account).between(LONG_AGO, ANCHOR))]
    local = [event.timestamp + timedelta(hours=9) for event in visits]
    assert sum(at.weekday() >= 5 for at in local) < 0.1 * len(local)
    assert all(8 <= at.hour <= 19 for at in local)


def test_each_archetype_is_what_its_name_says(company: Company, history: dict[str, list[Event]]) -> None:
    def since(account: Account, days: int) -> list[Event]:
        return [e for e in history[account.account_id] if e.timestamp > ANCHOR - timedelta(days=days)]

    for account in of(company, "healthy"):
        assert set(CORE_FEATURES) <= {e.feature for e in since(account, 28) if isinstance(e, Usage)}
        assert activity(since(account, 7))
    for account in of(company, "silent"):
        assert not activity(since(account, 15))
        assert activity(since(account, 90))
    for account in of(company, "fading"):
        before = len(activity(since(account, 120))) - len(activity(since(account, 60)))
        assert len(activity(since(account, 28))) * 2 < before
    for account in of(company, "champion_gone"):
        champion = user_id(account, 0)
        assert not [e for e in since(account, account.turn - 2) if e.user_id == champion and isinstance(e, Login)]
        assert [e for e in since(account, 90) if e.user_id == champion]
    for account in of(company, "onboarding_stalled"):
        assert "export" not in {e.feature for e in history[account.account_id] if isinstance(e, Usage)}
    for account in of(company, "payment_failing"):
        assert "failed" in {e.status for e in since(account, 45) if isinstance(e, Payment)}
    for account in of(company, "ended"):
        assert not since(account, account.turn - 2)
        assert [e for e in history[account.account_id] if e.kind == "subscription"]
    assert {a.archetype for a in company.accounts} == set(SHARES)


def test_goals_are_measured_by_signals_and_those_who_do_well_say_so(history: dict[str, list[Event]]) -> None:
    goals = [event for events in history.values() for event in events if isinstance(event, Goal)]
    assert {goal.status for goal in goals} == {"set", "reached"}
    assert {goal.signal for goal in goals} == {signal for *_, signal, _ in names.GOALS}
    for goal in goals:
        assert comparable(goal.signal, {}) is not None
        assert target_of(str(goal.target)) is not None
    due = {goal.due_on for goal in goals if goal.status == "set" and goal.due_on is not None}
    assert min(due) < ANCHOR.date() < max(due), "some are overdue, some have time"


def test_silences_come_of_age_to_the_second(company: Company, history: dict[str, list[Event]]) -> None:
    chosen = stories.silent_accounts(company)
    assert [silence.seconds for silence in chosen.values()][:4] == [25, 50, 90, 180]
    for account_id, silence in chosen.items():
        due = ANCHOR + timedelta(seconds=silence.seconds)
        events = history[account_id]
        assert max(e.timestamp for e in activity(events)) == due - timedelta(days=silence.days)
        if silence.days == 14:
            assert max(e.timestamp for e in events if isinstance(e, Login)) == due - timedelta(days=14)
    live = stories.live(company, ANCHOR, ANCHOR + timedelta(days=2))
    first, *others = chosen
    back = [e for e in activity(live) if e.account_id == first]
    assert back[0].timestamp == ANCHOR + timedelta(seconds=150)
    assert not [e for e in activity(live) if e.account_id in others]


def test_the_first_alerts_are_in_both_languages(company: Company) -> None:
    by_id = {account.account_id: account for account in company.accounts}
    told = [by_id[account_id].japanese for account_id in stories.silent_accounts(company)]
    assert told[:4] == [False, True, False, True]


def test_each_start_tells_its_incidents_of_other_accounts(company: Company) -> None:
    later = ANCHOR + timedelta(hours=3)
    first, second = stories.incidents(company, ANCHOR), stories.incidents(company, later)
    assert not {e.event_id for e in first} & {e.event_id for e in second}
    assert {e.account_id for e in first} != {e.account_id for e in second}
    assert not {e.account_id for e in first} & set(stories.silent_accounts(company))
    assert first[0].timestamp == ANCHOR + timedelta(seconds=35)
    assert isinstance(first[0], Payment) and first[0].status == "failed"
    tickets = [e for e in first if isinstance(e, Ticket) and e.status == "open"]
    assert len({t.ticket_id for t in tickets}) == 3 and len({t.account_id for t in tickets}) == 1
    assert all(e.score <= 6 for e in first if isinstance(e, Survey))
    for event in (*first, *second):
        assert decode(encode(event)) == event


def test_one_in_each_language_is_known_better(company: Company) -> None:
    accounts = {account.account_id: account for account in company.accounts}
    chosen = stories.set_by_hand(company)
    assert {accounts[wish.account_id].archetype for wish in chosen} == {"payment_failing"}
    spoken = [(accounts[wish.account_id].japanese, wish.reason) for wish in chosen]
    assert sorted(spoken) == [(False, names.KNOWN_BETTER), (True, names.KNOWN_BETTER_JA)]


def test_core_features_are_those_of_the_rules(root: Path) -> None:
    rules = yaml.safe_load((root / "rules" / "churn.yaml").read_text(encoding="utf-8"))
    assert tuple(rules["lists"]["core_features"]) == CORE_FEATURES


def test_the_people_file_is_accepted_and_somebody_is_away() -> None:
    document = yaml.safe_dump(people_document(ANCHOR), allow_unicode=True)
    webhooks = {webhook_variable(person): f"http://127.0.0.1:1/slack/{person}" for person in OWN_CHANNELS}
    people = people_file.parse(document, webhooks)
    owners = [person for person in people.values() if person.role == "csm"]
    assert Counter(person.language for person in owners) == {"en": 3, "ja": 3}
    (away,) = [person for person in people.values() if person.stand_in is not None]
    assert away.away_from is not None and away.away_until is not None
    assert away.away_from < ANCHOR < away.away_until


def test_a_naive_anchor_and_too_many_accounts_are_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        make_company(1, ANCHOR.replace(tzinfo=None))
    with pytest.raises(ValueError, match="fewer"):
        make_company(1, ANCHOR, accounts=5_000)


def test_the_broker_of_a_folder_stays_the_same() -> None:
    assert choose_broker({"KIZASHI_DEMO_BROKER": "embedded"}, None).kind == "embedded"
    assert choose_broker({}, "embedded").kind == "embedded"
    given = choose_broker({"KIZASHI_KAFKA_BOOTSTRAP": "kafka:9092"}, None)
    assert (given.kind, given.bootstrap) == ("given", "kafka:9092")
    with pytest.raises(DemoError, match="--fresh"):
        choose_broker({"KIZASHI_KAFKA_BOOTSTRAP": "kafka:9092"}, "embedded")
    with pytest.raises(DemoError, match="embedded or kafka"):
        choose_broker({"KIZASHI_DEMO_BROKER": "rabbit"}, None)


def test_a_taken_port_is_avoided() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = taken.getsockname()[1]
        assert choose_port(wanted) > wanted


def test_a_folder_is_for_one_demo_at_a_time_and_wiping_leaves_the_rest(tmp_path: Path) -> None:
    with Folder(tmp_path) as folder:
        folder.write_state(State(name="demo-1", seed=1, accounts=30, history_days=30, broker="embedded", anchor=ANCHOR))
        with pytest.raises(DemoError, match="already runs"):
            Folder(tmp_path).__enter__()
        known = folder.read_state()
        assert known is not None and known.anchor == ANCHOR
        assert (tmp_path / "state.json").stat().st_mode & 0o077 == 0
        assert folder.secrets().secret_key == folder.secrets().secret_key
        (tmp_path / "notes.txt").write_text("mine")
        folder.wipe()
        assert folder.read_state() is None
    assert (tmp_path / "notes.txt").read_text() == "mine"


def activity(events: Sequence[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, (Login, Usage, Session))]
