"""What surrounds every request: its id, its log line and metrics, the security headers, the guard of its body, and the
last resort for errors. Plain ASGI: Starlette's BaseHTTPMiddleware would tie a request's fate to its client's
connection.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import metrics
from service.errors import Problem, as_problem, respond

log = structlog.get_logger("kizashi.http")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
UNMATCHED = "unmatched"
QUIET_ROUTES = frozenset({"/livez", "/readyz", "/metrics"})

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

BODY_SECONDS = 30.0
"""Longest a body may take in all; a body of the largest size needs about 2 Mbit/s."""
BODY_PAUSE_SECONDS = 10.0
"""Longest pause between two pieces of a body."""


class RequestContext:
    """Outermost: the request id (taken over when it is harmless), the access log and the metrics."""

    def __init__(self, app: ASGIApp, monotonic: Callable[[], float] = time.perf_counter) -> None:
        self.app = app
        self._monotonic = monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
        scope.setdefault("state", {})["request_id"] = request_id
        started = self._monotonic()
        status = 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            metrics.HTTP_IN_PROGRESS.track_inprogress(),
        ):
            try:
                await self.app(scope, receive, stamped)
            finally:
                self._record(scope, status, self._monotonic() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = route_template(scope)
        # A status of 0: the client was gone before there was an answer.
        metrics.HTTP_REQUESTS.labels(route, known_method(scope["method"]), str(status)).inc()
        metrics.HTTP_SECONDS.labels(route).observe(seconds)
        line = log.debug if route in QUIET_ROUTES else log.info
        key = scope.get("state", {}).get("key")
        line(
            "request",
            method=known_method(scope["method"]),
            path=scope["path"][:200],
            route=route,
            status=status,
            milliseconds=round(seconds * 1000, 1),
            key=None if key is None else key.name,
        )


def route_template(scope: MutableMapping[str, Any]) -> str:
    """The route's pattern, never the path: a label per account would be endless."""
    context = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    path = getattr(context, "path", None)
    return path if isinstance(path, str) else UNMATCHED


def known_method(method: str) -> str:
    return method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "OTHER"


class SecurityHeaders:
    """On every answer, the errors too. A route may loosen one by setting it itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, secured)


class BodyGuard:
    """Counts the body's bytes as they come, declared or chunked, and cuts off who is too large or too slow."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        seconds: float = BODY_SECONDS,
        pause_seconds: float = BODY_PAUSE_SECONDS,
    ) -> None:
        self.app = app
        self._max = max_bytes
        self._seconds = seconds
        self._pause = pause_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        self._check_head(headers)
        taken, finished, deadline = 0, False, 0.0

        async def guarded() -> Message:
            nonlocal taken, finished, deadline
            if finished:
                return await receive()  # only the end of the connection can come now: nothing to hurry
            now = asyncio.get_running_loop().time()
            deadline = deadline or now + self._seconds
            try:
                async with asyncio.timeout(min(self._pause, deadline - now)):
                    message = await receive()
            except TimeoutError:
                raise too_slow() from None
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                finished = not message.get("more_body", False)
                if taken > self._max:
                    raise self._too_large()
            return message

        await self.app(scope, guarded, send)

    def _check_head(self, headers: Headers) -> None:
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"", "identity"}:
            raise Problem(
                415, "unsupported-encoding", "bodies are taken as they are: leave Content-Encoding out, do not compress"
            )
        declared = headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > self._max):
            raise self._too_large()

    def _too_large(self) -> Problem:
        return Problem(
            413,
            "body-too-large",
            f"the body has more than {self._max} bytes: split it into several requests",
            headers={"Connection": "close"},
        )


def too_slow() -> Problem:
    return Problem(408, "body-too-slow", "the body did not arrive in time: send again", headers={"Connection": "close"})


class LastResort:
    """Turns what the guards raise and what nobody foresaw into a problem document; the latter is logged."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            if scope["type"] != "http":
                raise
            problem = as_problem(error)
            if problem.status_code == 500:
                log.exception("request failed")
            elif problem.status_code > 500:
                log.warning("request put off", status=problem.status_code, error=f"{type(error).__name__}: {error}")
            if started:
                raise  # half an answer is out: only a broken connection tells the client
            await respond(Request(scope), problem)(scope, receive, send)
