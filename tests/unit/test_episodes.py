"""Episodes as stories: what opens, resolves, is withdrawn, comes back; and what stays quiet."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from alerts import episodes
from alerts.episodes import Change, Episode, NotAllowed, Observation, Policy, advance

DAY_0 = datetime(2026, 3, 2, 9, tzinfo=UTC)
SILENT = "no login for 14 days"


def day(number: float) -> datetime:
    return DAY_0 + timedelta(days=number)


def step(episode: Episode | None, seen: Observation, now: datetime, policy: Policy = Policy()) -> Change | None:
    return advance("no-login", "acme", episode, seen, policy, now)


def holds(since: float, **kw: object) -> Observation:
    return replace(Observation(holds=True, reason=SILENT, since=day(since)), **kw)  # type: ignore[arg-type]


GONE = Observation(holds=False, reason="login seen")
UNKNOWN = Observation(holds=None, reason="data incomplete")


def opened(at: float = 14, **kw: object) -> Episode:
    change = step(None, holds(at), day(at))
    assert change is not None
    return structs.replace(change.episode, **kw)


def test_silence_opens_once_and_a_login_resolves() -> None:
    change = step(None, holds(14), day(14))
    assert change is not None and change.notify
    assert (change.transition.kind, change.transition.reason) == ("opened", SILENT)  # type: ignore[union-attr]
    assert change.episode.since == day(14)
    assert step(change.episode, holds(14), day(15)) is None
    closed = step(change.episode, GONE, day(16))
    assert closed is not None and closed.episode.state == "resolved" and not closed.notify
    assert closed.transition is not None and closed.transition.reason == "login seen"
    assert step(closed.episode, GONE, day(17)) is None


def test_unknown_neither_fires_nor_resolves() -> None:
    assert step(None, UNKNOWN, day(14)) is None
    assert step(opened(), UNKNOWN, day(15)) is None


def test_what_began_before_the_import_ended_opens_as_pre_existing_and_stays_quiet() -> None:
    change = step(None, holds(14, live_from=day(20)), day(21))
    assert change is not None and change.episode.pre_existing and not change.notify
    assert "began before" in change.transition.reason  # type: ignore[union-attr]
    worse = step(change.episode, holds(14, severity="critical"), day(22))
    assert worse is not None and worse.transition.kind == "escalated" and not worse.notify  # type: ignore[union-attr]
    closed = step(change.episode, GONE, day(23), Policy(notify_resolved=True))
    assert closed is not None and not closed.notify


def test_for_waits() -> None:
    policy = Policy(for_=timedelta(days=2))
    assert step(None, holds(14), day(15.9), policy) is None
    assert step(None, holds(14), day(16), policy) is not None


def test_a_late_event_withdraws_and_the_reader_is_told() -> None:
    change = step(opened(), replace(GONE, disproved=True), day(15))
    assert change is not None and change.episode.state == "withdrawn" and change.notify
    assert change.transition is not None and change.transition.kind == "withdrawn"


def test_resolved_by_a_person_stays_quiet_until_seen_false() -> None:
    known = episodes.resolve(opened(), "mina", "a project's end", "expected", day(15)).episode
    assert step(known, holds(14), day(16)) is None
    cleared = step(known, GONE, day(17))
    assert cleared is not None and cleared.transition is None and cleared.episode.cleared_at == day(17)
    again = step(cleared.episode, holds(31), day(31))
    assert again is not None and again.notify and again.episode.episode_id != known.episode_id


def test_flapping_within_the_cooldown_goes_on_quietly() -> None:
    policy = Policy(cooldown=timedelta(days=7))
    first = opened()
    closed = step(first, GONE, day(15), policy)
    assert closed is not None
    again = step(closed.episode, holds(16), day(16), policy)
    assert again is not None and again.transition.kind == "reopened" and not again.notify  # type: ignore[union-attr]
    assert again.episode.episode_id == first.episode_id
    worse = step(closed.episode, holds(16, severity="critical"), day(16), policy)
    assert worse is not None and worse.notify
    later = step(closed.episode, holds(23), day(23), policy)
    assert later is not None and later.episode.episode_id != first.episode_id and later.notify


def test_escalation_tells_once_and_not_during_a_snooze() -> None:
    change = step(opened(), holds(14, severity="critical"), day(15))
    assert change is not None and change.notify and change.transition.kind == "escalated"  # type: ignore[union-attr]
    assert step(change.episode, holds(14, severity="critical"), day(16)) is None
    milder = step(change.episode, holds(14, severity="warning"), day(17))
    assert milder is not None and milder.transition is None and not milder.notify
    asleep = episodes.snooze(opened(), "mina", "", day(20), day(15)).episode
    quiet = step(asleep, holds(14, severity="critical"), day(16))
    assert quiet is not None and not quiet.notify


def test_snooze_comes_back_only_if_it_still_holds() -> None:
    asleep = episodes.snooze(opened(), "mina", "on holiday", day(20), day(15)).episode
    assert asleep.next_at == day(20)
    assert step(asleep, holds(14), day(19)) is None
    back = step(asleep, holds(14), day(20))
    assert back is not None and back.notify and back.transition.kind == "renotified"  # type: ignore[union-attr]
    closed = step(asleep, GONE, day(20))
    assert closed is not None and closed.episode.state == "resolved"


def test_reminders_until_acknowledged() -> None:
    policy = Policy(renotify=timedelta(days=3))
    first = step(None, holds(14), day(14), policy)
    assert first is not None and first.episode.next_at == day(17)
    reminded = step(first.episode, holds(14), day(17), policy)
    assert reminded is not None and reminded.notify and reminded.episode.next_at == day(20)
    known = episodes.acknowledge(reminded.episode, "mina", "", day(18)).episode
    stopped = step(known, holds(14), day(20), policy)
    assert stopped is not None and not stopped.notify and stopped.episode.next_at is None


def test_actions_refuse_what_does_not_fit() -> None:
    closed = episodes.resolve(opened(), "mina", "", "saved", day(15)).episode
    with pytest.raises(NotAllowed, match="only an open alert"):
        episodes.acknowledge(closed, "mina", "", day(16))
    with pytest.raises(NotAllowed, match="future"):
        episodes.snooze(opened(), "mina", "", day(14), day(15))
    with pytest.raises(NotAllowed, match="outcome must be one of"):
        episodes.resolve(opened(), "mina", "", "bored", day(15))  # type: ignore[arg-type]
    with pytest.raises(NotAllowed, match="open already"):
        episodes.reopen(opened(), "mina", "", day(15))
    assert episodes.reopen(closed, "mina", "", day(16)).episode.open


observations = st.builds(
    lambda kind, severity, disproved: {
        "yes": Observation(holds=True, reason=SILENT, since=day(0), severity=severity),
        "no": replace(GONE, disproved=disproved),
        "unknown": UNKNOWN,
    }[kind],
    st.sampled_from(["yes", "no", "unknown"]),
    st.sampled_from(episodes.SEVERITIES),
    st.booleans(),
)


@given(st.lists(observations, max_size=30), st.integers(0, 9), st.integers(0, 9))
def test_any_run_of_observations_keeps_the_laws(seen: list[Observation], cooldown: int, renotify: int) -> None:
    policy = Policy(cooldown=timedelta(days=cooldown), renotify=timedelta(days=renotify) if renotify else None)
    episode: Episode | None = None
    for number, observation in enumerate(seen):
        change = step(episode, observation, day(number), policy)
        if observation.holds is None:
            assert change is None
        if change is None:
            continue
        after = change.episode
        assert not change.notify or change.transition is not None
        assert (after.closed_at is None) == after.open
        if episode is not None and after.episode_id == episode.episode_id and change.transition is not None:
            assert after.version == episode.version + 1
        if observation.holds is False:
            assert not after.open
        assert step(after, observation, day(number), policy) is None, "an evaluation repeated at once changes nothing"
        episode = after


@given(
    observations, st.integers(0, 3), st.integers(0, 4), st.booleans(), st.sampled_from(episodes.SEVERITIES), st.data()
)
def test_an_episode_told_to_be_unmoved_is_one_that_does_not_change(
    seen: Observation, renotify: int, next_at: int, acknowledged: bool, severity: str, data: st.DataObject
) -> None:
    policy = Policy(cooldown=timedelta(days=1), renotify=timedelta(days=renotify) if renotify else None)
    episode = opened(
        0,
        state=data.draw(st.sampled_from(["open", "resolved", "withdrawn"])),
        severity=severity,
        pre_existing=data.draw(st.booleans()),
        since=day(data.draw(st.integers(-1, 1))),
        next_at=day(next_at) if next_at else None,
        snoozed_until=data.draw(st.none() | st.just(day(next_at))),
        acknowledged_at=day(0) if acknowledged else None,
    )
    if not episode.open:
        cleared = data.draw(st.none() | st.just(day(1)))
        episode = structs.replace(episode, closed_at=day(1), cleared_at=cleared)
    change = step(episode, seen, day(2), policy)
    if episodes.unmoved(episode, seen.holds, seen.severity, seen.since or episode.since, day(2)):
        assert change is None
    elif episode.open:
        assert change is not None, "and nearly every other one does"
