"""E-mail by SMTP: one connection and one recipient per message, so that a refusal is known to be its own."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta
from email.utils import parseaddr
from uuid import UUID

import aiosmtplib
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.channels.base import ChannelSettings, Message, SendResult, Target, UnresolvedError
from alerts.render.clean import clean
from alerts.render.mail import mail

TIMEOUT_SECONDS = 30.0
STEP_TIMEOUT_SECONDS = 15.0
QUIT_SECONDS = 2.0
MAX_EXCERPT = 120


class MailChannel:
    """4xx is tried again, 5xx is final; a connection lost before the server's last word may mean "accepted"."""

    name = "email"
    min_interval = timedelta(0)

    def __init__(self, settings: ChannelSettings) -> None:
        self._settings = settings

    async def resolve(self, conn: AsyncConnection, name: str) -> Target:  # noqa: ARG002 - the name is the address
        if not self._settings.smtp_host:
            raise UnresolvedError("no mail server: set KIZASHI_SMTP_HOST")
        return Target(name=name, address=name)

    async def send(self, target: Target, message: Message, *, delivery_id: UUID, now: datetime) -> SendResult:
        try:
            built = mail(
                message.view,
                message.language,
                delivery_id=delivery_id,
                sender=self._settings.mail_from,
                recipient=target.address,
                date=now,
            )
        except ValueError as problem:
            return SendResult(outcome="permanent", detail=str(problem))
        return await self._submit(built.as_bytes(), target.address)

    async def _submit(self, content: bytes, recipient: str) -> SendResult:
        s = self._settings
        client = aiosmtplib.SMTP(
            hostname=s.smtp_host,
            port=s.smtp_port,
            username=s.smtp_username,
            password=s.smtp_password,
            use_tls=s.smtp_tls == "tls",
            start_tls=s.smtp_tls == "starttls",
            timeout=STEP_TIMEOUT_SECONDS,
        )
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await client.connect()
                refused, answer = await client.sendmail(parseaddr(s.mail_from)[1], [recipient], content)
            await _part(client)
        except TimeoutError:
            return SendResult(outcome="retry", detail="the mail server did not answer in time")
        except aiosmtplib.SMTPAuthenticationError as error:
            # The operator's fault, not the message's: 535 would kill every alert while a password is being changed.
            return SendResult(outcome="retry", status_code=error.code, detail="the mail server refused our sign-in")
        except aiosmtplib.SMTPRecipientsRefused as error:
            first = error.recipients[0]
            return _refusal(first.code, first.message)
        except aiosmtplib.SMTPResponseException as error:
            return _refusal(error.code, error.message)
        except (aiosmtplib.SMTPException, OSError) as error:
            return SendResult(outcome="retry", detail=f"the mail server could not be used: {type(error).__name__}")
        finally:
            # Without QUIT after a failure: a server that has stopped answering would be waited for once more.
            client.close()
        # Refused recipients come back in a dict and raise only when all are refused.
        if recipient in refused:
            return _refusal(refused[recipient].code, refused[recipient].message)
        return SendResult(outcome="sent", status_code=250, detail=f"accepted: {clean(answer, MAX_EXCERPT)}")

    async def aclose(self) -> None:
        """Nothing is kept open."""


async def _part(client: aiosmtplib.SMTP) -> None:
    """QUIT, of which nothing depends: the message has been accepted."""
    with contextlib.suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
        async with asyncio.timeout(QUIT_SECONDS):
            await client.quit()


def _refusal(code: int, text: str) -> SendResult:
    outcome = "permanent" if code >= 500 else "retry"
    return SendResult(outcome=outcome, status_code=code, detail=f"refused {code}: {clean(text, MAX_EXCERPT)}")  # type: ignore[arg-type]
