"""Schemathesis against the app in process: whatever it sends, answers are documented and none is our fault."""

from __future__ import annotations

import asyncio
import socket
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.tables import dead_letters
from health.tables import people
from service import auth
from service.app import create_app
from service.db import make_engine
from service.deps import Deps
from service.openapi import document
from service.settings import Settings
from tests.api import NOW, FakeProducer, add_accounts, add_alert

EXAMPLES = 15
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


class Served:
    """The app behind a real HTTP server in a thread of this process."""

    def __init__(self, database_url: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.key = ""
        self._server: uvicorn.Server | None = None
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(database_url, ready)))
        self._thread.start()
        assert ready.wait(30)

    async def _serve(self, database_url: str, ready: threading.Event) -> None:
        engine = make_engine(database_url)
        self.key = await _fill(engine)
        settings = Settings.model_validate({"secret_key": "a long random string for tests"})
        deps = Deps(settings=settings, clock=lambda: NOW, engine=engine, producer=FakeProducer())
        config = uvicorn.Config(create_app(deps), log_config=None, access_log=False, ws="none")
        self._server = uvicorn.Server(config)
        asyncio.get_running_loop().call_later(0.1, ready.set)
        await self._server.serve(sockets=[self._listener])

    def close(self) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(30)


async def _fill(engine: AsyncEngine) -> str:
    async with engine.begin() as conn:
        key, _ = await auth.create(conn, name="tests", scopes=auth.SCOPES, expires_at=None, now=NOW)
        await conn.execute(insert(people).values(person_id="aiko", name="Aiko", updated_at=NOW))
        await conn.execute(
            insert(dead_letters).values(
                topic="t", partition=0, record_offset=0, value=b"x", errors=[], reason="malformed", created_at=NOW
            )
        )
    await add_accounts(engine, *({"account_id": str(number), "score": 1.0} for number in range(5)))
    await add_alert(engine, "1")
    return key


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    server = request.getfixturevalue("postgres_server")
    template = request.getfixturevalue("template_database")
    name = f"kizashi_contract_{uuid.uuid4().hex}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    made = Served(server.database_url(name))
    yield made
    made.close()
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _schema() -> Any:
    found = document()
    # What is sent to a peer or waits for one is another test's matter.
    found["paths"] = {path: methods for path, methods in found["paths"].items() if path != "/metrics"}
    return found


@schemathesis.serializer("application/x-ndjson")
def _lines(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


schema = schemathesis.openapi.from_dict(_schema())
# Its list of boundary cases holds hundreds for the union of events alone: drawn examples find the same, in seconds.
schema.config.phases.coverage.enabled = False


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
def test_answers_are_as_documented(case: schemathesis.Case[Any], served: Served) -> None:
    response = case.call(base_url=served.url, headers={"Authorization": f"Bearer {served.key}"})
    case.validate_response(response, checks=CHECKS)
