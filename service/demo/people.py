"""Who looks after the customers: three who read Japanese, three who read English, and their manager."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

AWAY_FOR: Final = timedelta(days=12)
OWN_CHANNELS: Final = ("aiko", "daniel")
"""Those with a Slack webhook of their own; the others are mentioned in the team's channel."""

PEOPLE: Final[Mapping[str, Mapping[str, Any]]] = {
    "hana": {"name": "Hana Mori", "language": "ja", "timezone": "Asia/Tokyo", "role": "manager"},
    "aiko": {"name": "Aiko Tanaka", "language": "ja", "timezone": "Asia/Tokyo"},
    "ren": {"name": "Ren Kobayashi", "language": "ja", "timezone": "Asia/Tokyo"},
    "mei": {"name": "Mei Fujita", "language": "ja", "timezone": "Asia/Tokyo"},
    "tom": {"name": "Tom Baker", "language": "en", "timezone": "Europe/London"},
    "sofia": {"name": "Sofia Lindqvist", "language": "en", "timezone": "Europe/Berlin", "stand_in": "tom"},
    "daniel": {"name": "Daniel Okafor", "language": "en", "timezone": "America/New_York"},
}


def people_document(now: datetime) -> dict[str, Any]:
    """The people file (KIZASHI_PEOPLE_FILE). Sofia is away from yesterday on; Tom stands in for her."""
    people: dict[str, Any] = {}
    for number, (person_id, known) in enumerate(PEOPLE.items()):
        entry = {**known, "email": f"{person_id}@kizashi.example", "slack_id": f"U0DEMO{number:03d}"}
        if entry.get("role") != "manager":
            entry["manager"] = "hana"
        if person_id in OWN_CHANNELS:
            entry["slack_webhook"] = f"env:{webhook_variable(person_id)}"
        people[person_id] = entry
    people["sofia"]["away_from"] = (now - timedelta(days=1)).isoformat()
    people["sofia"]["away_until"] = (now + AWAY_FOR).isoformat()
    return {"people": people}


def webhook_variable(person_id: str) -> str:
    """The environment variable that holds a person's Slack webhook."""
    return f"KIZASHI_DEMO_SLACK_{person_id.upper()}"
