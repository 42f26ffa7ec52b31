"""Routing, pure: who is told of an alert, where, in which language, and why they."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

ChannelName = Literal["slack", "email", "webhook"]

MAX_STAND_INS = 5
"""A stand-in may be away too; this many are asked before the default is."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """A customer success manager, manager or sales owner, as routing needs them."""

    person_id: str
    name: str
    email: str | None = None
    slack_id: str | None = None
    has_slack_webhook: bool = False
    language: str = "en"
    timezone: str = "UTC"
    stand_in: str | None = None
    away_from: datetime | None = None
    away_until: datetime | None = None

    def away(self, now: datetime) -> bool:
        if self.away_from is None and self.away_until is None:
            return False
        started = self.away_from is None or self.away_from <= now
        ended = self.away_until is not None and self.away_until <= now
        return started and not ended


@dataclass(frozen=True, kw_only=True)
class Channels:
    """Which channels are set up, and where an account without an owner goes."""

    slack_team: bool = False
    email: bool = False
    webhook: bool = False
    default_recipient: str | None = None
    default_language: str = "en"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One delivery: ``target`` names the place without its secret (``person:<id>``, ``team``, an e-mail address,
    ``webhook``).
    """

    channel: ChannelName
    target: str
    recipient: Person | None
    language: str
    timezone: str
    reason: str


def find_person(owner: str | None, people: Mapping[str, Person]) -> Person | None:
    """An account's owner is named by person id or by e-mail address."""
    if owner is None:
        return None
    if owner in people:
        return people[owner]
    wanted = owner.casefold()
    return next((person for person in people.values() if person.email and person.email.casefold() == wanted), None)


def reader_of(owner: str | None, people: Mapping[str, Person], now: datetime) -> tuple[Person | None, str]:
    """The person to tell, with the reason: the owner, else the stand-in of whoever is away, else nobody (the
    default).
    """
    person = find_person(owner, people)
    if person is None:
        return None, "the account has no owner" if owner is None else f"its owner {owner!r} is not among the people"
    reason = "owner of the account"
    for _ in range(MAX_STAND_INS):
        if not person.away(now):
            return person, reason
        stand_in = people.get(person.stand_in or "")
        if stand_in is None:
            return None, f"{person.name} is away and has no stand-in"
        reason = f"stands in for {person.name}"
        person = stand_in
    return None, "every stand-in is away"


def route(
    owner: str | None,
    people: Mapping[str, Person],
    channels: Channels,
    wanted: Sequence[str],
    now: datetime,
) -> list[Target]:
    """The deliveries for one transition; ``wanted`` are the channels that the routes allow for it.

    The reader's own Slack webhook, else the team's with a mention; their e-mail, else the default address. An account
    without a reachable reader still ends with somebody: the team's channel and the default address.
    """
    person, reason = reader_of(owner, people, now)
    language = person.language if person else channels.default_language
    timezone = person.timezone if person else "UTC"
    targets: list[Target] = []

    def add(channel: ChannelName, target: str, why: str) -> None:
        targets.append(
            Target(channel=channel, target=target, recipient=person, language=language, timezone=timezone, reason=why)
        )

    if "slack" in wanted:
        if person is not None and person.has_slack_webhook:
            add("slack", f"person:{person.person_id}", reason)
        elif channels.slack_team:
            add("slack", "team", reason)
    if "email" in wanted and channels.email:
        if person is not None and person.email:
            add("email", person.email, reason)
        elif channels.default_recipient:
            add("email", channels.default_recipient, f"default recipient: {reason}")
    if "webhook" in wanted and channels.webhook:
        add("webhook", "webhook", "every delivery goes to the webhook")
    return targets
