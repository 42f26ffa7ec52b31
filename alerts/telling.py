"""What is kept of an alert's moment, and the messages about it: pure, from a batch to episode snapshots and
deliveries.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import numpy as np
import structlog

from alerts import metrics
from alerts.outbox import NewDelivery
from alerts.render.view import AlertView, Contribution
from alerts.routing import Target, find_person, route
from alerts.rules import Rule, render_reason
from health.instants import NEVER, from_us

if TYPE_CHECKING:
    from alerts.episodes import Change
    from alerts.observing import Batch

log = structlog.get_logger("kizashi.evaluator")

SHOWN_CONTRIBUTIONS = 3


def reasons(batch: Batch, rule: Rule, place: int) -> dict[str, str]:
    """Why, as one sentence in each language."""
    row = batch.signals_of(place, map(str, rule.refs))
    currency = batch.facts.texts["currency"][place]
    return {language: render_reason(rule, row, language, currency) for language in ("en", "ja")}


def snapshot(batch: Batch, rule: Rule, place: int) -> dict[str, Any]:
    """What explains and reproduces the alert later: the rule's and the card's version, signals and contributions at
    firing.
    """
    score = batch.scores.score[place]
    return {
        "owner": batch.facts.texts["owner"][place],
        "mrr": _money(batch, place),
        "rule_version": rule.version,
        "scorecard": batch.scores.scorecard[place],
        "reason": reasons(batch, rule, place),
        "signals": {**batch.signals_of(place), "rulebook": batch.context.rulebook.version},
        "score": None if np.isnan(score) else Decimal(f"{score:.1f}"),
        "contributions": batch.scores.contributions[place],
    }


def tell(batch: Batch, rule: Rule, place: int, change: Change, transition_id: int) -> list[NewDelivery]:
    """The deliveries for a transition that a reader is told of."""
    assert change.transition is not None
    context, now = batch.context, batch.now
    owner = batch.facts.texts["owner"][place]
    targets = route(
        owner, context.people, context.channels, context.rulebook.routes.wanted(change.episode.severity), now
    )
    if not targets:
        metrics.UNREACHABLE.labels(rule=rule.id).inc()
        account_id = batch.facts.account_ids[place]
        log.error("an alert reaches nobody: no owner to reach, no team channel, no default", account_id=account_id)
        return []
    view = _view(batch, rule, place, change)
    return [
        NewDelivery(
            transition_id=transition_id,
            view=_for_reader(view, target),
            channel=target.channel,
            target=target.target,
            recipient=None if target.recipient is None else target.recipient.person_id,
            language=target.language,
            created_at=now,
            oldest_event_at=_earliest(batch.oldest_event_at, batch.rows[place].waiting_since),
        )
        for target in targets
    ]


def _earliest(first: datetime | None, second: datetime | None) -> datetime | None:
    return min((at for at in (first, second) if at is not None), default=None)


def _view(batch: Batch, rule: Rule, place: int, change: Change) -> AlertView:
    assert change.transition is not None
    facts, episode, row = batch.facts, change.episode, batch.rows[place]
    owner = find_person(facts.texts["owner"][place], batch.context.people)
    score = batch.scores.score[place]
    account_id = facts.account_ids[place]
    return AlertView(
        episode_id=episode.episode_id,
        account_id=account_id,
        account_name=facts.texts["name"][place],
        mrr=_money(batch, place),
        currency=facts.texts["currency"][place],
        plan=facts.texts["plan"][place],
        renewal_on=_renewal(batch, place),
        rule_id=rule.id,
        rule_title=dict(rule.title),
        severity=episode.severity,  # type: ignore[arg-type]
        kind=change.transition.kind,  # type: ignore[arg-type]
        at=batch.now,
        reasons=reasons(batch, rule, place),
        transition_reason=change.transition.reason,
        since=episode.since,
        opened_at=episode.opened_at,
        last_seen_at=row.last_activity_at,
        last_login_at=row.last_login_at,
        score=None if np.isnan(score) else float(score),
        band=batch.scores.band[place],  # type: ignore[arg-type]
        contributions=_strongest(batch, place),
        owner_name=owner.name if owner else None,
        owner_slack_id=owner.slack_id if owner else None,
        suggestion=dict(rule.suggestion),
        url=f"{batch.context.public_url}/accounts/{quote(account_id, safe='')}",
    )


def _for_reader(view: AlertView, target: Target) -> AlertView:
    slack_id = target.recipient.slack_id if target.recipient else None
    return msgspec.structs.replace(view, timezone=target.timezone, reader_slack_id=slack_id)


def _strongest(batch: Batch, place: int) -> tuple[Contribution, ...]:
    lines = [line for line in batch.scores.contributions[place] if line["contribution"] < 0]
    lines.sort(key=lambda line: line["contribution"])
    return tuple(
        Contribution(title=line["reason"], points=line["contribution"]) for line in lines[:SHOWN_CONTRIBUTIONS]
    )


def _money(batch: Batch, place: int) -> Decimal | None:
    mrr = batch.facts.numbers["mrr"][place]
    return None if np.isnan(mrr) else Decimal(str(float(mrr)))


def _renewal(batch: Batch, place: int) -> date | None:
    at = int(batch.facts.renewal_at[place])
    return None if at == NEVER else from_us(at).date()
