"""The API's own metrics, and `/metrics` for the whole service: the families of all roles, told apart by a `role` label.

The other roles serve theirs on a small server of their own (`service/role_server.py`); the API asks when it is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import httpx2
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from consumers.door_metrics import EVENTS_ACCEPTED, EVENTS_REFUSED, EVENTS_UNACKNOWLEDGED
from service.role_server import Probe, Report, RoleServer, serve_role_metrics

__all__ = [
    "CONTENT_TYPE_LATEST",
    "DATA_HELD",
    "DEAD_LETTER_ACTIONS",
    "EVENTS_ACCEPTED",
    "EVENTS_REFUSED",
    "EVENTS_UNACKNOWLEDGED",
    "HTTP_IN_PROGRESS",
    "HTTP_REQUESTS",
    "HTTP_SECONDS",
    "OPEN_DEAD_LETTERS",
    "WEBHOOK_PARTS",
    "Probe",
    "Report",
    "RoleServer",
    "exposition",
    "merged",
    "serve_role_metrics",
]

PEER_SECONDS = 1.0
PEER_MAX_BYTES = 8 * 1024 * 1024
OWN_ROLE = "api"

HTTP_REQUESTS = Counter(
    "kizashi_http_requests_total",
    "Requests answered, by route template, method and status (0: the client left before the answer)",
    ["route", "method", "status"],
)
HTTP_SECONDS = Histogram(
    "kizashi_http_request_seconds",
    "Time from a request's head to the end of its answer",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
HTTP_IN_PROGRESS = Gauge("kizashi_http_requests_in_progress", "Requests being answered")
WEBHOOK_PARTS = Counter(
    "kizashi_webhook_parts_total",
    "Parts of calls of other tools, by webhook and outcome: accepted, ignored, kept (a dead letter), refused, put_off",
    ["webhook", "outcome"],
)
DATA_HELD = Gauge("kizashi_data_held", "1 while absence alerts wait because data is incomplete")
DEAD_LETTER_ACTIONS = Counter(
    "kizashi_dead_letter_actions_total", "Dead letters that people retried or discarded", ["action", "outcome"]
)
OPEN_DEAD_LETTERS = Gauge("kizashi_dead_letters_open", "Dead letters that wait for somebody, by reason", ["reason"])
ROLE_UP = "kizashi_role_up"


async def exposition(peers: Mapping[str, str], registry: CollectorRegistry = REGISTRY) -> bytes:
    """All roles' metrics in Prometheus' text format. A role that does not answer is there as `kizashi_role_up` 0."""
    texts = await _fetch(peers)
    return merged(registry, texts)


def merged(registry: CollectorRegistry, texts: Mapping[str, str | None]) -> bytes:
    """`texts`: what each other role said, None for no answer. Each family is described once, whoever has it."""
    families: dict[str, Metric] = {}
    _add(families, OWN_ROLE, text_string_to_metric_families(generate_latest(registry).decode()))
    up = Metric(ROLE_UP, "Whether a role answered the API's question for its metrics", "gauge")
    up.samples.append(Sample(ROLE_UP, {"role": OWN_ROLE}, 1.0))
    for role, text in texts.items():
        try:
            theirs = None if text is None else list(text_string_to_metric_families(text))
        except ValueError:
            theirs = None
        up.samples.append(Sample(ROLE_UP, {"role": role}, 0.0 if theirs is None else 1.0))
        _add(families, role, theirs or ())
    families[ROLE_UP] = up
    return generate_latest(_Families(families.values()))


class _Families(CollectorRegistry):
    """A registry of finished families, for the library's own writer."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self.register(_Fixed(list(families)))


class _Fixed(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _add(families: dict[str, Metric], role: str, theirs: Iterable[Metric]) -> None:
    for theirs_one in theirs:
        family = families.get(theirs_one.name)
        if family is None:
            family = families[theirs_one.name] = Metric(theirs_one.name, theirs_one.documentation, theirs_one.type)
        family.samples.extend(
            Sample(sample.name, {**sample.labels, "role": role}, sample.value) for sample in theirs_one.samples
        )


async def _fetch(peers: Mapping[str, str]) -> dict[str, str | None]:
    if not peers:
        return {}
    async with httpx2.AsyncClient(trust_env=False, timeout=PEER_SECONDS) as client:
        answers = await asyncio.gather(*(_ask(client, url) for url in peers.values()))
    return dict(zip(peers, answers, strict=True))


async def _ask(client: httpx2.AsyncClient, url: str) -> str | None:
    try:
        # The client's own time-out is per read: a drip would outlast it.
        async with asyncio.timeout(PEER_SECONDS), client.stream("GET", url) as answer:
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > PEER_MAX_BYTES:
                    return None
            return body.decode() if answer.status_code == 200 else None
    except (httpx2.HTTPError, TimeoutError, OSError, UnicodeDecodeError):
        return None
