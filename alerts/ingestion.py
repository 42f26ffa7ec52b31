"""Operations' own alert: data has been incomplete for longer than a moment, or was lost. One at a time, for all causes.

It is an episode of a rule of our own and of no account, so that it goes through the same outbox with the same promises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts import metrics, store
from alerts.episodes import Change, Observation, Policy, advance
from alerts.outbox import NewDelivery, enqueue
from alerts.render.view import AlertView
from alerts.routing import Channels, route
from health.gaps import Gap, Observed
from health.tables import watch

log = structlog.get_logger("kizashi.evaluator")

RULE: Final = "ingestion-held"
NO_ACCOUNT: Final = ""
"""No event can name it."""
TITLE: Final = {"en": "Customer data is incomplete", "ja": "顧客データが欠けています"}
CALM: Final = timedelta(minutes=5)
"""It is over when data has been complete for so long: what comes and goes, or seems to by the clock of one evaluator
among several, is told once."""
NEXT: Final = {
    "en": "See `kizashi gaps list` and `kizashi partitions list`. Alerts about absence wait until this is over.",
    "ja": "`kizashi gaps list` と `kizashi partitions list` を確認してください。"
    "解消するまで、不在に関するアラートは保留されます。",
}


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Who is told (the default recipient of ``channels``), and how long data may be incomplete before they are."""

    channels: Channels
    wanted: tuple[str, ...]
    after: timedelta
    public_url: str


def observe(
    observed: Observed, lost: tuple[Gap, ...], now: datetime, behind_since: datetime | None = None
) -> tuple[Observation, dict[str, str]]:
    """Whether data is incomplete, since when, and why. Pure.

    ``lost``: what the last look found lost. ``behind_since``: when consumers were first seen to be behind.
    """
    held_since = observed.held_since(now)
    causes = [gap for gap in observed.gaps if gap.state == "open" and gap.until_at is None]
    english, japanese = [], []
    if observed.through is None or (held_since is not None and held_since == observed.through):
        until = "" if observed.through is None else _time(observed.through)
        english.append(f"Events are applied only up to {until}." if until else "No consumer has reported yet.")
        japanese.append(
            f"イベントは {until} までしか処理されていません。" if until else "処理状況の報告がまだありません。"
        )
    for gap in causes:
        english.append(f"{_name(gap, 'en')} fell silent at {_time(gap.from_at)}.")
        japanese.append(f"{_name(gap, 'ja')}からのイベントが {_time(gap.from_at)} から途絶えています。")
    for gap in lost:
        until = _time(gap.until_at or now)
        english.append(
            f"{_name(gap, 'en')} sent nothing from {_time(gap.from_at)} to {until}; what was missing is lost."
        )
        japanese.append(f"{_name(gap, 'ja')}からのイベントが {_time(gap.from_at)} から {until} まで失われています。")
    since = min([held_since or now, behind_since or now, *(gap.from_at for gap in lost)])
    holds = held_since is not None or bool(lost)
    words = (
        {"en": " ".join(english), "ja": "".join(japanese)}
        if holds
        else {"en": "Data is complete again.", "ja": "データは再び揃っています。"}
    )
    return Observation(holds=holds, reason=words["en"], severity="critical", since=since), words


async def tell_operations(
    conn: AsyncConnection, operations: Operations, observed: Observed, lost: tuple[Gap, ...], now: datetime
) -> None:
    """Opens or resolves the alert, and puts what is said of it into the outbox. Callers take turns (``guard``)."""
    seen, words = await _look(conn, observed, lost, now)
    held_for = (now - seen.since).total_seconds() if seen.holds and seen.since is not None else 0.0
    metrics.INGESTION_HELD.set(max(held_for, 0.0))
    episodes = await store.newest_episodes(conn, [NO_ACCOUNT], [(RULE, NO_ACCOUNT)])
    before = episodes.get((RULE, NO_ACCOUNT))
    policy = Policy(for_=operations.after, notify_resolved=True)
    change = advance(RULE, NO_ACCOUNT, before, seen, policy, now)
    if change is None:
        return
    if before is not None and before.episode_id == change.episode.episode_id:
        await store.save_episodes(conn, [change.episode], now)
    else:
        await store.insert_episodes(conn, [(change.episode, _snapshot(words))], now)
    if change.transition is None:
        return
    ids = await store.insert_transitions(conn, [(change.episode.episode_id, change.transition)])
    transition_id = ids[change.episode.episode_id]
    metrics.ALERTS.labels(rule=RULE, transition=change.transition.kind).inc()
    log.warning("data is incomplete" if change.episode.open else "data is complete again", reason=words["en"])
    if change.notify:
        await enqueue(conn, _deliveries(operations, change, words, transition_id, now))


async def _look(
    conn: AsyncConnection, observed: Observed, lost: tuple[Gap, ...], now: datetime
) -> tuple[Observation, dict[str, str]]:
    """What is seen; unknown while data has not been complete for long."""
    marks = (await conn.execute(select(watch.c.held_since, watch.c.complete_since))).one_or_none()
    seen, words = observe(observed, lost, now, None if marks is None else marks.held_since)
    if seen.holds:
        await conn.execute(update(watch).values(complete_since=None))
        return seen, words
    since = now if marks is None or marks.complete_since is None else min(marks.complete_since, now)
    await conn.execute(update(watch).values(complete_since=since))
    return (seen if now - since >= CALM else replace(seen, holds=None)), words


def _snapshot(words: dict[str, str]) -> dict[str, Any]:
    return {
        "owner": None, "mrr": None, "rule_version": "built-in", "scorecard": None, "reason": words, "signals": {},
        "score": None, "contributions": [],
    }  # fmt: skip


def _deliveries(
    operations: Operations, change: Change, words: dict[str, str], transition_id: int, now: datetime
) -> list[NewDelivery]:
    assert change.transition is not None
    episode = change.episode
    view = AlertView(
        episode_id=episode.episode_id,
        account_id=NO_ACCOUNT,
        account_name="Kizashi",
        rule_id=RULE,
        rule_title=TITLE,
        severity="critical",
        kind=change.transition.kind,  # type: ignore[arg-type]
        at=now,
        reasons=words,
        transition_reason=change.transition.reason,
        since=episode.since,
        opened_at=episode.opened_at,
        suggestion=NEXT,
        url=f"{operations.public_url}/",
    )
    targets = route(None, {}, operations.channels, operations.wanted, now)
    if not targets:
        metrics.UNREACHABLE.labels(rule=RULE).inc()
    return [
        NewDelivery(
            transition_id=transition_id,
            view=view,
            channel=target.channel,
            target=target.target,
            recipient=None,
            language=target.language,
            created_at=now,
        )
        for target in targets
    ]


def _name(gap: Gap, language: str) -> str:
    if gap.source is None:
        return "Every source" if language == "en" else "すべての送信元"
    return f"The source {gap.source}" if language == "en" else f"送信元 {gap.source} "


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
