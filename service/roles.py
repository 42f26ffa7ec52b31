"""The roles, each built from the settings: api, consumer, archive, evaluator, sender; or all under a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

# Of that package only this is used here: the wheel and the image have it, and it needs nothing but Python.
from embedded.process import free_port
from service import logging as logs
from service.clock import utc_now
from service.db import make_engine
from service.role_server import Probe, Report, RoleServer, serve_role_metrics
from service.settings import EX_CONFIG, Settings
from service.supervisor import RoleProcess, Supervisor, stop_on_signals

if TYPE_CHECKING:
    from alerts.context import ContextSource
    from consumers.loop import Status
    from consumers.sources import Sources

log = structlog.get_logger("kizashi.roles")

ROLES = ("api", "relay", "consumer", "archive", "evaluator", "sender")
"""In the order of the road, which is also the order of stopping."""


LISTEN_ATTEMPTS = 6
LISTEN_PAUSE_SECONDS = 0.5


class CannotListen(Exception):
    """An address that cannot be had; says why."""


def loop_of(role: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop of a role; None: the usual one. The API's is many small requests, which uvloop serves
    a good deal faster; the others compute or wait for the database, and gain nothing."""
    if role != "api":
        return None
    import uvloop

    return uvloop.new_event_loop


async def run_role(role: str, settings: Settings) -> int:
    """Runs one role until a signal. Returns the exit status: EX_CONFIG when it cannot run as configured."""
    logs.configure(settings.log_format, settings.log_level)
    stop = asyncio.Event()
    stop_on_signals(stop)
    run: Callable[[Settings, asyncio.Event], Awaitable[int]] = {
        "api": _api,
        "relay": _relay,
        "consumer": _consumer,
        "archive": _archive,
        "evaluator": _evaluator,
        "sender": _sender,
    }[role]
    structlog.contextvars.bind_contextvars(role=role)
    try:
        return await run(settings, stop)
    except CannotListen as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        remedy = "stop what uses it, or set KIZASHI_METRICS_HOST and KIZASHI_METRICS_PORT to another"
        log.error("metrics and probes cannot listen", where=where, problem=str(error), remedy=remedy)  # noqa: TRY400 - the words say it all
        return EX_CONFIG


async def run_all(settings: Settings) -> int:
    """Every role as a process of its own; the API also shows the metrics of the others."""
    logs.configure(settings.log_format, settings.log_level)
    stop = asyncio.Event()
    stop_on_signals(stop)
    sources = _sources(settings)
    if sources is None:
        return EX_CONFIG
    chosen = role_processes(archive=settings.archive_url is not None, relay=bool(sources.topics))
    return await Supervisor(chosen, stop).run()


def role_processes(*, archive: bool = False, relay: bool = False) -> list[RoleProcess]:
    """The roles with a metrics port each, which the API is told of; those that are asked for among the optional."""
    optional = {"archive": archive, "relay": relay}
    roles = [role for role in ROLES if optional.get(role, True)]
    ports = {role: free_port() for role in roles if role != "api"}
    peers = [f'"{role}=http://127.0.0.1:{port}/metrics"' for role, port in ports.items()]
    environments = {
        "api": {"KIZASHI_METRICS_PEERS": f"[{','.join(peers)}]"},
        **{role: {"KIZASHI_METRICS_PORT": str(port)} for role, port in ports.items()},
    }
    return [RoleProcess(role=role, environment=environments[role]) for role in roles]


async def _api(settings: Settings, stop: asyncio.Event) -> int:
    import uvicorn

    from consumers.run import relax_collector
    from health.yamlfile import FileError
    from service.app import create_app
    from service.deps import build

    try:
        deps = build(settings)
    except FileError as error:
        log.error("a file is wrong", problems=str(error))  # noqa: TRY400 - the words say it all
        return EX_CONFIG
    relax_collector()  # decoded events are many objects and no cycles
    config = uvicorn.Config(
        create_app(deps),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # the signals are the role's own: stop_on_signals

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            try:
                await super().startup(sockets)
            except SystemExit as refusal:  # its way to say that it cannot listen; in a task, it would end the loop
                raise CannotListen(refusal.__context__) from None

    server = Server(config)
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    try:
        await serving
    except CannotListen as error:
        where = f"{settings.host}:{settings.port}"
        remedy = "stop what uses it, or set KIZASHI_HOST and KIZASHI_PORT to another"
        log.error("the API cannot listen", where=where, problem=str(error), remedy=remedy)  # noqa: TRY400 - the words say it all
        return EX_CONFIG
    finally:
        stopping.cancel()
    return 0 if stop.is_set() else 1


async def _consumer(settings: Settings, stop: asyncio.Event) -> int:
    from consumers.broker import BrokerError
    from consumers.loop import Status, Stuck
    from consumers.poison import PoisonLimits
    from consumers.run import Options, run_consumer
    from service.secrets import pseudonyms_of

    options = Options(
        bootstrap=settings.kafka_bootstrap,
        topics=settings.events_topics,
        group=settings.consumer_group,
        broker_incarnation=settings.broker_incarnation,
        event_max_bytes=settings.event_max_bytes,
        future_tolerance=timedelta(seconds=settings.future_tolerance_seconds),
        dedup_window_days=settings.dedup_window_days,
        dead_letter_days=settings.dead_letter_days,
        poison=PoisonLimits(
            share=settings.poison_share, window=settings.poison_window, in_a_row=settings.poison_in_a_row
        ),
        pseudonyms=pseudonyms_of(settings),
    )
    status = Status()
    async with _engine(settings, "consumer") as engine, _metrics(settings, _database_and(engine, status)):
        try:
            await run_consumer(engine, options, stop, utc_now, status)
        except (Stuck, BrokerError) as error:
            log.error("the consumer ends, to be started again", problem=str(error))  # noqa: TRY400 - the words say it all
            return 1
    return 0


def _sources(settings: Settings) -> Sources | None:
    """What is agreed with the sources of foreign events; None, once it is said why, when the file is wrong."""
    from consumers.sources import FILE_NAME, load
    from health.yamlfile import FileError

    try:
        sources = load(settings.rules_dir / FILE_NAME)
    except FileError as error:
        log.error("a file is wrong", problems=str(error))  # noqa: TRY400 - the words say it all
        return None
    if own := [each.topic for each in sources.topics if each.topic in settings.events_topics]:
        # What was relayed out of it would be relayed again, for ever.
        remedy = "take it out of `topics` in sources.yaml: the consumers read it"
        log.error("an events topic is to be relayed into itself", topics=own, remedy=remedy)
        return None
    return sources


async def _relay(settings: Settings, stop: asyncio.Event) -> int:
    from consumers.broker import BrokerError, Producer
    from consumers.formats.canonical import Limits
    from consumers.intake import Intake
    from consumers.loop import Status, Stuck
    from consumers.poison import PoisonLimits
    from consumers.relay import DOOR, Options, run_relay
    from service.deps import waiting_limits
    from service.secrets import pseudonyms_of

    sources = _sources(settings)
    if sources is None:
        return EX_CONFIG
    if not sources.topics:
        log.error("there is nothing to relay", remedy="list `topics` in sources.yaml, or run without this role")
        return EX_CONFIG
    limits = Limits(
        event_max_bytes=settings.event_max_bytes,
        batch_max_events=settings.batch_max_events,
        future_tolerance=timedelta(seconds=settings.future_tolerance_seconds),
    )
    options = Options(
        bootstrap=settings.kafka_bootstrap,
        sources=sources,
        group=settings.consumer_group,
        broker_incarnation=settings.broker_incarnation,
        limits=limits,
        poison=PoisonLimits(
            share=settings.poison_share, window=settings.poison_window, in_a_row=settings.poison_in_a_row
        ),
    )
    status = Status()
    producer = Producer(
        settings.kafka_bootstrap, client_id="kizashi-relay", timeout_seconds=settings.accept_timeout_seconds
    )
    async with _engine(settings, "relay") as engine, _metrics(settings, _database_and(engine, status)):
        intake = Intake(
            producer, engine, topic=settings.events_topics[0], door=DOOR, pseudonyms=pseudonyms_of(settings),
            waiting=waiting_limits(settings),
        )  # fmt: skip
        try:
            await run_relay(engine, intake, options, stop, utc_now, status)
        except (Stuck, BrokerError) as error:
            log.error("the relay ends, to be started again", problem=str(error))  # noqa: TRY400 - the words say it all
            return 1
        finally:
            await producer.stop()
    return 0


async def _archive(settings: Settings, stop: asyncio.Event) -> int:
    from consumers.archive.run import Options, run_archive
    from consumers.broker import BrokerError
    from consumers.loop import Status, Stuck
    from service.archive import archive_of
    from service.secrets import pseudonyms_of

    options = Options(
        bootstrap=settings.kafka_bootstrap,
        topics=settings.events_topics,
        group=settings.consumer_group,
        broker_incarnation=settings.broker_incarnation,
        event_max_bytes=settings.event_max_bytes,
        future_tolerance=timedelta(seconds=settings.future_tolerance_seconds),
        flush_bytes=settings.archive_flush_bytes,
        flush_seconds=settings.archive_flush_seconds,
        pseudonyms=pseudonyms_of(settings),
    )
    status = Status()
    async with _engine(settings, "archive") as engine:
        try:
            archive = archive_of(settings, engine)
        except ValueError as error:
            log.error("the archive cannot be used", problem=str(error))  # noqa: TRY400 - the words say it all
            return EX_CONFIG
        if archive is None:
            log.error("there is no archive to write", remedy="set KIZASHI_ARCHIVE_URL, or run without this role")
            return EX_CONFIG
        async with _metrics(settings, _database_and(engine, status)):
            try:
                await run_archive(archive, options, stop, utc_now, status)
            except (Stuck, BrokerError) as error:
                log.error("the archive ends, to be started again", problem=str(error))  # noqa: TRY400 - the words say it all
                return 1
    return 0


async def _evaluator(settings: Settings, stop: asyncio.Event) -> int:
    from alerts.evaluator import Evaluator
    from alerts.rules import RulebookError
    from consumers.run import relax_collector
    from health.yamlfile import FileError

    relax_collector()  # rows, lines and levels of a batch are many objects and no cycles: a fifth of its CPU
    async with _engine(settings, "evaluator") as engine, _metrics(settings, _database(engine)):
        try:
            context = context_source(settings, engine)
        except (RulebookError, FileError) as error:
            log.error("rules or scorecards are refused", problem=str(error))  # noqa: TRY400 - the words say it all
            return EX_CONFIG
        evaluator = Evaluator(
            engine=engine,
            context=context,
            clock=utc_now,
            batch=settings.evaluator_batch,
            coalesce=timedelta(seconds=settings.coalesce_seconds),
            sweep_every=timedelta(seconds=settings.sweep_seconds),
            reevaluate_per_second=settings.reevaluate_per_second,
        )
        async with _people(settings, engine):
            await evaluator.run(stop)
    return 0


@contextlib.asynccontextmanager
async def _people(settings: Settings, engine: AsyncEngine) -> AsyncIterator[None]:
    """Keeps the people of KIZASHI_PEOPLE_FILE stored while the evaluator, who needs them, runs."""
    if settings.people_file is None:
        yield
        return
    from service import people_file
    from service.secrets import Vault

    vault = Vault(settings.secret_key)
    watching = asyncio.create_task(people_file.watch(engine, settings.people_file, vault, utc_now))
    try:
        yield
    finally:
        watching.cancel()


def context_source(settings: Settings, engine: AsyncEngine) -> ContextSource:
    """What evaluations need besides the facts. Raises RulebookError or FileError."""
    from alerts.context import ContextSource
    from alerts.routing import Channels
    from consumers import progress, sources
    from service import audit

    async def note(conn: AsyncConnection, before: str | None, after: str, now: datetime) -> None:
        detail = {"before": before}
        await audit.note(conn, actor="evaluator", action="rules.changed", subject=after, detail=detail, now=now)

    async def through(conn: AsyncConnection) -> datetime | None:
        return (await progress.read(conn, settings.consumer_group, settings.events_topics)).complete_through

    return ContextSource(
        engine,
        settings.rules_dir,
        channels=Channels(
            slack_team=settings.slack_webhook_url is not None,
            email=settings.smtp_host is not None,
            webhook=settings.webhook_url is not None,
            default_recipient=settings.default_recipient,
        ),
        public_url=settings.public_url,
        progress=through,
        cadences=lambda: sources.load(settings.rules_dir / sources.FILE_NAME).cadences,
        on_rules=note,
    )


async def _sender(settings: Settings, stop: asyncio.Event) -> int:
    from alerts import channels
    from alerts.delivery import run_sender
    from service.channel_settings import channel_settings

    try:
        ways_out = channels.build(channel_settings(settings))
    except ValueError as error:
        log.error("a channel is not set up right", problem=str(error))  # noqa: TRY400 - the words say it all
        return EX_CONFIG
    async with _engine(settings, "sender") as engine, _metrics(settings, _database(engine)), _erasing(settings):
        await run_sender(engine, ways_out, stop, utc_now)
    return 0


@contextlib.asynccontextmanager
async def _erasing(settings: Settings) -> AsyncIterator[None]:
    """Works off erasures beside the sender, which has the most time to spare."""
    from service import erasures

    engine = erasures.make_patient_engine(settings, "erasures")
    stop = asyncio.Event()
    watching = asyncio.create_task(erasures.eraser(settings, engine).watch(stop))
    try:
        yield
    finally:
        stop.set()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await engine.dispose()


@contextlib.asynccontextmanager
async def _engine(settings: Settings, role: str) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        timeout_seconds=settings.database_timeout_seconds,
        application_name=f"kizashi-{role}",
    )
    try:
        yield engine
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def _metrics(settings: Settings, ready: Probe) -> AsyncIterator[None]:
    """/metrics, /livez and /readyz of a role without an API."""
    if settings.metrics_port is None:
        yield
        return
    server = await _listen(settings.metrics_host, settings.metrics_port, ready)
    try:
        yield
    finally:
        await server.stop()


async def _listen(host: str, port: int, ready: Probe) -> RoleServer:
    """Tries for a while: a connection going out may hold the port for a moment. Raises CannotListen."""
    attempts = LISTEN_ATTEMPTS
    while True:
        try:
            return await serve_role_metrics(host, port, ready)
        except OSError as error:
            attempts -= 1
            if not attempts:
                raise CannotListen(error) from None
        await asyncio.sleep(LISTEN_PAUSE_SECONDS)


def _database(engine: AsyncEngine) -> Probe:
    async def ready() -> Report:
        async with engine.connect() as conn:
            await conn.execute(text("SELECT 1"))
        return Report(ok=True, checks={"database": "ok"})

    return ready


def _database_and(engine: AsyncEngine, status: Status) -> Probe:
    async def ready() -> Report:
        report = await _database(engine)()
        problems = status.problems()
        return Report(ok=not problems, checks={**report.checks, "events": "; ".join(problems) or "ok"})

    return ready
