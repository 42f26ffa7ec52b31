"""The law for every channel, against receivers that behave, and misbehave, like the real ones.

A new channel adds a row to ``KIT``; the tests below that take ``door`` then hold it to account.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts.channels import CHANNELS, build
from alerts.channels import http as http_module
from alerts.channels import mail as mail_module
from alerts.channels.base import Channel, ChannelSettings, Message, SendResult, Target, UnresolvedError
from embedded.inbox import Fault, Inbox
from health.tables import people
from service.clock import utc_now
from tests.messages import NOW, SECRET, make_view

MESSAGE = Message(view=make_view(), language="en")


@dataclass(frozen=True, kw_only=True)
class Door:
    """How a channel reaches the inbox, and the faults that its receivers are known for."""

    channel: str
    target: Callable[[Inbox], Target]
    script_target: str
    temporary: Fault
    final: Fault


KIT = {
    "slack": Door(
        channel="slack",
        target=lambda inbox: Target(name="team", address=inbox.slack_url("team")),
        script_target="team",
        temporary=Fault(status=500),
        final=Fault(status=403, body="action_prohibited"),
    ),
    "email": Door(
        channel="email",
        target=lambda inbox: Target(name="yuki@example.com", address="yuki@example.com"),
        script_target="yuki@example.com",
        temporary=Fault(status=451, body="4.7.1 greylisted"),
        final=Fault(status=550, body="5.1.1 no such user"),
    ),
    "webhook": Door(
        channel="webhook",
        target=lambda inbox: Target(name="webhook", address=inbox.webhook_url),
        script_target="webhook",
        temporary=Fault(status=503),
        final=Fault(status=410),
    ),
}


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


@pytest.fixture(params=list(KIT))
def door(request: pytest.FixtureRequest) -> Door:
    return KIT[request.param]


def settings_for(inbox: Inbox, **changes: Any) -> ChannelSettings:
    values: dict[str, Any] = {
        "slack_webhook_url": inbox.slack_url("team"),
        "smtp_host": "127.0.0.1",
        "smtp_port": inbox.smtp_port,
        "smtp_tls": "none",
        "mail_from": "Kizashi <kizashi@mail.example>",
        "webhook_url": inbox.webhook_url,
        "webhook_secret": inbox.webhook_secret,
        "allow_private_targets": True,
    }
    return ChannelSettings(**{**values, **changes})


async def send(channel: Channel, target: Target, delivery_id: UUID | None = None) -> SendResult:
    # The real clock: a receiver rejects a signature that is five minutes off.
    return await channel.send(target, MESSAGE, delivery_id=delivery_id or uuid4(), now=utc_now())


def test_every_channel_is_in_the_kit() -> None:
    assert KIT.keys() == CHANNELS.keys()


async def test_a_message_arrives(inbox: Inbox, ways: dict[str, Channel], door: Door) -> None:
    result = await send(ways[door.channel], door.target(inbox))
    assert result.outcome == "sent"
    (received,) = inbox.messages(door.channel)
    assert "Acme Robotics" in str(received.content)
    assert received.repeats == 0


async def test_a_temporary_fault_asks_for_another_attempt(inbox: Inbox, ways: dict[str, Channel], door: Door) -> None:
    inbox.script(door.channel, door.script_target, door.temporary)
    result = await send(ways[door.channel], door.target(inbox))
    assert (result.outcome, result.status_code) == ("retry", door.temporary.status)
    assert inbox.messages() == []
    assert (await send(ways[door.channel], door.target(inbox))).outcome == "sent"


async def test_a_final_refusal_is_permanent(inbox: Inbox, ways: dict[str, Channel], door: Door) -> None:
    inbox.script(door.channel, door.script_target, door.final)
    result = await send(ways[door.channel], door.target(inbox))
    assert (result.outcome, result.status_code) == ("permanent", door.final.status)
    assert inbox.messages() == []


async def test_a_silent_receiver_is_cut_off_and_tried_again(
    inbox: Inbox, ways: dict[str, Channel], door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "TIMEOUT_SECONDS", 0.4)
    monkeypatch.setattr(mail_module, "TIMEOUT_SECONDS", 0.4)
    inbox.script(door.channel, door.script_target, Fault(status=200, delay_seconds=3))
    started = time.monotonic()
    result = await send(ways[door.channel], door.target(inbox))
    assert result.outcome == "retry"
    assert time.monotonic() - started < 2


async def test_a_receiver_that_is_not_there_is_tried_again(inbox: Inbox, door: Door) -> None:
    async with Inbox() as gone:
        target = door.target(gone)
        channel = build(settings_for(inbox, smtp_port=gone.smtp_port))[door.channel]
    result = await send(channel, target)
    assert result.outcome == "retry"
    assert result.status_code is None


@pytest.mark.parametrize(("name", "status"), [("email", 451), ("webhook", 500)])  # Slack's has no place for an id
async def test_a_repetition_carries_the_same_id(inbox: Inbox, ways: dict[str, Channel], name: str, status: int) -> None:
    door, delivery_id = KIT[name], uuid4()
    inbox.script(door.channel, door.script_target, Fault(status=status, accept=True))
    assert (await send(ways[door.channel], door.target(inbox), delivery_id)).outcome == "retry"
    assert (await send(ways[door.channel], door.target(inbox), delivery_id)).outcome == "sent"
    again, first = inbox.messages(door.channel)
    assert again.message_id == first.message_id
    assert str(delivery_id) in str(again.message_id)
    assert again.repeats == 1


async def test_no_result_and_no_log_holds_an_address(
    inbox: Inbox, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    channel = build(settings_for(inbox, smtp_username="kizashi", smtp_password=SECRET))[door.channel]
    targets = [door.target(inbox)]
    if door.channel != "email":
        targets = [
            Target(name="team", address=address)
            for address in (
                f"{inbox.url}/{SECRET}",
                f"http://127.0.0.1:1/{SECRET}",
                f"http://no.such.name.invalid/{SECRET}",
                f"ftp://x/{SECRET}",
                f"http://[broken/{SECRET}",
                f"http://u:{SECRET.replace('/', '')}@127.0.0.1/",
            )
        ]
    for target in targets:
        result = await send(channel, target)
        assert result.outcome != "sent"
        assert "CANARY" not in result.detail
        if door.channel != "email":
            assert "CANARY" not in repr(target)
    ours = [record for record in caplog.records if not record.name.startswith("uvicorn")]  # that is the receiver's
    assert "CANARY" not in "".join(f"{record.getMessage()}{record.__dict__}" for record in ours)


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault(status=400, body="invalid_payload"), "permanent"),
        (Fault(status=404, body="channel_not_found"), "permanent"),
        (Fault(status=410, body="channel_is_archived"), "permanent"),
        (Fault(status=302, headers={"location": "http://127.0.0.1:9/"}), "retry"),
        (Fault(status=502), "retry"),
    ],
)
async def test_slack_answers_in_one_word(inbox: Inbox, ways: dict[str, Channel], fault: Fault, outcome: str) -> None:
    inbox.script("slack", "team", fault)
    result = await send(ways["slack"], KIT["slack"].target(inbox))
    assert result.outcome == outcome
    assert result.detail == f"Slack answered {fault.status} {fault.body}".strip()


async def test_slack_over_its_rate_asks_for_a_pause(inbox: Inbox, ways: dict[str, Channel]) -> None:
    results = [await send(ways["slack"], KIT["slack"].target(inbox)) for _ in range(3)]
    assert [result.outcome for result in results] == ["sent", "sent", "retry"]
    assert results[2].retry_after == timedelta(seconds=1)


async def test_a_body_is_never_shown_and_never_read_to_its_end(inbox: Inbox, ways: dict[str, Channel]) -> None:
    target = KIT["webhook"].target(inbox)
    inbox.script("webhook", "webhook", Fault(status=500, body="<b>internal: password</b>"))
    assert "password" not in (await send(ways["webhook"], target)).detail
    inbox.script("webhook", "webhook", Fault(status=200, body_bytes=5_000_000, accept=True))
    assert (await send(ways["webhook"], target)).outcome == "sent"


async def test_a_dripping_receiver_is_cut_off(
    inbox: Inbox, ways: dict[str, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "TIMEOUT_SECONDS", 0.5)
    inbox.script("webhook", "webhook", Fault(status=200, drip_seconds=0.1))
    async with asyncio.timeout(2):
        assert (await send(ways["webhook"], KIT["webhook"].target(inbox))).outcome == "retry"


async def test_a_redirect_is_not_followed(inbox: Inbox, ways: dict[str, Channel]) -> None:
    inbox.script("webhook", "webhook", Fault(status=307, headers={"location": inbox.webhook_url}))
    result = await send(ways["webhook"], KIT["webhook"].target(inbox))
    assert (result.outcome, result.status_code) == ("retry", 307)
    assert inbox.messages() == []


async def test_gone_disables_the_webhook(inbox: Inbox, ways: dict[str, Channel]) -> None:
    inbox.script("webhook", "webhook", Fault(status=410))
    assert (await send(ways["webhook"], KIT["webhook"].target(inbox))).disabled


async def test_a_foreign_secret_is_noticed(inbox: Inbox) -> None:
    channel = build(settings_for(inbox, webhook_secret="whsec_" + "QUJD" * 8))["webhook"]
    result = await send(channel, KIT["webhook"].target(inbox))
    assert (result.outcome, result.status_code) == ("retry", 401)


@pytest.mark.parametrize("secret", [None, "", "whsec_$$$", "whsec_"])
def test_a_webhook_without_a_good_secret_stops_the_start(secret: str | None) -> None:
    with pytest.raises(ValueError, match="KIZASHI_WEBHOOK_SECRET"):
        build(ChannelSettings(webhook_url="https://hooks.example/", webhook_secret=secret))


async def test_private_addresses_are_refused_unless_allowed(inbox: Inbox) -> None:
    ways = build(settings_for(inbox, allow_private_targets=False))
    for name in ("slack", "webhook"):
        result = await send(ways[name], KIT[name].target(inbox))
        assert result.outcome == "permanent"
        assert "KIZASHI_ALLOW_PRIVATE_TARGETS" in result.detail
    assert inbox.messages() == []


async def test_a_mail_server_without_encryption_gets_nothing_when_encryption_is_wanted(inbox: Inbox) -> None:
    for wanted in ("starttls", "tls"):
        channel = build(settings_for(inbox, smtp_tls=wanted, smtp_username="kizashi", smtp_password=SECRET))["email"]
        result = await send(channel, KIT["email"].target(inbox))
        assert result.outcome == "retry"
        assert "mail server could not be used" in result.detail
    assert inbox.messages() == []


async def test_a_bad_address_is_given_up_at_once(inbox: Inbox, ways: dict[str, Channel]) -> None:
    result = await send(ways["email"], Target(name="nobody", address="nobody"))
    assert (result.outcome, result.detail) == ("permanent", "not an e-mail address: write name@example.com")
    assert inbox.messages() == []


async def test_targets_find_their_address_only_when_sending(engine: AsyncEngine, inbox: Inbox) -> None:
    async with engine.begin() as conn:
        await conn.execute(
            insert(people),
            [
                {"person_id": "yuki", "name": "Yuki", "slack_webhook": "sealed", "updated_at": NOW},
                {"person_id": "ken", "name": "Ken", "slack_webhook": None, "updated_at": NOW},
            ],
        )
    slack = build(settings_for(inbox, decrypt=lambda token: f"opened:{token}"))["slack"]
    bare = build(ChannelSettings())
    async with engine.connect() as conn:
        assert (await slack.resolve(conn, "person:yuki")).address == "opened:sealed"
        assert (await slack.resolve(conn, "team")).address == inbox.slack_url("team")
        for channel, name, words, permanent in (
            (slack, "person:ken", "no Slack webhook", True),
            (slack, "person:nobody", "no Slack webhook", True),
            (slack, "elsewhere", "unknown Slack target", True),
            (bare["slack"], "person:yuki", "KIZASHI_SECRET_KEY", False),
            (bare["slack"], "team", "KIZASHI_SLACK_WEBHOOK_URL", False),
            (bare["email"], "a@b.example", "KIZASHI_SMTP_HOST", False),
            (bare["webhook"], "webhook", "KIZASHI_WEBHOOK_URL", False),
        ):
            with pytest.raises(UnresolvedError, match=words) as raised:
                await channel.resolve(conn, name)
            assert raised.value.permanent is permanent
