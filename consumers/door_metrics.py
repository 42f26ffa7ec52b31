"""What the doors count: HTTP, relay, uploads, webhooks. Labels are bounded: doors, kinds, reasons."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge

EVENTS_ACCEPTED: Final = Counter(
    "kizashi_events_accepted_total", "Events taken at a door and acknowledged by the broker, by kind", ["kind"]
)
EVENTS_REFUSED: Final = Counter(
    "kizashi_events_refused_total", "Events refused, by door and reason", ["door", "reason"]
)
EVENTS_UNACKNOWLEDGED: Final = Counter(
    "kizashi_events_unacknowledged_total", "Events given to the broker that it did not acknowledge in time"
)
EVENTS_IGNORED: Final = Counter(
    "kizashi_events_ignored_total", "Items of foreign formats that carry nothing that is kept", ["door", "reason"]
)
WAITING: Final = Gauge("kizashi_waiting_events", "Events that wait until their user's account is known")
PARKED: Final = Counter("kizashi_waiting_events_parked_total", "Events that began to wait for their user's account")
RELEASED: Final = Counter("kizashi_waiting_events_released_total", "Waiting events whose account became known")
EXPIRED: Final = Counter("kizashi_waiting_events_expired_total", "Waiting events that became dead letters by age")
