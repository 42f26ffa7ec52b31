"""The vendors' own libraries, unmodified, given only a host and a key: no error, no second try, every event once."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.broker import EmbeddedBroker
from tests.serving import Road, road

EXPORTS, LOGINS = 25, 4
TRAITS = {"name": "Acme Inc", "plan": "pro", "mrr": 1200}

pytestmark = [
    # Of the libraries themselves.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
async def running(engine: AsyncEngine, broker: EmbeddedBroker, topic: str) -> AsyncIterator[Road]:
    async with road(engine, broker, topic) as made:
        yield made


def posted(running: Road) -> Counter[tuple[str, int]]:
    return Counter((seen.path, seen.status) for seen in running.recorder.seen)


def check(found: dict[str, dict[str, Any]], *, exports: int = EXPORTS + 1, logins: int = LOGINS) -> None:
    """As `story` tells it: the export from before the user's account was known counts too."""
    assert set(found) == {"acct_42"}
    acme = found["acct_42"]
    assert acme["features"]["Report Exported"] == exports
    assert acme["logins"] == logins
    assert {name: acme["attributes"][name] for name in TRAITS} == TRAITS


def segment_story(client: Any, errors: list[Any]) -> None:
    client.on_error = lambda error, items: errors.append((error, items))
    client.track("u1", "Report Exported", {"pages": 3})  # nobody knows yet whose user this is
    client.flush()
    client.identify("u1", {"email": "ann@example.com", "name": "Ann"})
    client.group("u1", "acct_42", TRAITS)
    for _ in range(EXPORTS):
        client.track("u1", "Report Exported", {"pages": 1}, context={"groupId": "acct_42"})
    for _ in range(LOGINS):
        client.track("u1", "Logged In")
    client.page("u1", "docs", "Welcome")
    client.screen("u1", "app", "Home")
    client.alias("anonymous-1", "u1")
    client.flush()
    client.shutdown()


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("vendor", ["segment", "rudderstack"])
async def test_segment_and_rudderstack(running: Road, vendor: str, gzip: bool) -> None:
    errors: list[Any] = []

    def send() -> None:
        library = importlib.import_module(f"{vendor}.analytics.client")
        client = library.Client(
            running.key, host=f"{running.url}/ingest/{vendor}", gzip=gzip, upload_interval=0.2,
            on_error=lambda error, items: errors.append((error, items)),
        )  # fmt: skip
        segment_story(client, errors)

    await asyncio.to_thread(send)
    assert errors == []
    assert {status for _, status in posted(running)} == {200}
    assert set(posted(running)) == {(f"/ingest/{vendor}/v1/batch", 200)}
    assert all("x-retry-count" not in seen.headers for seen in running.recorder.seen)
    # An export that waited, identify, group, the exports, the logins, page and screen; alias carries nothing.
    await running.applied(1 + 1 + 1 + EXPORTS + LOGINS + 2)
    found = await running.facts()
    check(found)
    assert found["acct_42"]["users"]["u1"]["email"] == "ann@example.com"  # type: ignore[index]
    assert len(running.recorder.seen) <= 4


@pytest.mark.parametrize("mode", ["v0", "v1"])
@pytest.mark.parametrize("compression", ["none", "gzip", "deflate", "zstd"])
async def test_posthog(running: Road, mode: str, compression: str) -> None:
    if mode == "v0" and compression in {"deflate", "zstd"}:
        pytest.skip("v0 of the library compresses with gzip alone")
    errors: list[Any] = []

    def send() -> None:
        library = importlib.import_module("posthog")
        options = {"capture_mode": "v1", "capture_compression": compression} if mode == "v1" else {}
        client = library.Posthog(
            running.key, host=f"{running.url}/ingest/posthog", flush_interval=0.2, gzip=compression == "gzip",
            on_error=lambda error, items: errors.append((error, items)), **options,
        )  # fmt: skip
        client.capture("Report Exported", distinct_id="u1", properties={"pages": 3})
        client.flush()
        client.capture(
            "$identify", distinct_id="u1", properties={"$set": {"email": "ann@example.com"}},
            groups={"company": "acct_42"},
        )  # fmt: skip
        client.group_identify("company", "acct_42", TRAITS)
        for _ in range(EXPORTS):
            client.capture("Report Exported", distinct_id="u1", groups={"company": "acct_42"})
        for _ in range(LOGINS):
            client.capture("Logged In", distinct_id="u1", groups={"company": "acct_42"})
        client.flush()
        client.shutdown()

    await asyncio.to_thread(send)
    assert errors == []
    path = "/ingest/posthog/i/v1/analytics/events" if mode == "v1" else "/ingest/posthog/batch/"
    assert set(posted(running)) == {(path, 200)}
    assert {seen.headers.get("posthog-attempt", "1") for seen in running.recorder.seen} == {"1"}
    await running.applied(1 + 1 + 1 + EXPORTS + LOGINS)
    found = await running.facts()
    check(found)
    assert found["acct_42"]["users"]["u1"]["email"] == "ann@example.com"  # type: ignore[index]


@pytest.mark.parametrize("batch", [False, True])
async def test_amplitude(running: Road, batch: bool) -> None:
    codes: list[int] = []

    def send() -> None:
        library = importlib.import_module("amplitude")
        path = "batch" if batch else "2/httpapi"
        config = library.Config(
            server_url=f"{running.url}/ingest/amplitude/{path}", flush_interval_millis=200, use_batch=batch,
            callback=lambda event, code, message: codes.append(code),
        )  # fmt: skip
        client = library.Amplitude(running.key, config)
        options = library.EventOptions(user_id="u1")
        client.track(library.BaseEvent("Report Exported", user_id="u1", event_properties={"pages": 3}))
        for future in client.flush() or []:
            if future is not None:
                future.result()
        client.set_group("company", "acct_42", options)
        who = library.Identify()
        who.set("email", "ann@example.com")
        client.identify(who, options)
        what = library.Identify()
        for name, value in TRAITS.items():
            what.set(name, value)
        client.group_identify("company", "acct_42", what)
        for _ in range(EXPORTS):
            client.track(library.BaseEvent("Report Exported", user_id="u1", groups={"company": "acct_42"}))
        for _ in range(LOGINS):
            client.track(library.BaseEvent("Logged In", user_id="u1", groups={"company": "acct_42"}))
        for future in client.flush() or []:
            if future is not None:
                future.result()
        client.shutdown()

    await asyncio.to_thread(send)
    assert set(codes) == {200}
    assert len(codes) == 1 + 1 + 1 + 1 + EXPORTS + LOGINS
    assert {status for _, status in posted(running)} == {200}
    # An export that waited, who the user is (twice), what the account is, the exports, the logins.
    await running.applied(1 + 2 + 1 + EXPORTS + LOGINS)
    found = await running.facts()
    check(found)
    assert found["acct_42"]["users"]["u1"]["email"] == "ann@example.com"  # type: ignore[index]


@pytest.mark.parametrize("mode", ["binary", "structured", "batch"])
async def test_cloudevents(running: Road, mode: str) -> None:
    http = importlib.import_module("cloudevents.core.bindings.http")
    json_format = importlib.import_module("cloudevents.core.formats.json").JSONFormat()
    event_type = importlib.import_module("cloudevents.core.v1.event").CloudEvent
    events = [
        event_type(
            {
                "id": f"{number}", "source": "/shop/日本", "type": "kizashi.usage", "specversion": "1.0",
                "subject": "acct_42", "datacontenttype": "application/json",
            },
            {"feature": "Report Exported", "user_id": "u1"},
        )
        for number in range(5)
    ]  # fmt: skip
    headers = {"Authorization": f"Bearer {running.key}"}
    async with httpx2.AsyncClient(headers=headers, trust_env=False, timeout=30) as client:
        url = f"{running.url}/ingest/cloudevents"
        if mode == "batch":
            items = [json.loads(http.to_structured(event, json_format).body) for event in events]
            sent = [("application/cloudevents-batch+json", json.dumps(items).encode())]
            answers = [
                await client.post(url, content=body, headers={"content-type": type_}) for type_, body in sent
            ]  # fmt: skip
        else:
            make: Callable[..., Any] = http.to_binary if mode == "binary" else http.to_structured
            messages = [make(event, json_format) for event in events]
            answers = [await client.post(url, content=m.body, headers=dict(m.headers)) for m in messages]
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    await running.applied(5)
    assert (await running.facts())["acct_42"]["features"] == {"Report Exported": 5}


async def test_a_wrong_key_is_told_and_not_tried_for_ever(running: Road) -> None:
    errors: list[Any] = []
    wrong = "kz_" + "0" * 10 + "_" + "x" * 43

    def send() -> None:
        for vendor in ("segment", "rudderstack"):
            library = importlib.import_module(f"{vendor}.analytics.client")
            client = library.Client(
                wrong, host=f"{running.url}/ingest/{vendor}", on_error=lambda error, items: errors.append(error)
            )
            client.track("u1", "Report Exported")
            client.flush()
            client.shutdown()
        posthog = importlib.import_module("posthog")
        client = posthog.Posthog(
            wrong, host=f"{running.url}/ingest/posthog", on_error=lambda error, items: errors.append(error)
        )
        client.capture("Report Exported", distinct_id="u1")
        client.flush()
        client.shutdown()

    await asyncio.to_thread(send)
    assert len(errors) == 3
    assert [seen.status for seen in running.recorder.seen] == [401, 401, 401]
    assert all("kz_…" in str(error) or "key" in str(error) for error in errors)
