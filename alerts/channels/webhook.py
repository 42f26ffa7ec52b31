"""The generic webhook: every delivery as JSON, signed per Standard Webhooks, for systems that want to act on alerts."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection
from standardwebhooks.webhooks import Webhook

from alerts.channels.base import ChannelSettings, Message, SendResult, Target, UnresolvedError
from alerts.channels.http import make_client, post
from alerts.render.webhook import webhook

MIN_KEY_BYTES, MAX_KEY_BYTES = 24, 64
"""Standard Webhooks' bounds of a secret."""


class WebhookChannel:
    """The id is the delivery's and stays over retries; timestamp and signature are made anew for each attempt."""

    name = "webhook"
    min_interval = timedelta(0)

    def __init__(self, settings: ChannelSettings) -> None:
        self._url = settings.webhook_url
        self._signer = _signer(settings.webhook_secret)
        if self._url is not None and self._signer is None:
            raise ValueError("KIZASHI_WEBHOOK_SECRET is not set: a webhook is always signed; set it to whsec_<base64>")
        self._client = make_client(allow_private=settings.allow_private_targets)

    async def resolve(self, conn: AsyncConnection, name: str) -> Target:  # noqa: ARG002 - the one webhook is a setting
        if self._url is None:
            raise UnresolvedError("no webhook: set KIZASHI_WEBHOOK_URL and KIZASHI_WEBHOOK_SECRET")
        return Target(name=name, address=self._url)

    async def send(self, target: Target, message: Message, *, delivery_id: UUID, now: datetime) -> SendResult:
        assert self._signer is not None
        body = webhook(message.view)
        stamp = now.astimezone(UTC)
        headers = {
            "content-type": "application/json",
            "webhook-id": str(delivery_id),
            "webhook-timestamp": str(int(stamp.timestamp())),
            "webhook-signature": self._signer.sign(str(delivery_id), stamp, body.decode()),
        }
        answer = await post(self._client, target.address, body, headers, now)
        if isinstance(answer, SendResult):
            return answer
        status = answer.status_code
        detail = f"the receiver answered {status}"
        if 200 <= status < 300:
            return SendResult(outcome="sent", detail=detail, status_code=status)
        if status == 410:
            return SendResult(
                outcome="permanent", detail=f"{detail} Gone: it wants no more messages", status_code=410, disabled=True
            )
        return SendResult(outcome="retry", detail=detail, status_code=status, retry_after=answer.retry_after)

    async def aclose(self) -> None:
        await self._client.aclose()


def _signer(secret: str | None) -> Webhook | None:
    if not secret:
        return None
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise ValueError(
            f"KIZASHI_WEBHOOK_SECRET is not whsec_ and {MIN_KEY_BYTES} to {MAX_KEY_BYTES} random bytes in base64: "
            "make one with `openssl rand -base64 32`"
        )
    return Webhook(key)
