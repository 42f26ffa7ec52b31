"""The doors for events: key, limits, body, translation, intake, answer. Plain ASGI, in front of the API's own stack,
whose routing, dependencies and per-request log would cost several times what taking an event does.

In this order: is there room; who is it (when the head says so); may the key send more; the body; who is it (when only
the body says so); what does it say; the broker. Only then is anything answered with success.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NoReturn

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from consumers.broker import BrokerError
from consumers.events import BadEvent, bad
from consumers.formats import cloudevents
from consumers.formats.canonical import Limits
from consumers.formats.items import Item
from consumers.formats.vendors import TRANSLATE
from service import metrics
from service.auth import Key
from service.deps import Deps
from service.errors import MEDIA_TYPE, Problem, as_problem, document, unavailable
from service.ingest import answers, bodies, canonical, credentials, posthog, strict
from service.ingest import metrics as own_metrics
from service.ingest.limits import Buckets, Load
from service.ingest.routes import CANONICAL, Route, route_of

log = structlog.get_logger("kizashi.ingest")

RawHeaders = Sequence[tuple[bytes, bytes]]

REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
JSON_TYPE: Final = b"application/json"
PREFLIGHT_SECONDS: Final = "86400"
_TOKENS: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,1000}")
_WANTED: Final = frozenset(
    {
        b"authorization", b"content-type", b"content-encoding", b"content-length", b"x-request-id", b"origin",
        b"access-control-request-headers",
    }
)  # fmt: skip
_SAFE: Final[RawHeaders] = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
_IN_HEAD: Final = "send `Authorization: Bearer kz_…`"
_WHERE: Final[Mapping[str, str]] = {
    "segment": "give a key `kz_…` with the scope `ingest` as the write key",
    "rudderstack": "give a key `kz_…` with the scope `ingest` as the write key",
    "posthog": "give a key `kz_…` with the scope `ingest` as the project's API key",
    "amplitude": "give a key `kz_…` with the scope `ingest` as the API key",
}
KNOWN_KEYS: Final = 1024


class Exchange:
    """One request on its way: what its head says, what it holds, who it turned out to be."""

    __slots__ = ("head", "held", "key", "receive", "request_id", "route", "scope")

    def __init__(self, route: Route, scope: Scope, receive: Receive, load: Load) -> None:
        self.route = route
        self.scope = scope
        self.receive = receive
        self.head = {name: value for name, value in scope["headers"] if name in _WANTED}
        given = self.head.get(b"x-request-id", b"")
        self.request_id = given if given and REQUEST_ID.fullmatch(given) else secrets.token_hex(12).encode()
        self.held = bodies.Held(load)
        self.key: Key | None = None

    @property
    def address(self) -> str:
        client = self.scope.get("client")
        return client[0] if client else ""


class Door:
    """ASGI middleware that answers its own addresses and leaves all others to `app`."""

    def __init__(self, app: ASGIApp, *, deps: Deps, monotonic: Callable[[], float] = time.monotonic) -> None:
        settings = deps.settings
        self.app = app
        self._deps = deps
        self._limits = Limits(
            event_max_bytes=settings.event_max_bytes,
            batch_max_events=settings.batch_max_events,
            future_tolerance=timedelta(seconds=settings.future_tolerance_seconds),
        )
        self._most = settings.body_max_bytes
        self.load = Load(requests=settings.ingest_max_requests, bytes_=settings.ingest_max_bytes)
        self._keys = Buckets(settings.ingest_events_per_second, settings.ingest_burst_events, monotonic=monotonic)
        failures = settings.ingest_bad_keys_per_minute
        self._strangers = Buckets(failures / 60, failures, monotonic=monotonic)
        self._known: dict[str, None] = {}
        self._counters: dict[tuple[str, str, int], Any] = {}
        self._timers: dict[str, Any] = {}
        own_metrics.IN_FLIGHT.set_function(lambda: self.load.requests)
        own_metrics.HELD.set_function(lambda: self.load.bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            route = route_of(path)
            if route is not None:
                await self._serve(route, scope, receive, send)
                return
            if asked := posthog.asked(path):
                await _harmless(asked, scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _serve(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        exchange = Exchange(route, scope, receive, self.load)
        method, status = scope["method"], 0
        try:
            if method == "POST":
                status, body, headers = await self._post(exchange)
            elif method == "OPTIONS" and route.browsers:
                status, body, headers = 204, b"", _preflight(exchange)
            else:
                _refuse_method(route)
            await _send(exchange, send, status, body, headers)
        except bodies.ClientGoneError:
            pass
        except Exception as error:  # noqa: BLE001 - the edge: each becomes an answer, and a line in the log
            problem = _in_dialect(as_problem(error), route)
            status = problem.status_code
            _note(exchange, problem, error)
            text = document(problem, path=scope["path"], request_id=exchange.request_id.decode())
            await _send(exchange, send, status, text, {"Content-Type": MEDIA_TYPE, **(problem.headers or {})})
        finally:
            self._count(route, method, status, time.perf_counter() - started)

    async def _post(self, exchange: Exchange) -> answers.Answer:
        load = self.load
        if not load.enter():
            own_metrics.THROTTLED.labels("overload").inc()
            raise bodies.overloaded()
        try:
            return await self._take(exchange)
        except Problem as problem:
            if problem.status_code == 503 and problem.kind == "overloaded":
                own_metrics.THROTTLED.labels("overload").inc()
            raise
        finally:
            load.leave(exchange.held.bytes)

    async def _take(self, exchange: Exchange) -> answers.Answer:
        authorization = exchange.head.get(b"authorization")
        presented = credentials.in_header(authorization) if authorization else None
        if presented is None and exchange.route.vendor in {CANONICAL, "cloudevents"}:
            self._refuse(exchange)  # their bodies hold no key: there is nothing to read
        if presented is not None:
            exchange.key = await self._verify(exchange, presented)
        raw = await bodies.receive_all(
            exchange.receive, exchange.head.get(b"content-length"), most=self._most, held=exchange.held
        )
        now = self._deps.clock()
        try:
            items, source = await self._items(exchange, self._decoded(exchange, raw), now)
        except BadEvent as error:
            metrics.EVENTS_REFUSED.labels("http", error.reason).inc()
            raise _unreadable(error, exchange.route) from None
        if not items:
            fault = bad("body", "holds no event", "send at least one", "malformed")
            raise _unreadable(fault, exchange.route)
        self._keys.take(source, len(items))
        try:
            taken = await self._deps.shielded(self._deps.intake.take(items, source=source, now=now))
        except BrokerError as error:
            raise unavailable(str(error)) from error
        return answers.answer(exchange.route, taken)

    def _decoded(self, exchange: Exchange, raw: bytes) -> bytes:
        label = exchange.head.get(b"content-encoding", b"").decode("latin-1").strip().lower()
        body = bodies.inflate(raw, label, most=self._most, held=exchange.held)
        if exchange.route.vendor == CANONICAL:
            return body
        unwrapped = bodies.unwrap(body)
        if unwrapped is body:
            return body
        return bodies.inflate(unwrapped, "", most=self._most, held=exchange.held)

    async def _items(self, exchange: Exchange, body: bytes, now: datetime) -> tuple[Sequence[Item], str]:
        """(what the body holds, the name of its source). Raises BadEvent when nothing can be read."""
        route = exchange.route
        if route.vendor == CANONICAL:
            assert exchange.key is not None
            return canonical.items(body, now=now, limits=self._limits), exchange.key.name
        found: Any = _binary_cloudevent(exchange, body) if route.vendor == "cloudevents" else None
        if found is None:
            found = strict.read(body.removeprefix(b"\xef\xbb\xbf"))
        if exchange.key is None:
            presented = credentials.in_document(found)
            if presented is None:
                self._refuse(exchange)
            exchange.key = await self._verify(exchange, presented)
        assert exchange.key is not None
        source = self._deps.sources.of(exchange.key.name)
        translation = TRANSLATE[route.vendor](found, call=route.call, source=source, now=now, limits=self._limits)
        if translation.sent_at is not None:
            skew = (now - translation.sent_at).total_seconds()
            own_metrics.SKEW.labels(own_metrics.source_label(source.name)).observe(skew)
        return translation.items, source.name

    async def _verify(self, exchange: Exchange, presented: str) -> Key:
        """The live key with the scope and with something left to send. Raises Problem."""
        address = exchange.address
        if presented not in self._known and (seconds := self._strangers.wait(address)):
            own_metrics.THROTTLED.labels("address").inc()
            raise _slow_down("too many requests with keys that are none, from this address", seconds)
        key = await self._deps.keys.verify(presented)
        if key is None:
            self._known.pop(presented, None)
            self._refuse(exchange)
        if presented not in self._known:
            if len(self._known) >= KNOWN_KEYS:
                self._known.clear()
            self._known[presented] = None
        if "ingest" not in key.scopes:
            raise Problem(403, "forbidden", "this key lacks the scope `ingest`: use one that has it")
        if seconds := self._keys.wait(key.name):
            own_metrics.THROTTLED.labels("key").inc()
            raise _slow_down("this key has sent more events than it may", seconds)
        return key

    def _refuse(self, exchange: Exchange) -> NoReturn:
        """401, counted against the address."""
        self._strangers.take(exchange.address, 1)
        raise Problem(
            401,
            "unauthorized",
            f"no valid key: {_WHERE.get(exchange.route.vendor, _IN_HEAD)}",
            headers={"WWW-Authenticate": 'Bearer realm="kizashi"'},
        )

    def _count(self, route: Route, method: str, status: int, seconds: float) -> None:
        known = (route.name, method if method in {"POST", "OPTIONS"} else "OTHER", status)
        counter = self._counters.get(known)
        if counter is None:
            counter = self._counters[known] = metrics.HTTP_REQUESTS.labels(*known[:2], str(status))
            self._timers[route.name] = metrics.HTTP_SECONDS.labels(route.name)
        counter.inc()
        self._timers[route.name].observe(seconds)


def _refuse_method(route: Route) -> NoReturn:
    allowed = "POST, OPTIONS" if route.browsers else "POST"
    raise Problem(405, "method-not-allowed", f"use {allowed}", headers={"Allow": allowed})


def _binary_cloudevent(exchange: Exchange, body: bytes) -> dict[str, Any] | None:
    """A CloudEvent whose attributes are in the head; None when there are none."""
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in exchange.scope["headers"]]
    event = cloudevents.assembled(headers, body, prefix="ce-", percent=True)
    if event is not None and body:
        strict.read(body)
    return event


async def _send(exchange: Exchange, send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    made = [(b"content-type", JSON_TYPE)] if "Content-Type" not in headers else []
    made += [*_SAFE, (b"x-request-id", exchange.request_id), (b"content-length", str(len(body)).encode())]
    if headers:
        made += [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    origin = exchange.head.get(b"origin")
    if origin is not None and exchange.route.browsers:
        made += _readable_from(origin)
    await send({"type": "http.response.start", "status": status, "headers": made})
    await send({"type": "http.response.body", "body": body})


def _readable_from(origin: bytes) -> RawHeaders:
    """Any page may send here and read the answer. Browsers' beacons send as they do with cookies, and are refused by a
    plain `*`; the door looks at no cookie, so that nothing can be done in anybody's name."""
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", b"retry-after, x-request-id"),
        (b"vary", b"origin"),
    )


def _preflight(exchange: Exchange) -> answers.Headers:
    wanted = exchange.head.get(b"access-control-request-headers", b"")
    headers = {"Access-Control-Allow-Methods": "POST, OPTIONS", "Access-Control-Max-Age": PREFLIGHT_SECONDS}
    if wanted and _TOKENS.fullmatch(wanted):
        headers["Access-Control-Allow-Headers"] = wanted.decode()
    return headers


async def _harmless(asked: tuple[str, str, bytes], scope: Scope, receive: Receive, send: Send) -> None:
    name, content_type, body = asked
    route = Route(name=name, vendor="posthog", call="", dialect="vendor")
    exchange = Exchange(route, scope, receive, Load(requests=0, bytes_=0))
    headers = {"Content-Type": content_type}
    if scope["method"] == "OPTIONS":
        body, headers = b"", {**headers, **_preflight(exchange), "Access-Control-Allow-Methods": "GET, POST, OPTIONS"}
    metrics.HTTP_REQUESTS.labels(name, scope["method"] if scope["method"] in _METHODS else "OTHER", "200").inc()
    await _send(exchange, send, 200, body, headers)


def _slow_down(why: str, seconds: int) -> Problem:
    remedy = f"send again after {seconds} s"
    return Problem(429, "too-many-requests", f"{why}: {remedy}", headers={"Retry-After": str(seconds)})


def _unreadable(error: BadEvent, route: Route) -> Problem:
    """Of a body that holds nothing to take at all."""
    status = 413 if error.reason == "too_large" else 422 if route.dialect == "canonical" else 400
    return Problem(status, error.reason.replace("_", "-"), str(error), errors=answers.fields_of(error))


def _in_dialect(problem: Problem, route: Route) -> Problem:
    """With what vendors' clients look for: without `missing_field`, or the words on the key, Amplitude's sends a
    refused batch again for ever."""
    if route.dialect == "canonical":
        return problem
    status = problem.status_code
    named = next((part.field for part in problem.errors if part.field), "events")
    problem.extra |= {
        "success": False,
        "error": f"Invalid API key: {problem.text}" if status in {401, 403} else problem.text,
        "missing_field": named if status in {400, 405, 413, 415} else None,
    }
    return problem


def _note(exchange: Exchange, problem: Problem, error: Exception) -> None:
    """Refusals are worth a line; what was taken is counted, not logged."""
    about = {
        "route": exchange.route.name,
        "status": problem.status_code,
        "kind": problem.kind,
        "key": None if exchange.key is None else exchange.key.name,
        "request_id": exchange.request_id.decode(),
    }
    if problem.status_code == 500:
        log.error("events failed", exc_info=error, **about)
    elif problem.status_code >= 500:
        log.warning("events put off", error=f"{type(error).__name__}: {error}"[:500], **about)
    else:
        log.info("events refused", detail=problem.text[:500], **about)
