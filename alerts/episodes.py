"""Episodes, pure: what becomes of (rule, account) when the rule holds, ceases to hold, or a person acts.

Every function takes ``now`` and returns a value with a reason; ``alerts/evaluator.py`` and ``alerts/actions.py``
carry the decision out under the lock of the account's health row. One open episode per (rule, account).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec
from msgspec.structs import replace

State = Literal["open", "resolved", "withdrawn"]
TransitionKind = Literal[
    "opened", "renotified", "escalated", "acknowledged", "snoozed", "resolved", "withdrawn", "reopened"
]
Outcome = Literal["saved", "churned", "false_alarm", "expected", "no_answer"]
OUTCOMES: tuple[Outcome, ...] = ("saved", "churned", "false_alarm", "expected", "no_answer")
SYSTEM = "kizashi"
SEVERITIES = ("info", "warning", "critical")


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """One uninterrupted time for which a rule holds for an account."""

    episode_id: UUID
    rule_id: str
    account_id: str
    state: State
    severity: str
    pre_existing: bool
    since: datetime
    opened_at: datetime
    closed_at: datetime | None = None
    cleared_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    snoozed_until: datetime | None = None
    outcome: str | None = None
    next_at: datetime | None = None
    version: int = 1

    @property
    def open(self) -> bool:
        return self.state == "open"


@dataclass(frozen=True, kw_only=True)
class Transition:
    """``reason`` is in English; ``data`` holds what other languages word it from: ``signals`` with their values, and a
    ``code`` with its own values beside it. A person's own words have neither.
    """

    kind: TransitionKind
    at: datetime
    reason: str
    actor: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Change:
    """An episode after a transition; ``notify`` says whether a reader is told."""

    episode: Episode
    transition: Transition | None
    notify: bool


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a rule says about its episodes."""

    for_: timedelta = timedelta(0)
    renotify: timedelta | None = None
    cooldown: timedelta = timedelta(0)
    notify_resolved: bool = False


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What an evaluation saw of one (rule, account).

    ``holds`` is None when unknown: it neither fires nor resolves. ``since`` is needed when it holds. ``disproved``
    says that the facts now known show that the rule did *not* hold when the episode was opened. ``live_from`` is the
    later of the rule's activation and the end of the account's import: what began before is pre-existing. ``data`` is
    what ``reason`` was made from, see `Transition`. ``ours``: the rule or the scorecard is another one than at the last
    look, so that what differs may be no change of the account, and nobody is told of it.
    """

    holds: bool | None
    reason: str
    severity: str = "warning"
    since: datetime | None = None
    disproved: bool = False
    live_from: datetime | None = None
    data: dict[str, Any] = field(default_factory=dict)
    ours: bool = False


class NotAllowed(Exception):
    """The action does not fit the episode's state."""


def advance(
    rule_id: str, account_id: str, episode: Episode | None, seen: Observation, policy: Policy, now: datetime
) -> Change | None:
    """What an evaluation changes, or None. ``episode`` is the newest of this (rule, account), open or closed."""
    if episode is not None and episode.open:
        return _advance_open(episode, seen, policy, now)
    if episode is not None and episode.cleared_at is None:
        if seen.holds is not False:
            return None  # closed by a person while still true: they know
        return Change(episode=replace(episode, cleared_at=now), transition=None, notify=False)
    if not seen.holds:
        return None
    assert seen.since is not None
    if seen.since + policy.for_ > now:
        return None  # the account is looked at again at since + for
    if episode is not None and _goes_on(episode, seen, policy, now):
        return _reopen(episode, seen, policy, now)
    return _open(rule_id, account_id, seen, policy, now)


def unmoved(episode: Episode, holds: bool | None, severity: str, since: datetime, now: datetime) -> bool:
    """Whether ``advance`` surely leaves an episode as it is, told without the words that a transition takes.
    ``severity`` and ``since`` as they would be seen; they only count where it holds."""
    if not episode.open:
        return holds is None or (holds is (episode.cleared_at is None))
    if not holds:
        return holds is None
    timer = episode.next_at is not None and episode.next_at <= now
    return not timer and severity == episode.severity and since == episode.since


def _goes_on(episode: Episode, seen: Observation, policy: Policy, now: datetime) -> bool:
    """Whether what holds again belongs to the episode just closed. Not if nobody was told of that one, and this is
    news.
    """
    if episode.state != "resolved" or episode.closed_at is None or now >= episode.closed_at + policy.cooldown:
        return False
    return not (episode.pre_existing and _is_news(seen))


def _is_news(seen: Observation) -> bool:
    """Whether what holds began while the rule was live and the account's import was over."""
    return seen.since is not None and (seen.live_from is None or seen.since >= seen.live_from)


def _open(rule_id: str, account_id: str, seen: Observation, policy: Policy, now: datetime) -> Change:
    assert seen.since is not None
    pre_existing = seen.live_from is not None and seen.since < seen.live_from
    episode = Episode(
        episode_id=uuid4(),
        rule_id=rule_id,
        account_id=account_id,
        state="open",
        severity=seen.severity,
        pre_existing=pre_existing,
        since=seen.since,
        opened_at=now,
        next_at=None if pre_existing or policy.renotify is None else now + policy.renotify,
    )
    reason = f"{seen.reason}; began before {seen.live_from:%Y-%m-%d %H:%M} UTC" if pre_existing else seen.reason
    data = {**seen.data, "pre_existing": pre_existing}
    if pre_existing and seen.live_from is not None:
        data |= {"code": "began_before", "at": seen.live_from.isoformat()}
    transition = Transition(kind="opened", at=now, reason=reason, actor=SYSTEM, data=data)
    return Change(episode=episode, transition=transition, notify=not pre_existing)


def _reopen(episode: Episode, seen: Observation, policy: Policy, now: datetime) -> Change:
    """Within the cooldown the same episode goes on, and nobody is told again unless it has become more severe."""
    assert episode.closed_at is not None
    worse = SEVERITIES.index(seen.severity) > SEVERITIES.index(episode.severity)
    again = replace(
        episode,
        state="open",
        closed_at=None,
        cleared_at=None,
        outcome=None,
        severity=seen.severity,
        next_at=None if policy.renotify is None else now + policy.renotify,
        version=episode.version + 1,
    )
    reason = f"{seen.reason}; within {policy.cooldown.days} days of {episode.closed_at:%Y-%m-%d}"
    within = {"code": "within_cooldown", "days": policy.cooldown.days, "at": episode.closed_at.isoformat()}
    data = {**seen.data, **within}
    return Change(
        episode=again,
        transition=Transition(kind="reopened", at=now, reason=reason, actor=SYSTEM, data=data),
        notify=worse and not episode.pre_existing and not seen.ours,
    )


def _advance_open(episode: Episode, seen: Observation, policy: Policy, now: datetime) -> Change | None:
    if seen.holds is None:
        return None
    if not seen.holds:
        return _close(episode, seen, policy, now)
    # An event that came late, or an import that goes on, may show that what holds began later than was thought.
    since = seen.since or episode.since
    dated = episode if since == episode.since else replace(episode, since=since)
    if episode.pre_existing and dated.since > episode.since and _is_news(seen):
        return _tell_anew(dated, seen, policy, now)
    if SEVERITIES.index(seen.severity) > SEVERITIES.index(episode.severity):
        return _escalate(dated, seen, policy, now)
    if seen.severity != episode.severity:
        dated = replace(dated, severity=seen.severity)
    timed = _timer(dated, seen, policy, now)
    if timed is None and dated != episode:
        return Change(episode=dated, transition=None, notify=False)
    return timed


def _tell_anew(episode: Episode, seen: Observation, policy: Policy, now: datetime) -> Change:
    """A stretch of the past turns out to have ended: what holds now began later, and its reader does not know yet."""
    known = replace(
        episode,
        pre_existing=False,
        severity=seen.severity,
        next_at=None if policy.renotify is None else now + policy.renotify,
        version=episode.version + 1,
    )
    reason = f"began anew at {known.since:%Y-%m-%d %H:%M} UTC: {seen.reason}"
    data = {**seen.data, "code": "began_anew", "at": known.since.isoformat()}
    transition = Transition(kind="renotified", at=now, reason=reason, actor=SYSTEM, data=data)
    return Change(episode=known, transition=transition, notify=True)


def _escalate(episode: Episode, seen: Observation, policy: Policy, now: datetime) -> Change:
    """A message about the escalation stands for a reminder that is due at the same time."""
    told = _told(episode, now) and not seen.ours
    next_at = episode.next_at
    if told and next_at is not None and next_at <= now:
        next_at = None if policy.renotify is None else now + policy.renotify
    snoozed_until = None if told else episode.snoozed_until
    worse = replace(
        episode, severity=seen.severity, next_at=next_at, snoozed_until=snoozed_until, version=episode.version + 1
    )
    reason = f"{episode.severity} → {seen.severity}: {seen.reason}"
    data = {**seen.data, "code": "escalated", "before": episode.severity, "after": seen.severity}
    transition = Transition(kind="escalated", at=now, reason=reason, actor=SYSTEM, data=data)
    return Change(episode=worse, transition=transition, notify=told)


def _told(episode: Episode, now: datetime) -> bool:
    snoozed = episode.snoozed_until is not None and episode.snoozed_until > now
    return not episode.pre_existing and not snoozed


def _timer(episode: Episode, seen: Observation, policy: Policy, now: datetime) -> Change | None:
    if episode.next_at is None or episode.next_at > now:
        return None
    following = None if policy.renotify is None else now + policy.renotify
    if episode.snoozed_until is not None:
        awake = replace(episode, snoozed_until=None, next_at=following, version=episode.version + 1)
        reason = f"snooze ended and it still holds: {seen.reason}"
        data = {**seen.data, "code": "snooze_ended"}
    elif episode.acknowledged_at is None and following is not None:
        awake = replace(episode, next_at=following, version=episode.version + 1)
        reason = f"not acknowledged since {episode.opened_at:%Y-%m-%d %H:%M} UTC: {seen.reason}"
        data = {**seen.data, "code": "not_acknowledged", "at": episode.opened_at.isoformat()}
    else:
        return Change(episode=replace(episode, next_at=None), transition=None, notify=False)
    transition = Transition(kind="renotified", at=now, reason=reason, actor=SYSTEM, data=data)
    return Change(episode=awake, transition=transition, notify=True)


def _close(episode: Episode, seen: Observation, policy: Policy, now: datetime) -> Change:
    withdrawn = seen.disproved
    closed = replace(
        episode,
        state="withdrawn" if withdrawn else "resolved",
        closed_at=now,
        cleared_at=now,
        snoozed_until=None,
        next_at=None,
        version=episode.version + 1,
    )
    kind: TransitionKind = "withdrawn" if withdrawn else "resolved"
    reason = f"an event that arrived late shows that it was not so: {seen.reason}" if withdrawn else seen.reason
    data = {**seen.data, "code": "disproved"} if withdrawn else seen.data
    return Change(
        episode=closed,
        transition=Transition(kind=kind, at=now, reason=reason, actor=SYSTEM, data=data),
        notify=not episode.pre_existing and (withdrawn or (policy.notify_resolved and not seen.ours)),
    )


def acknowledge(episode: Episode, actor: str, reason: str, now: datetime) -> Change:
    _require_open(episode, "acknowledged")
    known = replace(episode, acknowledged_at=now, acknowledged_by=actor, version=episode.version + 1)
    return Change(
        episode=known,
        transition=Transition(kind="acknowledged", at=now, reason=reason or "acknowledged", actor=actor),
        notify=False,
    )


def snooze(episode: Episode, actor: str, reason: str, until: datetime, now: datetime) -> Change:
    _require_open(episode, "snoozed")
    if until <= now:
        raise NotAllowed(f"until must lie in the future; {until.isoformat()} does not")
    asleep = replace(
        episode,
        snoozed_until=until,
        next_at=until,
        acknowledged_at=episode.acknowledged_at or now,
        acknowledged_by=episode.acknowledged_by or actor,
        version=episode.version + 1,
    )
    data = {"until": until.isoformat()}
    return Change(
        episode=asleep,
        transition=Transition(kind="snoozed", at=now, reason=reason or "snoozed", actor=actor, data=data),
        notify=False,
    )


def resolve(episode: Episode, actor: str, reason: str, outcome: Outcome, now: datetime) -> Change:
    """Closed by a person. It stays quiet until the condition has been seen false, however long it goes on being
    true.
    """
    _require_open(episode, "resolved")
    if outcome not in OUTCOMES:
        raise NotAllowed(f"outcome must be one of {', '.join(OUTCOMES)}, not {outcome!r}")
    closed = replace(
        episode,
        state="resolved",
        closed_at=now,
        outcome=outcome,
        snoozed_until=None,
        next_at=None,
        version=episode.version + 1,
    )
    return Change(
        episode=closed,
        transition=Transition(
            kind="resolved", at=now, reason=reason or outcome.replace("_", " "), actor=actor, data={"outcome": outcome}
        ),
        notify=False,
    )


def reopen(episode: Episode, actor: str, reason: str, now: datetime) -> Change:
    if episode.open:
        raise NotAllowed("this alert is open already")
    again = replace(
        episode,
        state="open",
        closed_at=None,
        cleared_at=None,
        outcome=None,
        version=episode.version + 1,
    )
    return Change(
        episode=again,
        transition=Transition(kind="reopened", at=now, reason=reason or "reopened", actor=actor),
        notify=False,
    )


def _require_open(episode: Episode, verb: str) -> None:
    if not episode.open:
        raise NotAllowed(f"only an open alert can be {verb}; this one is {episode.state}")
