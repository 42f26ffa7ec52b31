"""What every channel is: a door to the outside that sends one message and says honestly what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.render.view import AlertView, Language

Outcome = Literal["sent", "retry", "permanent"]


def _no_key(_: str) -> str:
    raise ValueError("KIZASHI_SECRET_KEY is not set: personal Slack webhooks cannot be opened")


@dataclass(frozen=True, kw_only=True)
class ChannelSettings:
    """What the channels need of the settings. Addresses and passwords stay out of its ``repr``."""

    slack_webhook_url: str | None = field(default=None, repr=False)
    smtp_host: str | None = None
    smtp_port: int = 587
    smtp_username: str | None = None
    smtp_password: str | None = field(default=None, repr=False)
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    mail_from: str = "Kizashi <kizashi@localhost>"
    webhook_url: str | None = field(default=None, repr=False)
    webhook_secret: str | None = field(default=None, repr=False)
    allow_private_targets: bool = False
    decrypt: Callable[[str], str] = field(default=_no_key, repr=False)
    """Opens a stored personal webhook (``service.secrets.Vault.open``). Raises ``ValueError`` when it cannot."""


@dataclass(frozen=True, kw_only=True)
class SendResult:
    """What came of one attempt. ``detail`` is stored and shown: it never holds an address that is a secret."""

    outcome: Outcome
    detail: str
    status_code: int | None = None
    retry_after: timedelta | None = None
    """The receiver asks that *nothing* be sent to this target for so long."""
    disabled: bool = False
    """The receiver asks for no more messages at all (410)."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a message goes, resolved at send time. ``address`` may be a secret (a Slack webhook is one)."""

    name: str
    """As in ``deliveries.target``: ``team``, ``person:<id>``, an e-mail address, ``webhook``."""
    address: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Message:
    """What to say, and in which language."""

    view: AlertView
    language: Language


class UnresolvedError(Exception):
    """The target has no address. ``permanent``: nobody can mend it; else an operator may, so it is retried."""

    def __init__(self, detail: str, *, permanent: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.permanent = permanent


class Channel(Protocol):
    """One way out. Must not raise for anything the receiver does, must end within its own time-out."""

    name: str
    min_interval: timedelta
    """Least time between two messages to one target."""

    async def resolve(self, conn: AsyncConnection, name: str) -> Target:
        """The address behind a target's name. Raises ``UnresolvedError``."""

    async def send(self, target: Target, message: Message, *, delivery_id: UUID, now: datetime) -> SendResult:
        """One attempt. ``delivery_id`` is the same in every attempt and goes along wherever the channel has a place."""

    async def aclose(self) -> None: ...
