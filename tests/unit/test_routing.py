"""Who is told: the owner, a stand-in, or the default; and why."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from alerts.routing import Channels, Person, reader_of, route

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
MINA = Person(person_id="mina", name="Mina", email="mina@example.com", slack_id="U1", language="ja", stand_in="tom")
TOM = Person(person_id="tom", name="Tom", email="tom@example.com", has_slack_webhook=True)
PEOPLE = {"mina": MINA, "tom": TOM}
ALL = Channels(slack_team=True, email=True, webhook=True, default_recipient="cs@example.com")
EVERY = ("slack", "email", "webhook")


def places(owner: str | None, people: dict[str, Person] = PEOPLE, channels: Channels = ALL) -> list[tuple[str, str]]:
    return [(t.channel, t.target) for t in route(owner, people, channels, EVERY, NOW)]


def test_the_owner_by_id_or_by_mail_in_their_language() -> None:
    targets = route("mina", PEOPLE, ALL, EVERY, NOW)
    assert [(t.channel, t.target) for t in targets] == [
        ("slack", "team"),
        ("email", "mina@example.com"),
        ("webhook", "webhook"),
    ]
    assert {t.language for t in targets} == {"ja"}
    assert targets[0].recipient == MINA and targets[0].reason == "owner of the account"
    assert places("MINA@example.com") == places("mina")


def test_an_own_slack_webhook_comes_before_the_team_channel() -> None:
    assert places("tom")[0] == ("slack", "person:tom")


def test_the_stand_in_while_away() -> None:
    away = replace(MINA, away_from=NOW - timedelta(days=1), away_until=NOW + timedelta(days=1))
    person, reason = reader_of("mina", {"mina": away, "tom": TOM}, NOW)
    assert person == TOM and reason == "stands in for Mina"
    back = replace(MINA, away_from=NOW - timedelta(days=2), away_until=NOW)
    assert reader_of("mina", {"mina": back, "tom": TOM}, NOW)[0] == back


def test_stand_ins_in_a_ring_end_with_the_default() -> None:
    later = NOW + timedelta(days=1)
    ring = {"mina": replace(MINA, away_until=later), "tom": replace(TOM, stand_in="mina", away_until=later)}
    person, reason = reader_of("mina", ring, NOW)
    assert person is None and "away" in reason
    assert ("email", "cs@example.com") in places("mina", ring)


def test_nobody_known_goes_to_the_team_and_the_default() -> None:
    assert places(None) == [("slack", "team"), ("email", "cs@example.com"), ("webhook", "webhook")]
    assert "not among the people" in reader_of("zoe", PEOPLE, NOW)[1]


def test_channels_that_are_not_set_up_are_left_out() -> None:
    assert places("mina", channels=Channels(email=True)) == [("email", "mina@example.com")]
    assert places("tom", channels=Channels()) == [("slack", "person:tom")]
    assert [t.channel for t in route("mina", PEOPLE, ALL, ("email",), NOW)] == ["email"]
