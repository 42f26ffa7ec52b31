"""The inbox's two servers, HTTP and SMTP, on one event loop: ``async with Inbox() as inbox``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from aiosmtpd.smtp import SMTP

from embedded.inbox.app import make_app
from embedded.inbox.faults import Fault, Script
from embedded.inbox.mail import Postbox
from embedded.inbox.slack import RateLimit
from embedded.inbox.store import Received, Store

HOST = "127.0.0.1"
MAX_MAIL_BYTES = 10 * 1024 * 1024


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Inbox:
    """``http_port`` and ``smtp_port`` 0 mean any free one. With ``state`` (a folder) messages and secret outlive it."""

    def __init__(
        self,
        *,
        http_port: int = 0,
        smtp_port: int = 0,
        state: Path | None = None,
        slack_per_second: float = 1.0,
        slack_burst: int = 2,
    ) -> None:
        if state is not None:
            state.mkdir(parents=True, exist_ok=True)
        self._wanted = (http_port, smtp_port)
        self.store = Store(state)
        self.webhook_secret = _secret(state)
        self._script = Script()
        self._rate = RateLimit(slack_per_second, slack_burst)
        self.http_port = 0
        self.smtp_port = 0
        self._smtp: asyncio.Server | None = None
        self._http: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.http_port}"

    @property
    def webhook_url(self) -> str:
        return f"{self.url}/webhook"

    def slack_url(self, channel: str) -> str:
        return f"{self.url}/slack/{channel}"

    def announcement(self) -> dict[str, Any]:
        """What a sender must know to reach us."""
        return {
            "url": self.url,
            "http_port": self.http_port,
            "smtp_host": HOST,
            "smtp_port": self.smtp_port,
            "slack_url": self.slack_url("{channel}"),
            "webhook_url": self.webhook_url,
            "webhook_secret": self.webhook_secret,
        }

    def script(self, door: str, target: str, *faults: Fault) -> None:
        """The next requests at this door (``slack``, ``email``, ``webhook``) for this target go wrong in these ways."""
        self._script.add(door, target, *faults)

    def messages(self, door: str | None = None) -> list[Received]:
        """What was accepted, newest first."""
        return list(self.store.newest(door))

    async def __aenter__(self) -> Self:
        http_port, smtp_port = self._wanted
        listener = _listen(http_port)
        self.http_port = listener.getsockname()[1]
        try:
            smtp_listener = _listen(smtp_port)
        except OSError:
            listener.close()
            raise
        self.smtp_port = smtp_listener.getsockname()[1]
        loop = asyncio.get_running_loop()
        # Not aiosmtpd's Controller: it cannot take port 0, and runs a loop in a thread of its own.
        postbox = Postbox(self.store, self._script)
        self._smtp = await loop.create_server(
            lambda: SMTP(
                postbox, hostname="inbox.localhost", data_size_limit=MAX_MAIL_BYTES, enable_SMTPUTF8=True, loop=loop
            ),
            sock=smtp_listener,
        )
        app = make_app(self.store, self._script, self._rate, self.webhook_secret)
        self._http = _Server(
            uvicorn.Config(
                app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1, ws="none"
            )
        )
        self._serving = asyncio.create_task(self._http.serve(sockets=[listener]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None and self._serving is not None:
            self._http.should_exit = True
            await self._serving
        if self._smtp is not None:
            self._smtp.close()


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    listener.listen(100)
    listener.setblocking(False)
    return listener


def _secret(state: Path | None) -> str:
    """The Standard Webhooks secret that we verify with; kept in the state folder, readable by its owner alone."""
    file = None if state is None else state / "webhook_secret"
    if file is not None and file.exists():
        return file.read_text().strip()
    made = "whsec_" + b64encode(secrets.token_bytes(32)).decode()
    if file is not None:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(made)
    return made
