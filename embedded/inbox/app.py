"""The inbox's HTTP side: Slack's and the webhook's doors, the page, and a small JSON API for tests."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from embedded.inbox import page
from embedded.inbox.faults import Fault, Script
from embedded.inbox.slack import FATES, RateLimit, SlackError, check_payload
from embedded.inbox.store import Store

STATIC = Path(__file__).with_name("static")
RETRY_AFTER = {"retry-after": "1"}
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "frame-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
# A mail is foreign HTML: no scripts, no requests; its links open in a new tab.
MAIL_HEADERS = {
    **PAGE_HEADERS,
    "content-security-policy": f"sandbox {page.SANDBOX}; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
}

Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(store: Store, script: Script, rate: RateLimit, webhook_secret: str) -> Starlette:
    return Starlette(
        routes=[
            Route("/", _page(store)),
            Route("/entries", _entries(store)),
            Route("/mail/{number:int}", _mail(store)),
            Route("/slack/{channel}", _slack(store, script, rate), methods=["POST"]),
            Route("/webhook", _webhook(store, script, Webhook(webhook_secret)), methods=["POST"]),
            Route("/api/messages", _messages(store)),
            Route("/api/messages", _clear(store), methods=["DELETE"]),
            Route("/api/faults", _faults(script), methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
    )


def _slack(store: Store, script: Script, rate: RateLimit) -> Endpoint:
    async def receive(request: Request) -> Response:
        channel = request.path_params["channel"]
        body = await request.body()
        fault = script.take("slack", channel)
        if fault is not None and not fault.accept:
            return await fault.response()
        if channel in FATES:
            status, word = FATES[channel]
            return PlainTextResponse(word, status_code=status)
        if not rate.allows(channel):
            return PlainTextResponse("rate_limited", status_code=429, headers=RETRY_AFTER)
        try:
            payload = check_payload(body)
        except SlackError as problem:
            return PlainTextResponse(problem.word, status_code=400)
        store.add("slack", channel, payload)
        return PlainTextResponse("ok") if fault is None else await fault.response()

    return receive


def _webhook(store: Store, script: Script, verifier: Webhook) -> Endpoint:
    async def receive(request: Request) -> Response:
        body = await request.body()
        fault = script.take("webhook", "webhook")
        if fault is not None and not fault.accept:
            return await fault.response()
        try:
            content = verifier.verify(body, dict(request.headers))
        except (WebhookVerificationError, ValueError) as problem:
            return PlainTextResponse(f"bad signature: {problem}", status_code=401)
        store.add("webhook", "webhook", content, message_id=request.headers["webhook-id"])
        return Response(status_code=204) if fault is None else await fault.response()

    return receive


def _page(store: Store) -> Endpoint:
    async def show(request: Request) -> Response:
        door = request.query_params.get("door")
        return HTMLResponse(page.whole(list(store.newest(door)), door), headers=PAGE_HEADERS)

    return show


def _entries(store: Store) -> Endpoint:
    """The entries newer than ``after``, for the page's polling."""

    async def show(request: Request) -> Response:
        after, door = request.query_params.get("after", "0"), request.query_params.get("door")
        found = store.newest(door, after=int(after) if after.isdigit() else 0)
        return HTMLResponse("".join(page.entry(one) for one in found), headers=PAGE_HEADERS)

    return show


def _mail(store: Store) -> Endpoint:
    async def show(request: Request) -> Response:
        found = store.find(request.path_params["number"])
        html = found.content.get("html") if found is not None and found.door == "email" else None
        if html is None:
            return PlainTextResponse("no such mail", status_code=404)
        opened_outside = html.replace("<head>", '<head><base target="_blank">', 1)
        return HTMLResponse(opened_outside, headers=MAIL_HEADERS)

    return show


def _messages(store: Store) -> Endpoint:
    async def show(request: Request) -> Response:
        return JSONResponse([asdict(one) for one in store.newest(request.query_params.get("door"))])

    return show


def _clear(store: Store) -> Endpoint:
    async def clear(request: Request) -> Response:  # noqa: ARG001 - Starlette's signature
        store.clear()
        return Response(status_code=204)

    return clear


def _faults(script: Script) -> Endpoint:
    """``{"door": "slack", "target": "team", "faults": [{"status": 500}]}``: see ``Fault``."""

    async def add(request: Request) -> Response:
        try:
            wanted = json.loads(await request.body())
            script.add(wanted["door"], wanted["target"], *(Fault(**fault) for fault in wanted["faults"]))
        except (ValueError, KeyError, TypeError) as problem:
            return PlainTextResponse(f"expected door, target, faults: {problem}", status_code=422)
        return Response(status_code=204)

    return add
