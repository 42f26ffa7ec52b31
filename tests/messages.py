"""Alert views and outbox rows for the tests of delivery."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts import outbox
from alerts.render.view import AlertView, Contribution
from alerts.tables import deliveries, delivery_attempts, episodes, transitions

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
SECRET = "T00CANARY/B00CANARY/xoxbCANARYSECRET"


def make_view(**changes: Any) -> AlertView:
    """A complete, ordinary alert; ``changes`` are fields of ``AlertView``."""
    values: dict[str, Any] = {
        "episode_id": UUID("7b0a3a55-55b9-4b5e-9f4e-0d6d2f0f7c11"),
        "account_id": "acct_42",
        "account_name": "Acme Robotics",
        "mrr": Decimal(150000),
        "currency": "JPY",
        "plan": "Pro",
        "renewal_on": date(2026, 5, 1),
        "rule_id": "no-login-14d",
        "rule_title": {"en": "No login for 14 days", "ja": "14日間ログインなし"},
        "severity": "critical",
        "kind": "opened",
        "at": NOW,
        "reasons": {"en": "Nobody at Acme has logged in for 14 days.", "ja": "14日間、誰もログインしていません。"},
        "transition_reason": "the condition became true",
        "since": NOW - timedelta(hours=2),
        "opened_at": NOW,
        "last_seen_at": NOW - timedelta(days=9),
        "last_login_at": NOW - timedelta(days=14),
        "score": 31.5,
        "band": "red",
        "contributions": (
            Contribution(title={"en": "Logins", "ja": "ログイン"}, points=-22.0),
            Contribution(title={"en": "Open tickets", "ja": "未解決の問い合わせ"}, points=-8.5),
            Contribution(title={"en": "Seats used", "ja": "利用席数"}, points=4.0),
        ),
        "owner_name": "Yuki Tanaka",
        "owner_slack_id": "U02ABCDEF",
        "suggestion": {"en": "Call the champion this week.", "ja": "今週中に担当者へ電話しましょう。"},
        "url": "https://kizashi.example/accounts/acct_42",
        "timezone": "Asia/Tokyo",
    }
    return AlertView(**{**values, **changes})


async def new_episode(engine: AsyncEngine) -> UUID:
    """An open episode of an account of its own."""
    episode_id = uuid4()
    async with engine.begin() as conn:
        await conn.execute(
            insert(episodes).values(
                episode_id=episode_id, rule_id="no-login-14d", account_id=f"acct_{episode_id.hex}", state="open",
                severity="critical", since=NOW, opened_at=NOW, rule_version="v1", reason={}, signals={}, updated_at=NOW,
            )
        )  # fmt: skip
    return episode_id


async def tell(
    engine: AsyncEngine,
    episode_id: UUID,
    *,
    kind: str = "opened",
    channel: str = "webhook",
    target: str = "webhook",
    at: datetime = NOW,
    language: str = "en",
    **changes: Any,
) -> UUID:
    """A transition of the episode with one message in the outbox, as the evaluator does it; the delivery's id."""
    async with engine.begin() as conn:
        added = await conn.execute(
            insert(transitions)
            .values(episode_id=episode_id, kind=kind, at=at, reason="test", actor="kizashi")
            .returning(transitions.c.transition_id)
        )
        new = outbox.NewDelivery(
            transition_id=added.scalar_one(),
            view=make_view(episode_id=episode_id, account_id=f"acct_{episode_id.hex}", kind=kind, at=at, **changes),
            channel=channel,
            target=target,
            language=language,
            created_at=at,
            oldest_event_at=at - timedelta(seconds=1),
        )
        await outbox.enqueue(conn, [new])
    return new.delivery_id


async def delivery(engine: AsyncEngine, delivery_id: UUID) -> Any:
    """The delivery's row."""
    async with engine.connect() as conn:
        return (await conn.execute(select(deliveries).where(deliveries.c.delivery_id == delivery_id))).one()


async def attempts(engine: AsyncEngine, delivery_id: UUID) -> list[Any]:
    """Rows of its attempts, in order."""
    a = delivery_attempts.c
    async with engine.connect() as conn:
        found = await conn.execute(select(delivery_attempts).where(a.delivery_id == delivery_id).order_by(a.attempt))
        return list(found)
