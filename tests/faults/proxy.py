"""A TCP proxy on loopback that breaks chosen connections: stalls them, resets them, or loses an answer.

Clients name themselves in their first bytes (Postgres: application_name; Kafka: client id), and that name chooses
whose connections are broken. It runs on a thread and an event loop of its own, so that a blocked test stalls nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

CHUNK = 64 * 1024
OPENING_BYTES = 2048
RESET = struct.pack("ii", 1, 0)  # SO_LINGER without a wait: closing sends RST
LOST_AFTER_SECONDS = 0.3


@dataclass(eq=False, kw_only=True)
class _Link:
    """One client's connection through the proxy; ``opening``: the first bytes that it sent."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    opening: bytes = b""
    deaf: bool = False  # what the server answers is thrown away

    def of(self, name: bytes | None) -> bool:
        return name is not None and name in self.opening

    def reset(self) -> None:
        for writer in (self.client, self.server):
            sock: socket.socket | None = writer.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


@dataclass(kw_only=True)
class Lost:
    """An answer to be lost once: the one to the first request of ``name`` for which ``asks`` is true."""

    name: bytes
    asks: Callable[[bytes], bool]
    done: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """127.0.0.1:``port`` → 127.0.0.1:``target()``, asked for at each connection."""

    def __init__(self, target: Callable[[], int], *, seen: Callable[[bytes], None] = lambda _: None) -> None:
        """``seen`` is shown what clients send, piece by piece, on the proxy's thread."""
        self.port = 0
        self._seen = seen
        self._target = target
        self._links: set[_Link] = set()
        self._stalled: bytes | None = None
        self._lost: Lost | None = None
        self._loop = asyncio.new_event_loop()
        self._moved = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="proxy")
        self._ready = threading.Event()
        self._stop = asyncio.Event()

    def start(self) -> None:
        self._thread.start()
        self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def stall(self, name: bytes) -> None:
        """From now on nothing passes on connections of ``name``, in neither direction; they stay open."""
        self._do(lambda: setattr(self, "_stalled", name))

    def flow(self) -> None:
        """Ends the stall; what was held back arrives."""

        def flow() -> None:
            self._stalled = None
            self._moved.set()
            self._moved = asyncio.Event()

        self._do(flow)

    def reset(self, name: bytes) -> int:
        """Resets all connections of ``name``; returns how many there were."""
        found: list[int] = []

        def reset() -> None:
            links = [link for link in self._links if link.of(name)]
            for link in links:
                link.reset()
            found.append(len(links))

        self._do(reset)
        return found[0]

    def lose_answer(self, name: bytes, asks: Callable[[bytes], bool]) -> Lost:
        """The next request that ``asks`` matches is passed on, its answer is not: the connection is reset instead."""
        lost = Lost(name=name, asks=asks)
        self._do(lambda: setattr(self, "_lost", lost))
        return lost

    def _do(self, action: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(run)
        if not done.wait(10):
            raise TimeoutError("the proxy does not answer")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for link in list(self._links):
            link.reset()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target())
        except OSError:
            writer.transport.abort()
            return
        link = _Link(client=writer, server=server_writer)
        self._links.add(link)
        try:
            pumps = [
                self._pump(link, reader, server_writer, up=True),
                self._pump(link, server_reader, writer, up=False),
            ]
            tasks = [asyncio.create_task(pump) for pump in pumps]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._links.discard(link)
            for end in (writer, server_writer):
                end.close()

    async def _pump(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if up and len(link.opening) < OPENING_BYTES:
                    link.opening += data
                while link.of(self._stalled):
                    await self._moved.wait()
                if up:
                    self._seen(data)
                    self._doom(link, data)
                elif link.deaf:
                    continue
                writer.write(data)
                await writer.drain()

    def _doom(self, link: _Link, data: bytes) -> None:
        lost = self._lost
        if lost is None or not link.of(lost.name) or not lost.asks(data):
            return
        self._lost = None
        link.deaf = True

        def reset() -> None:
            link.reset()
            lost.done.set()

        self._loop.call_later(LOST_AFTER_SECONDS, reset)


def is_commit(data: bytes) -> bool:
    """Whether the bytes, of a client of Postgres, hold a simple query COMMIT."""
    return b"COMMIT;\0" in data


def is_produce(data: bytes) -> bool:
    """Whether the bytes begin a produce request of Kafka's protocol (api key 0)."""
    return len(data) > 8 and data[4:6] == b"\0\0"


def acks_of(data: bytes, client: bytes) -> int | None:
    """What a produce request of ``client`` at the beginning of the bytes asks for: -1, all in-sync replicas."""
    if not is_produce(data):
        return None
    version, _, length = struct.unpack_from(">hih", data, 6)
    place = 14 + length
    if data[14:place] != client:
        return None
    if version >= 9:
        raise ValueError(f"version {version} of the request is not known here")
    if version >= 3:
        (transaction,) = struct.unpack_from(">h", data, place)
        place += 2 + max(0, transaction)
    acks: int = struct.unpack_from(">h", data, place)[0]
    return acks
