"""The whole demo: servers, roles, history, live traffic; started in order, watched, stopped in order.

PostgreSQL, broker, inbox → schema, key, people → roles → board answers → history through the pipeline → live
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import httpx2
import yaml
from rich.console import Console
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.broker import ensure_topics
from service import auth, db
from service.clock import utc_now
from service.demo import feeding, servers
from service.demo.company import ACCOUNTS, HISTORY_DAYS, Company, make_company
from service.demo.live import Live
from service.demo.people import people_document
from service.demo.servers import Broker, BrokerChoice, Inbox, Server
from service.demo.show import Addresses, Show
from service.demo.state import DemoError, Folder, Secrets, State
from service.demo.surroundings import role_environment
from service.roles import role_processes
from service.supervisor import RoleProcess, Supervisor

SEED: Final = 20
READY_SECONDS: Final = 90.0
WATCH_SECONDS: Final = 0.5
ROLE_GRACE_SECONDS: Final = 8.0
ENDED: Final = "ended unasked. Starting again goes on from here; the logs are in"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where, how large and how lively. ``port``: the first one to try for the board."""

    folder: Path
    port: int = 8000
    accounts: int = ACCOUNTS
    history_days: int = HISTORY_DAYS
    chatter_per_second: float = 2.0
    environment: Mapping[str, str] = field(default_factory=dict)


class _Stopped(Exception):
    """Somebody asked us to stop while something was under way."""


async def run(options: Options, console: Console) -> int:
    """Runs the demo until SIGINT or SIGTERM; returns the exit status: 0 after an orderly stop. Raises DemoError."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with Folder(options.folder) as folder:
        _log_to(folder.log / "demo.log")
        async with contextlib.AsyncExitStack() as stack:
            demo = Demo(options, folder, Show(console), stop, stack)
            try:
                return await demo.run()
            except _Stopped:
                return 0
            finally:
                demo.show.say("Stopping …")


class Demo:
    """One run. What is started is put on ``stack``, which takes it down in reverse order."""

    def __init__(
        self, options: Options, folder: Folder, show: Show, stop: asyncio.Event, stack: contextlib.AsyncExitStack
    ) -> None:
        self.show = show
        self._options = options
        self._folder = folder
        self._stop = stop
        self._stack = stack
        self._servers: dict[str, Server] = {}
        self._failed_role: Callable[[], str | None] = lambda: None

    async def run(self) -> int:
        began = time.monotonic()
        state, choice = self._begin()
        url, broker, inbox = await self._start_servers(choice, state)
        engine = db.make_engine(url, pool_size=4, application_name="kizashi-demo")
        self._stack.push_async_callback(engine.dispose)
        secrets, api_key = await self._prepare(engine, url, broker, state)
        if state.anchor is not None and await feeding.history_is_in(engine, state):
            await feeding.catch_up(broker.bootstrap, self._company(state), state, utc_now(), self.show)
            self._folder.write_state(state)
        board = await self._start_roles(url, broker, inbox, secrets, state)
        self.show.done(f"The board answers: {board}", time.monotonic() - began)
        await self._feed(engine, broker, inbox, board, api_key, state)
        key_file = str(self._folder.path / "secrets.json")
        self.show.panel(
            Addresses(
                board=board,
                inbox=inbox.url,
                bootstrap=broker.bootstrap,
                topic=state.topic,
                api_key=api_key,
                key_file=key_file,
                log_folder=str(self._folder.log),
            )
        )
        return await self._watch()

    # Before the roles

    def _begin(self) -> tuple[State, BrokerChoice]:
        servers.check_packages()
        known = self._folder.read_state()
        choice = servers.choose_broker(self._options.environment, known.broker if known else None)
        if known is not None:
            self.show.say(f"Going on from what is kept in {self._folder.path}")
            return known, choice
        self.show.say(f"What the demo keeps is in {self._folder.path}")
        state = State(
            # A Kafka that others use, too, may hold the topic of an earlier demo: each gets its own.
            name=f"demo-{utc_now():%Y%m%d%H%M%S}",
            seed=SEED,
            accounts=self._options.accounts,
            history_days=self._options.history_days,
            broker=choice.kind,
        )
        self._folder.write_state(state)
        return state, choice

    async def _start_servers(self, choice: BrokerChoice, state: State) -> tuple[str, Broker, Inbox]:
        """All at once: database URL, broker, inbox. What came up is on the stack, also when another did not."""
        name = {"embedded": "Embedded broker", "kafka": "Apache Kafka", "given": "Apache Kafka"}[choice.kind]
        remark = "its log is in memory, not durable; " if choice.kind == "embedded" else ""
        started = await asyncio.gather(
            self._start("PostgreSQL", lambda: servers.start_postgres(self._folder), lambda found: found[0]),
            self._start(
                name,
                lambda: servers.start_broker(self._folder, choice, state.topic),
                lambda found: found.server,
                remark=f" [dim]({remark}{choice.reason})[/]",
            ),
            self._start("Local inbox", lambda: servers.start_inbox(self._folder), lambda found: found),
            return_exceptions=True,
        )
        for result in started:
            if isinstance(result, BaseException):
                raise result
        self._check_stop()
        postgres, broker, inbox = cast("tuple[tuple[Server, str], Broker, Inbox]", started)
        return postgres[1], broker, inbox

    async def _start(
        self, name: str, start: Callable[[], Any], server_of: Callable[[Any], Server | None], remark: str = ""
    ) -> Any:
        with self.show.step(f"{name}{remark}"):
            found = await asyncio.to_thread(start)
            server = server_of(found)
            if server is not None:
                self._servers[name] = server
                self._stack.push_async_callback(self._stop_server, name, server)
        return found

    async def _stop_server(self, name: str, server: Server) -> None:
        began = time.monotonic()
        self._servers.pop(name, None)
        await asyncio.to_thread(server.stop)
        self.show.done(f"{name} stopped", time.monotonic() - began)

    async def _prepare(self, engine: AsyncEngine, url: str, broker: Broker, state: State) -> tuple[Secrets, str]:
        """Schema, topic, API key, people."""
        with self.show.step("Schema, API key, people"):
            await asyncio.to_thread(db.migrate, url)
            if broker.incarnation is None:
                await ensure_topics(broker.bootstrap, {state.topic: servers.PARTITIONS})
            secrets = self._folder.secrets()
            if secrets.api_key is None:
                now = utc_now()
                async with engine.begin() as conn:
                    key, _ = await auth.create(conn, name="demo", scopes=auth.SCOPES, expires_at=None, now=now)
                secrets.api_key = key
                self._folder.write_secrets(secrets)
            people = people_document(utc_now())
            self._folder.write_text("people.yaml", yaml.safe_dump(people, allow_unicode=True, sort_keys=False))
        self._check_stop()
        return secrets, secrets.api_key

    # Roles

    async def _start_roles(self, url: str, broker: Broker, inbox: Inbox, secrets: Secrets, state: State) -> str:
        """Returns the board's address once it answers."""
        port = servers.choose_port(self._options.port)
        if port != self._options.port:
            self.show.warn(f"Port {self._options.port} is taken: the board is on {port} (PORT chooses another)")
        people = self._folder.path / "people.yaml"
        environment = role_environment(url, broker, inbox, secrets, state, port=port, people_file=people)
        roles = [
            RoleProcess(
                role=process.role,
                environment=servers.with_our_packages({**environment, **process.environment}),
                log=self._folder.log / f"{process.role}.log",
            )
            for process in role_processes()
        ]
        stop_roles = asyncio.Event()
        supervisor = Supervisor(roles, stop_roles, grace_seconds=ROLE_GRACE_SECONDS, told=self._role_told)
        self._failed_role = lambda: supervisor.failure
        running = asyncio.create_task(supervisor.run())

        async def stop() -> None:
            stop_roles.set()
            await running

        self._stack.push_async_callback(stop)
        board = environment["KIZASHI_PUBLIC_URL"]
        with self.show.step(f"Roles: {', '.join(role.role for role in roles)}"):
            await self._or_stop(_until_ready(f"{board}/readyz"))
        return board

    def _role_told(self, role: str, what: str) -> None:
        if what == "ended":
            self.show.warn(f"The {role} ended and is started again; its log: {self._folder.log / f'{role}.log'}")
        else:
            self.show.done(f"The {role} stopped")

    # Events

    async def _feed(
        self, engine: AsyncEngine, broker: Broker, inbox: Inbox, board: str, api_key: str, state: State
    ) -> None:
        """Returns when the history is in; the live traffic goes on."""
        started_at = utc_now()
        if state.anchor is None:
            # History is laid around the moment from which on somebody can watch.
            state.anchor = started_at
        state.starts += 1
        self._folder.write_state(state)
        company = self._company(state)
        live = Live(
            company, url=board, api_key=api_key, started_at=started_at, clock=utc_now,
            covered_until=state.covered_until or company.anchor,
            chatter_per_second=self._options.chatter_per_second, keep=lambda until: self._keep(state, until),
        )  # fmt: skip
        self._background(live.run())
        self._background(feeding.tell_first_alert(inbox.url, started_at, self.show, utc_now))
        if await feeding.history_is_in(engine, state):
            self.show.done(f"The history of {state.accounts} accounts is here already")
        else:
            await self._or_stop(feeding.load_history(engine, broker.bootstrap, company, state, self.show))
            self._background(feeding.set_scores_by_hand(board, api_key, company, utc_now))
        live.wake()

    def _company(self, state: State) -> Company:
        assert state.anchor is not None
        return make_company(state.seed, state.anchor, accounts=state.accounts, history_days=state.history_days)

    def _keep(self, state: State, covered_until: Any) -> None:
        state.covered_until = covered_until
        self._folder.write_state(state)

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        self._stack.push_async_callback(_cancelled, asyncio.create_task(work))

    # Meanwhile

    async def _watch(self) -> int:
        """Until told to stop; raises DemoError when something that everything rests on is gone."""
        while not self._stop.is_set():
            gone = [name for name, server in self._servers.items() if not server.running]
            if gone:
                raise DemoError(f"{' and '.join(gone)} {ENDED} {self._folder.path}")
            if (role := self._failed_role()) is not None:
                raise DemoError(f"the {role} cannot run as configured; see {self._folder.log / f'{role}.log'}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), WATCH_SECONDS)
        return 0

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    async def _or_stop(self, work: Coroutine[Any, Any, None]) -> None:
        """Until ``work`` is done. Raises _Stopped or DemoError as soon as there is no point in going on with it."""
        working, watching = asyncio.create_task(work), asyncio.create_task(self._watch())
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                watching.result()
                raise _Stopped
            working.result()
        finally:
            await _cancelled(working)
            await _cancelled(watching)


async def _until_ready(url: str) -> None:
    """Raises DemoError when it takes too long."""
    try:
        async with asyncio.timeout(READY_SECONDS), httpx2.AsyncClient(timeout=2.0, trust_env=False) as client:
            while True:
                if await _is_ready(client, url):
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise DemoError(f"{url} did not answer within {READY_SECONDS:.0f} s; the roles' logs say why") from None


async def _is_ready(client: httpx2.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx2.HTTPError:
        return False


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancels and awaits it; a failure that nobody heard of goes to the log."""
    task.cancel()
    outcome: object = (await asyncio.gather(task, return_exceptions=True))[0]
    if isinstance(outcome, Exception):
        logging.getLogger(__name__).error("a part of the demo failed", exc_info=outcome)


def _log_to(file: Path) -> None:
    """Our own process keeps the terminal for what people read."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for name in ("httpx2", "httpcore2", "aiokafka", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
