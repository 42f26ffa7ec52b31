"""What the doors under `/ingest` count beside the API's metrics. Labels are bounded."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

SOURCES_MOST: Final = 50
OTHERS: Final = "other"

THROTTLED: Final = Counter(
    "kizashi_ingest_throttled_total", "Requests put off with 429 or 503: key, address, overload", ["why"]
)
IN_FLIGHT: Final = Gauge("kizashi_ingest_requests_in_flight", "Requests with events being answered")
HELD: Final = Gauge("kizashi_ingest_bytes_in_flight", "Bytes of bodies, as sent and inflated, held by them")
SKEW: Final = Histogram(
    "kizashi_ingest_skew_seconds",
    "Our clock at arrival less the sender's at sending, where the format says that; never corrected",
    ["source"],
    buckets=(-3600, -300, -60, -10, -1, 0, 1, 10, 60, 300, 3600),
)

_sources: set[str] = set()


def source_label(source: str) -> str:
    """The source's name for the first of them, then one word for all others: a key can make up as many as it likes."""
    if source not in _sources:
        if len(_sources) >= SOURCES_MOST:
            return OTHERS
        _sources.add(source)
    return source
