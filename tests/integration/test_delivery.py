"""The sender on a real Postgres, against receivers on loopback that behave and misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import REGISTRY, generate_latest
from pydantic import SecretStr
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts import delivery as delivery_module
from alerts import outbox
from alerts.channels import build
from alerts.channels.base import Channel, ChannelSettings, Message
from alerts.delivery import Sender, run_sender
from alerts.tables import channel_holds, deliveries, delivery_attempts
from embedded.inbox import Fault, Inbox
from health.tables import people
from service.clock import utc_now
from service.db import make_engine
from service.secrets import SecretsError, Vault
from tests.messages import SECRET, attempts, delivery, new_episode, tell

MAIL = "yuki@example.com"
SOON = 10.0


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    async with Inbox() as running:
        yield running


@pytest.fixture
async def ways(inbox: Inbox) -> AsyncIterator[dict[str, Channel]]:
    built = build(settings_for(inbox))
    yield built
    for channel in built.values():
        await channel.aclose()


def settings_for(inbox: Inbox, **changes: Any) -> ChannelSettings:
    values: dict[str, Any] = {
        "slack_webhook_url": inbox.slack_url("team"),
        "smtp_host": "127.0.0.1",
        "smtp_port": inbox.smtp_port,
        "smtp_tls": "none",
        "webhook_url": inbox.webhook_url,
        "webhook_secret": inbox.webhook_secret,
        "allow_private_targets": True,
    }
    return ChannelSettings(**{**values, **changes})


@contextlib.asynccontextmanager
async def running(engine: AsyncEngine, ways: dict[str, Channel], senders: int = 1) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(run_sender(engine, ways, stop, utc_now)) for _ in range(senders)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def tell_now(engine: AsyncEngine, channel: str, target: str, **changes: Any) -> UUID:
    return await tell(engine, await new_episode(engine), channel=channel, target=target, at=utc_now(), **changes)


async def until(engine: AsyncEngine, status: str, ids: Sequence[UUID]) -> None:
    """Waits until these deliveries all have the status."""
    open_ = select(deliveries.c.delivery_id).where(deliveries.c.delivery_id.in_(ids), deliveries.c.status != status)
    async with asyncio.timeout(SOON):
        while True:
            async with engine.connect() as conn:
                if (await conn.execute(open_)).first() is None:
                    return
            await asyncio.sleep(0.05)


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_message_reaches_each_channel_and_is_counted(
    engine: AsyncEngine, inbox: Inbox, ways: dict[str, Channel]
) -> None:
    before = metric("kizashi_deliveries_total", channel="email", outcome="sent")
    timed = metric("kizashi_event_to_alert_seconds_count")
    ids = [
        await tell_now(engine, "slack", "team"),
        await tell_now(engine, "email", MAIL, language="ja"),
        await tell_now(engine, "webhook", "webhook"),
    ]
    async with running(engine, ways):
        await until(engine, "sent", ids)
    assert {one.door for one in inbox.messages()} == {"slack", "email", "webhook"}
    (mailed,) = inbox.messages("email")
    assert mailed.content["subject"].startswith("14日間ログインなし")
    assert metric("kizashi_deliveries_total", channel="email", outcome="sent") == before + 1
    assert metric("kizashi_event_to_alert_seconds_count") == timed + 3


async def test_a_slow_target_holds_up_nobody_else(engine: AsyncEngine, inbox: Inbox, ways: dict[str, Channel]) -> None:
    inbox.script("webhook", "webhook", Fault(status=200, delay_seconds=2, accept=True))
    slow = await tell_now(engine, "webhook", "webhook")
    quick = [await tell_now(engine, "email", f"{number}@example.com") for number in range(5)]
    async with running(engine, ways):
        await until(engine, "sent", quick)
        assert (await delivery(engine, slow)).status == "leased"
    assert (await delivery(engine, slow)).status == "sent"  # stopping let it arrive


async def test_two_senders_send_each_message_once(engine: AsyncEngine, inbox: Inbox, ways: dict[str, Channel]) -> None:
    ids = [await tell_now(engine, "webhook", "webhook") for _ in range(10)]
    ids += [await tell_now(engine, "email", f"{number}@example.com") for number in range(10)]
    async with running(engine, ways, senders=2):
        await until(engine, "sent", ids)
    assert len(inbox.messages()) == 20
    assert len({one.message_id for one in inbox.messages()}) == 20
    arrived = [UUID(str(one.message_id)) for one in reversed(inbox.messages("webhook"))]
    assert arrived == ids[:10]  # in order per target, whoever sent them


async def test_slack_gets_one_message_a_second_and_is_never_over_its_limit(
    engine: AsyncEngine, ways: dict[str, Channel]
) -> None:
    ids = [await tell_now(engine, "slack", "team") for _ in range(3)]
    async with running(engine, ways, senders=2):
        await until(engine, "sent", ids)
    times = sorted([(await delivery(engine, one)).sent_at for one in ids])
    assert all(later - earlier >= timedelta(seconds=1) for earlier, later in pairwise(times))
    assert [len(await attempts(engine, one)) for one in ids] == [1, 1, 1]


async def test_a_sender_killed_after_sending_costs_one_repetition_with_the_same_id(
    engine: AsyncEngine, inbox: Inbox, ways: dict[str, Channel]
) -> None:
    delivery_id = await tell_now(engine, "webhook", "webhook")
    async with engine.begin() as conn:
        (claimed,) = await outbox.claim(conn, utc_now(), 1, lease=timedelta(seconds=0.5))
        target = await ways["webhook"].resolve(conn, "webhook")
    assert claimed.view is not None
    message = Message(view=claimed.view, language="en")
    sent = await ways["webhook"].send(target, message, delivery_id=claimed.delivery_id, now=utc_now())
    assert sent.outcome == "sent"  # and here it is killed, before it could say so
    async with running(engine, ways):
        await until(engine, "sent", [delivery_id])
    again, first = inbox.messages("webhook")
    assert (again.message_id, again.repeats) == (first.message_id, 1)
    assert [row.outcome for row in await attempts(engine, delivery_id)] == ["abandoned", "sent"]


async def test_each_attempt_is_recorded_and_the_next_one_follows_the_schedule(
    engine: AsyncEngine, inbox: Inbox, ways: dict[str, Channel]
) -> None:
    inbox.script("slack", "team", Fault(status=500), Fault(status=403, body="action_prohibited"))
    delivery_id = await tell_now(engine, "slack", "team")
    ahead = timedelta(0)

    def clock() -> datetime:
        return utc_now() + ahead

    sender = Sender(engine, ways, clock, random.Random(1))
    await sender.step()
    await sender.drain()
    (first,) = await attempts(engine, delivery_id)
    assert (first.outcome, first.status_code) == ("retry", 500)
    assert timedelta(seconds=4) < first.retry_at - first.finished_at < timedelta(seconds=6)
    assert await sender.step() == 0
    ahead = timedelta(seconds=7)
    await sender.step()
    await sender.drain()
    _, second = await attempts(engine, delivery_id)
    assert (second.outcome, second.detail) == ("permanent", "Slack answered 403 action_prohibited")
    assert (await delivery(engine, delivery_id)).status == "dead"


async def test_what_is_not_set_up_waits_and_says_why(engine: AsyncEngine) -> None:
    ids = [await tell_now(engine, "email", MAIL), await tell_now(engine, "pigeon", "loft")]
    sender = Sender(engine, build(ChannelSettings()), utc_now)
    await sender.step()
    await sender.drain()
    assert [(await delivery(engine, one)).status for one in ids] == ["pending", "dead"]
    (why,) = await attempts(engine, ids[0])
    assert "KIZASHI_SMTP_HOST" in why.detail


async def test_a_fault_of_a_channel_stops_nobody(
    engine: AsyncEngine, inbox: Inbox, ways: dict[str, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(ways["slack"], "send", broken)
    odd = await tell_now(engine, "slack", "team")
    fine = await tell_now(engine, "email", MAIL)
    async with running(engine, ways):
        await until(engine, "sent", [fine])
        await until(engine, "pending", [odd])
    (why,) = await attempts(engine, odd)
    assert (why.outcome, why.detail) == ("retry", "internal fault: RuntimeError")


async def test_the_sender_outlives_a_database_that_is_away(
    ways: dict[str, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "PAUSE_AFTER_FAILURE_SECONDS", 0.01)
    nowhere = make_engine("postgresql+asyncpg://kizashi@127.0.0.1:1/none", timeout_seconds=1)
    async with running(nowhere, ways):
        await asyncio.sleep(0.2)
    await nowhere.dispose()


async def test_a_secret_address_appears_nowhere(
    engine: AsyncEngine, inbox: Inbox, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Personal webhooks that answer, fail, time out of reach, or do not open: no table, log or metric names them."""
    caplog.set_level(logging.DEBUG)
    vault = Vault(SecretStr("a long random string of the operator"))
    addresses = {
        "works": f"{inbox.url}/slack/{SECRET.split('/')[0]}",
        "missing": f"{inbox.url}/{SECRET}",
        "closed": f"http://127.0.0.1:1/{SECRET}",
        "unresolvable": f"https://no-such-host.invalid/{SECRET}",
        "malformed": f"http://[{SECRET}",
    }
    sealed = {name: vault.seal(address) for name, address in addresses.items()}
    sealed["foreign"] = Vault(SecretStr("another long random string")).seal(addresses["works"])
    async with engine.begin() as conn:
        await conn.execute(
            insert(people),
            [
                {"person_id": name, "name": name, "slack_webhook": token, "updated_at": utc_now()}
                for name, token in sealed.items()
            ],
        )
    ids = {name: await tell_now(engine, "slack", f"person:{name}") for name in sealed}
    ways = build(settings_for(inbox, decrypt=vault.open))
    sender = Sender(engine, ways, utc_now)
    await sender.step()
    await sender.drain()
    statuses = {name: (await delivery(engine, one)).status for name, one in ids.items()}
    assert statuses == {
        "works": "sent", "missing": "dead", "closed": "pending", "unresolvable": "pending", "malformed": "pending",
        "foreign": "pending",
    }  # fmt: skip
    async with engine.connect() as conn:
        for table in (deliveries, delivery_attempts, channel_holds, people):
            assert "CANARY" not in str((await conn.execute(select(table))).all())
    assert "CANARY" not in generate_latest(REGISTRY).decode()
    ours = [record for record in caplog.records if not record.name.startswith("uvicorn")]  # that is the receiver's
    assert "CANARY" not in "".join(f"{record.getMessage()}{record.__dict__}" for record in ours)
    written = capfd.readouterr()
    assert "CANARY" not in written.out + written.err
    assert "CANARY" not in repr(settings_for(inbox, slack_webhook_url=addresses["missing"], smtp_password=SECRET))


def test_sealed_texts_open_with_their_own_key_only() -> None:
    vault = Vault(SecretStr("a long random string"))
    token = vault.seal("https://hooks.example/x")
    assert "hooks" not in token
    assert vault.seal("https://hooks.example/x") != token
    assert vault.open(token) == "https://hooks.example/x"
    with pytest.raises(SecretsError, match="KIZASHI_SECRET_KEY is not the key"):
        Vault(SecretStr("another long random string")).open(token)
    with pytest.raises(SecretsError, match="not set"):
        Vault(None).seal("x")
    with pytest.raises(SecretsError, match="too short"):
        Vault(SecretStr("short"))
