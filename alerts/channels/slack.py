"""Slack by incoming webhooks: the team's channel, or a person's own. The webhook's address is the secret."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.channels.base import ChannelSettings, Message, SendResult, Target, UnresolvedError
from alerts.channels.http import make_client, post
from alerts.render.slack import slack
from health.tables import people

PERSON = "person:"
TEAM = "team"
_ERROR_WORD = re.compile(rb"[a-z_]{1,40}")


class SlackChannel:
    """Slack answers 200 ``ok``, wants at most one message a second and channel, and says in one word what is wrong."""

    name = "slack"
    min_interval = timedelta(seconds=1)

    def __init__(self, settings: ChannelSettings) -> None:
        self._team_url = settings.slack_webhook_url
        self._decrypt = settings.decrypt
        self._client = make_client(allow_private=settings.allow_private_targets)

    async def resolve(self, conn: AsyncConnection, name: str) -> Target:
        if name == TEAM:
            if self._team_url is None:
                raise UnresolvedError("no Slack webhook for the team: set KIZASHI_SLACK_WEBHOOK_URL")
            return Target(name=name, address=self._team_url)
        if not name.startswith(PERSON):
            raise UnresolvedError("unknown Slack target: expected team or person:<id>", permanent=True)
        sealed = await conn.scalar(select(people.c.slack_webhook).where(people.c.person_id == name[len(PERSON) :]))
        if sealed is None:
            raise UnresolvedError("this person has no Slack webhook (any more)", permanent=True)
        try:
            return Target(name=name, address=self._decrypt(sealed))
        except ValueError as problem:
            raise UnresolvedError(str(problem)) from None

    async def send(
        self,
        target: Target,
        message: Message,
        *,
        delivery_id: UUID,  # noqa: ARG002 - an incoming webhook has no place for it
        now: datetime,
    ) -> SendResult:
        body = msgspec.json.encode(slack(message.view, message.language, mention=target.name == TEAM))
        answer = await post(self._client, target.address, body, {"content-type": "application/json"}, now)
        if isinstance(answer, SendResult):
            return answer
        status = answer.status_code
        word = f" {answer.body.decode('ascii')}" if _ERROR_WORD.fullmatch(answer.body) else ""
        detail = f"Slack answered {status}{word}"
        if status == 200:
            return SendResult(outcome="sent", detail=detail, status_code=status)
        if status in {408, 429} or status < 400 or status >= 500:
            return SendResult(outcome="retry", detail=detail, status_code=status, retry_after=answer.retry_after)
        return SendResult(outcome="permanent", detail=detail, status_code=status)

    async def aclose(self) -> None:
        await self._client.aclose()
