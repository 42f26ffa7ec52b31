"""The addresses of the doors: which vendor's, which of its calls, and how it wants to be answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Dialect = Literal["canonical", "vendor", "posthog_v1"]
CANONICAL: Final = "canonical"
PREFIX: Final = "/ingest"
API_PATH: Final = "/api/v1/events"


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """``name`` is the label of metrics and log. ``vendor`` names the module of `consumers.formats`."""

    name: str
    vendor: str
    call: str
    dialect: Dialect
    browsers: bool = True
    """Answers them whatever page they are on (CORS)."""


SEGMENT_CALLS: Final = {
    "batch": "batch", "b": "batch", "import": "import", "track": "track", "t": "track", "identify": "identify",
    "i": "identify", "group": "group", "g": "group", "page": "page", "p": "page", "screen": "screen", "s": "screen",
    "alias": "alias", "a": "alias",
}  # fmt: skip
POSTHOG_CALLS: Final = {
    "batch": "batch", "capture": "capture", "e": "capture", "i/v0/e": "capture", "track": "capture",
    "engage": "capture", "i/v1/analytics/events": "v1",
}  # fmt: skip
AMPLITUDE_CALLS: Final = {"2/httpapi": "httpapi", "2/batch": "batch", "batch": "batch", "httpapi": "httpapi"}


def _vendor(vendor: str, path: str, call: str, dialect: Dialect = "vendor") -> tuple[str, Route]:
    full = f"{PREFIX}/{vendor}/{path}".rstrip("/")
    return full, Route(name=full, vendor=vendor, call=call, dialect=dialect)


def _routes() -> dict[str, Route]:
    pairs = [
        _vendor(vendor, f"v1/{path}", call)
        for vendor in ("segment", "rudderstack")
        for path, call in SEGMENT_CALLS.items()
    ]
    pairs += [
        _vendor("posthog", path, call, "posthog_v1" if call == "v1" else "vendor")
        for path, call in POSTHOG_CALLS.items()
    ]
    pairs += [_vendor("amplitude", path, call) for path, call in AMPLITUDE_CALLS.items()]
    pairs.append(_vendor("cloudevents", "", "events"))
    events = f"{PREFIX}/events"
    canonical = [
        (events, Route(name=events, vendor=CANONICAL, call="events", dialect="canonical")),
        (API_PATH, Route(name=API_PATH, vendor=CANONICAL, call="events", dialect="canonical", browsers=False)),
    ]
    return dict([*canonical, *pairs])


ROUTES: Final = _routes()
"""By path without a slash at its end; with one they answer too."""


def route_of(path: str) -> Route | None:
    found = ROUTES.get(path)
    if found is None and path.endswith("/") and path.startswith(PREFIX):
        return ROUTES.get(path.rstrip("/"))
    return found
