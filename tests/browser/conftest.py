"""The board served by uvicorn on a real Postgres with the sample company, and Debian's Chromium to look at it."""

import asyncio
import contextlib
import os
import shutil
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from sqlalchemy.ext.asyncio import AsyncConnection

from service import auth
from service.app import create_app
from service.db import make_engine
from service.deps import Deps
from service.settings import Settings
from tests.api import FakeProducer
from tests.conftest import PostgresServer, in_thread
from tests.samples import Sample, fill

T = TypeVar("T")
LAUNCH_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NOW = datetime(2026, 5, 20, 9, 30, tzinfo=UTC)


@dataclass(kw_only=True)
class Site:
    """A running board. ``key`` may read and write, ``reader`` may only read."""

    url: str
    database: str
    sample: Sample
    key: str
    reader: str
    producer: FakeProducer
    now: datetime = NOW
    faults: list[str] = field(default_factory=list)

    def run(self, work: Callable[[AsyncConnection], Any]) -> Any:
        """One transaction of the test's own, beside the server."""
        return transact(self.database, work)


def transact(database: str, work: Callable[[AsyncConnection], Any]) -> Any:
    results: list[Any] = []

    async def go() -> None:
        engine = make_engine(database, pool_size=1)
        async with engine.begin() as conn:
            results.append(await work(conn))
        await engine.dispose()

    in_thread(lambda: asyncio.run(go()))
    return results[0]


@contextlib.contextmanager
def serving(server: PostgresServer, template: str, *, board_open: bool = True, empty: bool = False) -> Iterator[Site]:
    name = f"kizashi_board_{uuid.uuid4().hex}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    database = server.database_url(name)
    key, reader = transact(database, _keys)
    sample = Sample(now=NOW) if empty else transact(database, lambda conn: fill(conn, NOW))
    producer = FakeProducer()
    try:
        with _uvicorn(database, board_open, producer) as url:
            yield Site(url=url, database=database, sample=sample, key=key, reader=reader, producer=producer)
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def _keys(conn: AsyncConnection) -> tuple[str, str]:
    key, _ = await auth.create(conn, name="aiko", scopes=["read", "write"], expires_at=None, now=NOW)
    reader, _ = await auth.create(conn, name="visitor", scopes=["read"], expires_at=None, now=NOW)
    return key, reader


@contextlib.contextmanager
def _uvicorn(database: str, board_open: bool, producer: FakeProducer) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    started = threading.Event()
    servers: list[uvicorn.Server] = []

    async def serve() -> None:
        deps = Deps(
            settings=Settings.model_validate({"board_open": board_open, "kafka_bootstrap": "127.0.0.1:1"}),
            clock=lambda: NOW,
            engine=make_engine(database, pool_size=4),
            producer=producer,
        )
        made = uvicorn.Server(uvicorn.Config(create_app(deps), log_level="warning", lifespan="on"))
        servers.append(made)
        started.set()
        await made.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    started.wait(30)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        servers[0].should_exit = True
        thread.join(30)
        listener.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        message = "no Chromium here: apt install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=LAUNCH_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(postgres_server: PostgresServer, template_database: str) -> Iterator[Site]:
    """Open to everybody and shared by the tests of a file: look, do not change."""
    with serving(postgres_server, template_database) as made:
        yield made


@pytest.fixture
def own_site(postgres_server: PostgresServer, template_database: str) -> Iterator[Site]:
    """Open to everybody, for one test that changes it."""
    with serving(postgres_server, template_database) as made:
        yield made


@pytest.fixture
def closed_site(postgres_server: PostgresServer, template_database: str) -> Iterator[Site]:
    """Asks for a key."""
    with serving(postgres_server, template_database, board_open=False) as made:
        yield made


@pytest.fixture
def empty_site(postgres_server: PostgresServer, template_database: str) -> Iterator[Site]:
    """Without any account."""
    with serving(postgres_server, template_database, empty=True) as made:
        yield made


Open = Callable[..., Page]


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Open]:
    """``open_page(url, locale=…, color_scheme=…, javascript=…)``; script errors and refused resources fail."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def make(
        url: str, *, locale: str = "en-GB", color_scheme: Any = "light", width: int = 1280, javascript: bool = True
    ) -> Page:
        context = chromium.new_context(
            locale=locale,
            color_scheme=color_scheme,
            viewport={"width": width, "height": 900},
            java_script_enabled=javascript,
        )
        contexts.append(context)
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(f"script: {error}"))
        page.on("console", lambda line: faults.append(f"console: {line.text}") if _is_fault(line) else None)
        page.goto(url)
        return page

    yield make
    for context in contexts:
        context.close()
    assert faults == []


def _is_fault(line: Any) -> bool:
    # The browser reports every answer of 400 and above; tests that provoke one assert on the page instead.
    return line.type in {"error", "warning"} and "Failed to load resource" not in line.text
