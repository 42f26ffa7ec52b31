"""The small HTTP server of a role without an API: `/livez`, `/readyz`, `/metrics`, nothing else.

Written on asyncio alone, because uvicorn would take over the process's signals, which are the role's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

HEAD_SECONDS = 5.0
PROBE_SECONDS = 5.0
MAX_HEAD_BYTES = 8192


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe found: whether all is well, and each check in words."""

    ok: bool
    checks: dict[str, str] = {}


Probe = Callable[[], Awaitable[Report]]
Answer = tuple[int, str, bytes]


class RoleServer:
    """A running server; `port` is the real one, also when 0 was asked for."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()


async def serve_role_metrics(host: str, port: int, readiness: Probe, liveness: Probe | None = None) -> RoleServer:
    """Starts it. `readiness` answers `/readyz` (503 when not ok); without `liveness`, answering is being alive."""

    async def answer(path: str) -> Answer:
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(REGISTRY)
        if path == "/livez":
            return await _probe(liveness or _alive)
        if path == "/readyz":
            return await _probe(readiness)
        return 404, "text/plain; charset=utf-8", b"here are /livez, /readyz and /metrics\n"

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_SECONDS + PROBE_SECONDS):
                await _serve_one(reader, writer, answer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a visitor that left or never asked
        finally:
            writer.close()

    return RoleServer(await asyncio.start_server(connected, host, port, limit=MAX_HEAD_BYTES))


async def _serve_one(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[str], Awaitable[Answer]]
) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(parts) != 3 or parts[0] not in {"GET", "HEAD"}:
        status, media_type, body = 405, "text/plain; charset=utf-8", b"GET only\n"
    else:
        status, media_type, body = await answer(parts[1].partition("?")[0])
    reason = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}[status]
    writer.write(
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n".encode()
    )
    if parts[0] != "HEAD":
        writer.write(body)
    await writer.drain()


async def _alive() -> Report:
    return Report(ok=True)


async def _probe(probe: Probe) -> Answer:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            report = await probe()
    except Exception as error:  # noqa: BLE001 - a probe that fails is itself the finding
        report = Report(ok=False, checks={"probe": type(error).__name__})
    return 200 if report.ok else 503, "application/json", msgspec.json.encode(report)
