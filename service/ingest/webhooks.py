"""The door for other tools: `/ingest/webhooks/<name>`, as `webhooks.yaml` describes them. Acting; what a call means is
decided in ``consumers/webhooks``.

The answers are what keeps a tool calling: 2xx for everything that is genuine, also for what cannot be taken, which is
kept as a dead letter; 401 for what is not; 503 when it shall come again. A tool that hears 4xx for a while gives up on
us.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path as FilePath
from typing import Annotated, Any, Final

import msgspec
import structlog
from fastapi import APIRouter, Path, Request
from sqlalchemy.dialects.postgresql import insert
from starlette.responses import Response

from consumers.broker import BrokerError
from consumers.events import BadEvent
from consumers.formats.canonical import Limits
from consumers.tables import dead_letters
from consumers.webhooks.file import WEBHOOKS_FILE, Hook, Webhooks, load
from consumers.webhooks.signatures import Call, refusal
from consumers.webhooks.translate import Part, translate
from health.yamlfile import FileError
from service import metrics
from service.api.common import answer
from service.api.schemas import answers
from service.deps import Deps
from service.errors import RETRY_SECONDS, Problem, not_found, unavailable
from service.ingest import credentials

log = structlog.get_logger("kizashi.webhooks")

TOPIC: Final = "webhook:"
"""With the webhook's name: the `topic` of its dead letters."""
PREFIX: Final = "/ingest/webhooks/"
LOOK_SECONDS: Final = 2.0
WHY: Final[Mapping[str, str]] = {
    "missing": "there is no signature: let the tool sign its calls as webhooks.yaml says",
    "wrong": "the signature does not fit: compare the secret at the tool with ours, and the address it calls",
    "stale": "it was signed at another time: compare the clocks; calls that come again later are signed anew",
}
Name = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+$", description="As in the file")]


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a call's parts. `kept`: could not be taken as it is, and waits among the dead letters."""

    accepted: int = 0
    ignored: int = 0
    kept: int = 0


class Book:
    """The webhooks of the file as it stands; a faulty one is told of in the log and leaves the last good one."""

    def __init__(
        self,
        path: FilePath,
        environment: Mapping[str, str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._environment = os.environ if environment is None else environment
        self._monotonic = monotonic
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._seen: tuple[int, int] | None = (-1, -1)
        self._hooks: Webhooks | None = None

    async def hook(self, name: str) -> Hook:
        """Raises Problem: 404 for an unknown name, 503 while no good file has been read."""
        async with self._looking:  # the calls that come first wait for the first look
            if self._monotonic() - self._looked_at >= LOOK_SECONDS:
                self._looked_at = self._monotonic()
                await asyncio.to_thread(self._look)
        if self._hooks is None:
            raise unavailable(f"{WEBHOOKS_FILE} has faults; our log names them")
        found = self._hooks.get(name)
        if found is None:
            raise not_found("webhook", name)
        return found

    def secrets(self, hook: Hook) -> list[bytes]:
        """Those of its variables that are set. Raises Problem when none is."""
        values = [self._environment.get(name, "").strip() for name in hook.secret_env]
        # A bare prefix, as a template leaves it, would be an empty key that everybody knows.
        found = [value.encode() for value in values if value.removeprefix("whsec_")]
        if not found:
            log.error("a webhook has no secret", webhook=hook.name, variables=list(hook.secret_env))
            raise unavailable("this webhook's secret is not set here")
        return found

    def _look(self) -> None:
        try:
            stat = self._path.stat()
            mark: tuple[int, int] | None = (stat.st_mtime_ns, stat.st_size)
        except OSError:
            mark = None
        if mark == self._seen:
            return
        try:
            self._hooks = load(self._path)
            log.info("webhooks loaded", webhooks=len(self._hooks))
        except FileError as error:
            # Its message names file, line and remedy; a traceback would say nothing more.
            log.error("webhooks file is refused", problems=[str(p) for p in error.problems])  # noqa: TRY400
        self._seen = mark


def router(deps: Deps, environment: Mapping[str, str] | None = None) -> APIRouter:
    """The routes over a book of their own."""
    book = Book(deps.settings.rules_dir / WEBHOOKS_FILE, environment)
    made = APIRouter(tags=["events"])
    limits = Limits(
        event_max_bytes=deps.settings.event_max_bytes,
        future_tolerance=timedelta(seconds=deps.settings.future_tolerance_seconds),
    )

    @made.post(
        PREFIX + "{name}",
        summary="A call of another tool",
        responses=_described(),
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": {"description": "Its own"}}}},
            "security": [],
        },
    )
    async def take_webhook(request: Request, name: Name) -> Response:
        """What Stripe, Zendesk and others call, each with its own signature. 200: every part of the call is durable,
        was not asked for, or is kept as a dead letter."""
        hook = await book.hook(name)
        body = await request.body()
        try:
            await _believe(deps, book, hook, request, body)
        except Problem as problem:
            metrics.WEBHOOK_PARTS.labels(name, "refused" if problem.status_code < 500 else "put_off").inc()
            raise
        parts = translate(hook, body, now=deps.clock(), limits=limits)
        received = await deps.shielded(_keep(deps, hook, parts))
        return answer(received)

    @made.head(PREFIX + "{name}", include_in_schema=False)
    async def find_webhook(name: Name) -> Response:
        """Some tools look whether the address exists before they save it."""
        await book.hook(name)
        return Response(status_code=200)

    return made


def _described() -> dict[int | str, dict[str, Any]]:
    found = answers(Received, "Taken", 404, 408, 413)
    found[401] = {**found[401], "description": "The signature is missing, wrong, or of another time"}
    return found


async def _believe(deps: Deps, book: Book, hook: Hook, request: Request, body: bytes) -> None:
    """Raises Problem for a call that is not the tool's."""
    if hook.signature.scheme == "none":
        await _with_key(deps, request)
        return
    query = request.url.query
    call = Call(
        method=request.method,
        url=hook.url or deps.settings.public_url.rstrip("/") + request.url.path + (f"?{query}" if query else ""),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=body,
        now=deps.clock(),
    )
    why = refusal(hook.signature, book.secrets(hook), call)
    if why is not None:
        log.warning("a webhook call is refused", webhook=hook.name, why=why)
        raise Problem(401, "bad-signature", WHY[why])


async def _with_key(deps: Deps, request: Request) -> None:
    presented = credentials.in_header(request.headers.get("authorization", "").encode("latin-1"))
    key = await deps.keys.verify(presented or request.query_params.get("key", ""))
    if key is None:
        raise Problem(
            401,
            "unauthorized",
            "no valid key: this webhook is unsigned, so send `Authorization: Bearer kz_…`, or `?key=kz_…`",
            headers={"WWW-Authenticate": 'Bearer realm="kizashi"'},
        )
    request.state.key = key
    if "ingest" not in key.scopes:
        raise Problem(403, "forbidden", "this key lacks the scope `ingest`: use one that has it")


async def _keep(deps: Deps, hook: Hook, parts: Sequence[Part]) -> Received:
    """Events to the broker, the rest to the dead letters. Raises Problem 503 unless all of it is durable."""
    good = [part for part in parts if part.item.error is None]
    letters = [(part, part.item.error) for part in parts if part.item.error is not None]
    try:
        taken = await deps.intake.take([part.item for part in good], source=hook.name, now=deps.clock())
    except BrokerError as error:
        metrics.WEBHOOK_PARTS.labels(hook.name, "put_off").inc(len(parts))
        raise unavailable(str(error)) from error
    statuses = Counter(each.status for each in taken)
    if statuses["unacknowledged"]:
        metrics.WEBHOOK_PARTS.labels(hook.name, "put_off").inc(len(parts))
        raise Problem(
            503,
            "broker-away",
            "the broker did not acknowledge in time: send it again as it is",
            headers={"Retry-After": str(RETRY_SECONDS)},
        )
    letters += [(part, each.error) for part, each in zip(good, taken, strict=True) if each.error is not None]
    if letters:
        await _bury(deps, hook, letters)
    received = Received(
        accepted=statuses["accepted"] + statuses["waiting"], ignored=statuses["ignored"], kept=len(letters)
    )
    for outcome, count in (("accepted", received.accepted), ("ignored", received.ignored), ("kept", received.kept)):
        metrics.WEBHOOK_PARTS.labels(hook.name, outcome).inc(count)
    return received


async def _bury(deps: Deps, hook: Hook, letters: Sequence[tuple[Part, BadEvent]]) -> None:
    """As dead letters, one for each part. A part that comes again, byte by byte, has its letter already."""
    now = deps.clock()
    rows = [
        {
            "topic": f"{TOPIC}{hook.name}",
            "partition": 0,
            "record_offset": place_of(part.raw),
            "record_timestamp": now,
            "value": part.raw,
            "headers": [],
            "errors": [
                {"item": 0, "field": p.field, "problem": _storable(p.problem), "remedy": p.remedy}
                for p in error.problems
            ],
            "reason": error.reason,
            "created_at": now,
        }
        for part, error in letters
    ]
    async with deps.writing() as conn:
        await conn.execute(insert(dead_letters).on_conflict_do_nothing(), rows)
    log.warning("a webhook call could not be taken", webhook=hook.name, problem=str(letters[0][1])[:300])


def place_of(raw: bytes) -> int:
    """In the place of an offset: the same for the same bytes, so that a retry adds no second letter."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest()) >> 1


def _storable(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode().replace("\0", "\ufffd")
