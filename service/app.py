"""The one place where the API is put together. Tests call `create_app` with parts of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from consumers.broker import BrokerError
from consumers.events import json_schema
from service import board
from service.api import (
    accounts,
    alerts,
    audit,
    contacts,
    dead_letters,
    deliveries,
    erasures,
    events,
    gaps,
    keys,
    ops,
    partitions,
    people,
    reference,
    rules,
    scores,
    uploads,
)
from service.api.schemas import openapi
from service.deps import Deps
from service.errors import as_problem, respond
from service.ingest import webhooks
from service.ingest.door import Door
from service.middleware import BodyGuard, LastResort, RequestContext, SecurityHeaders
from service.queries import BadCursorError

log = structlog.get_logger("kizashi.api")

API_VERSION = "1"
SUMMARY = "Explained churn-risk alerts from product events"
DESCRIPTION = """\
Every request under `/api/v1` carries `Authorization: Bearer kz_…`; a key has the scopes `ingest`, `read`, `write` or \
several of them.

Errors are RFC 9457 problems (`application/problem+json`): `type` is stable, `errors` names each field with its \
problem and the remedy, `request_id` finds the request in the log. It is also in `X-Request-ID`, which callers may set.

Lists are paged: give `next_cursor` back as `cursor` (on the timeline: `before`) until it is null. Pages are stable: \
rows that arrive meanwhile shift nothing.

Times are RFC 3339 with offset, answered in UTC. Money is in each account's own currency. Alerts are what the rules' \
episodes are called when people read them; both have the same id."""

TAGS = [
    {"name": "events", "description": "Product events in"},
    {"name": "accounts", "description": "Accounts at risk, and all that is known of one"},
    {"name": "scores", "description": "Why a score is what it was, and what another scorecard would make of it"},
    {"name": "alerts", "description": "Alerts, and what people do with them"},
    {"name": "deliveries", "description": "Messages to people"},
    {"name": "dead letters", "description": "What could not be read: looked at, mended, sent again, discarded"},
    {"name": "people", "description": "Owners, managers, stand-ins"},
    {"name": "uploads", "description": "Accounts and people from CSV files, previewed first"},
    {"name": "keys", "description": "API keys"},
    {"name": "privacy", "description": "Erasing and handing out what is held on somebody, and who did what"},
    {"name": "rules and status", "description": "What is running and how far it has come"},
    {"name": "operations", "description": "For orchestrators and Prometheus"},
]

ROUTERS = (
    contacts.router,  # its longer addresses come before those of accounts
    erasures.router,  # before the accounts, whose ids may hold slashes
    scores.router,  # before the accounts, too
    accounts.router,
    alerts.router,
    deliveries.router,
    dead_letters.router,
    partitions.router,
    gaps.router,
    people.router,
    uploads.router,
    keys.router,
    rules.router,
    ops.router,
    audit.router,
    reference.router,
)


class Api(FastAPI):
    """FastAPI with the doors for events in front of it: they pay for nothing of its stack."""

    door: Door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.door(scope, receive, send)


def create_app(deps: Deps) -> FastAPI:
    """The API and the board over `deps`, which the app closes when it ends."""
    app = Api(
        title="Kizashi",
        version=API_VERSION,
        summary=SUMMARY,
        openapi_tags=TAGS,
        openapi_url="/openapi.json",
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        lifespan=_lifespan,
        middleware=[
            Middleware(RequestContext),
            Middleware(SecurityHeaders),
            Middleware(LastResort),
            Middleware(BodyGuard, max_bytes=deps.settings.body_max_bytes),
        ],
        exception_handlers={
            HTTPException: _refuse,
            RequestValidationError: _refuse,
            BadCursorError: _refuse,
        },
    )
    app.state.deps = deps
    app.door = Door(super(Api, app).__call__, deps=deps)
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(webhooks.router(deps))
    app.include_router(board.router(deps))
    app.openapi = _described(app)  # type: ignore[method-assign]
    return app


def _described(app: FastAPI) -> Any:
    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi(app, DESCRIPTION, json_schema(), events.paths())
        return app.openapi_schema

    return described


async def _refuse(request: Request, error: Exception) -> Response:
    return respond(request, as_problem(error))


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    deps: Deps = app.state.deps
    tasks = (asyncio.create_task(_connect(deps)), asyncio.create_task(deps.intake.upkeep(deps.clock)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await deps.close()


async def _connect(deps: Deps) -> None:
    """Before the first event asks for it; an absent broker keeps nobody from reading."""
    try:
        await deps.producer.start()
    except BrokerError as error:
        log.warning("the broker does not answer yet; events are refused until it does", error=str(error))
