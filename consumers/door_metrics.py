"""What the doors count: HTTP, relay, uploads, webhooks. Labels are bounded: doors, kinds, reasons."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter

EVENTS_ACCEPTED: Final = Counter(
    "kizashi_events_accepted_total", "Events taken at a door and acknowledged by the broker, by kind", ["kind"]
)
EVENTS_REFUSED: Final = Counter(
    "kizashi_events_refused_total", "Events refused, by door and reason", ["door", "reason"]
)
EVENTS_UNACKNOWLEDGED: Final = Counter(
    "kizashi_events_unacknowledged_total", "Events given to the broker that it did not acknowledge in time"
)
