"""The mail door: a real SMTP server that keeps what it accepts."""

from __future__ import annotations

import asyncio
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from embedded.inbox.faults import Fault, Script
from embedded.inbox.store import Store


class Postbox:
    """aiosmtpd's handler; each method answers with an SMTP status line."""

    def __init__(self, store: Store, script: Script) -> None:
        self._store, self._script = store, script
        self._faults: dict[int, Fault] = {}

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self,
        server: SMTP,  # noqa: ARG002 - aiosmtpd's signature
        session: Session,  # noqa: ARG002
        envelope: Envelope,
        address: str,
        rcpt_options: list[str],  # noqa: ARG002
    ) -> str:
        fault = self._script.take("email", address)
        if fault is not None:
            await asyncio.sleep(fault.delay_seconds)
            if not fault.accept:
                return f"{fault.status} {fault.body or 'scripted refusal'}"
            self._faults[id(envelope)] = fault
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802, ARG002
        content = envelope.content or b""
        raw = content if isinstance(content, bytes) else content.encode()
        message = message_from_bytes(raw, policy=policy.default)
        for recipient in envelope.rcpt_tos:
            self._store.add("email", recipient, read_mail(message), message_id=_header(message, "Message-ID"))
        fault = self._faults.pop(id(envelope), None)
        if fault is not None:
            return f"{fault.status} {fault.body or 'scripted: the message was taken all the same'}"
        return "250 2.0.0 OK: kept"


def read_mail(message: Message[Any, Any] | EmailMessage) -> dict[str, Any]:
    """Headers and both bodies as text."""
    assert isinstance(message, EmailMessage)
    return {
        "headers": [[name, str(value)] for name, value in message.items()],
        "from": _header(message, "From"),
        "to": _header(message, "To"),
        "subject": _header(message, "Subject"),
        "text": _body(message, "plain"),
        "html": _body(message, "html"),
    }


def _header(message: Message[Any, Any], name: str) -> str | None:
    value = message[name]
    return None if value is None else str(value)


def _body(message: EmailMessage, kind: str) -> str | None:
    part = message.get_body((kind,))
    return None if part is None else str(part.get_content())
