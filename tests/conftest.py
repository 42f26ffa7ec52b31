"""Fixtures shared by all tests: a real PostgreSQL, a database per test, the embedded broker and a real Apache Kafka.

Environment: `KIZASHI_TEST_DATABASE_URL` (SQLAlchemy URL of a database whose role may create others) uses that server
instead of the embedded one; `CI=true` turns "no Apache Kafka here" from a skip into a failure.
"""

import asyncio
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import asyncpg
import hypothesis
import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.broker import EmbeddedBroker
from embedded.kafka import EmbeddedKafka, available, fetch
from embedded.postgres import EmbeddedPostgres
from embedded.process import EmbeddedError
from service.db import make_engine, migrate

# A crash of the machine loses a test database; nobody minds, and each test is about 40 ms faster.
FAST_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
TOPIC_PARTITIONS = 4

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


class AnyBroker(Protocol):
    """What the embedded broker and Apache Kafka have in common."""

    @property
    def bootstrap(self) -> str: ...
    def create_topic(self, name: str, partitions: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    """A server to make databases on; `url` is of one that already exists."""

    url: str

    def database_url(self, name: str) -> str:
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def execute(self, statement: str) -> None:
        """One statement outside a transaction."""

        async def run() -> None:
            dsn = make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)
            connection = await asyncpg.connect(dsn, timeout=10, command_timeout=60)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        in_thread(lambda: asyncio.run(run()))


def in_thread(action: Callable[[], None]) -> None:
    """Runs what brings its own event loop, out of reach of the one of pytest-asyncio."""
    problems: list[BaseException] = []

    def guarded() -> None:
        try:
            action()
        except BaseException as problem:  # noqa: BLE001 - raised again below
            problems.append(problem)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One server per test process (so per xdist worker); the database it names is empty."""
    if url := os.environ.get("KIZASHI_TEST_DATABASE_URL"):
        yield PostgresServer(url=url)
        return
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), settings=FAST_SETTINGS) as server:
        yield PostgresServer(url=server.dsn("postgres"))


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer) -> Iterator[str]:
    """Name of a database with all migrations applied, to be cloned; never connect to it."""
    name = f"kizashi_template_{uuid.uuid4().hex}"
    postgres_server.execute(f"CREATE DATABASE {name}")
    in_thread(lambda: migrate(postgres_server.database_url(name)))
    yield name
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """SQLAlchemy URL of a database without a schema."""
    name = f"kizashi_test_{uuid.uuid4().hex}"
    postgres_server.execute(f"CREATE DATABASE {name}")
    yield postgres_server.database_url(name)
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """SQLAlchemy URL (asyncpg) of a database of its own for this test, migrated, empty of rows."""
    name = f"kizashi_test_{uuid.uuid4().hex}"
    postgres_server.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    yield postgres_server.database_url(name)
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def engine(database: str) -> AsyncIterator[AsyncEngine]:
    """The engine the service itself would make, on this test's database."""
    made = make_engine(database, application_name="kizashi-tests")
    yield made
    await made.dispose()


@pytest.fixture(scope="session")
def broker() -> Iterator[EmbeddedBroker]:
    """The embedded broker, shared by the session: use a topic and a group of your own."""
    with EmbeddedBroker() as server:
        yield server


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A real Apache Kafka, shared by the session. Mark what uses it with `@pytest.mark.kafka`."""
    usable, reason = available()
    if usable:
        try:
            fetch()
        except EmbeddedError as error:
            usable, reason = False, str(error)
    if not usable:
        message = f"no Apache Kafka: {reason}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(params=["embedded", pytest.param("apache", marks=pytest.mark.kafka)])
def any_broker(request: pytest.FixtureRequest) -> AnyBroker:
    """The test runs twice: on the embedded broker and on Apache Kafka."""
    server: AnyBroker = request.getfixturevalue("broker" if request.param == "embedded" else "kafka")
    return server


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """Name of a new topic with 4 partitions on the broker that the test asks for (default: the embedded one)."""
    wanted = next((name for name in ("any_broker", "kafka") if name in request.fixturenames), "broker")
    server: AnyBroker = request.getfixturevalue(wanted)
    name = f"test.{uuid.uuid4().hex}"
    server.create_topic(name, TOPIC_PARTITIONS)
    return name


@pytest.fixture
def root() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent
