"""The environment in which the demo's roles run: real settings, pointing at the demo's own servers. Pure."""

from __future__ import annotations

from pathlib import Path

import msgspec

from consumers.offsets import RESENT
from service.demo.people import OWN_CHANNELS, webhook_variable
from service.demo.servers import PARTITIONS, Broker, Inbox
from service.demo.state import Secrets, State

TEAM_CHANNEL = "customer-success"


def role_environment(
    url: str, broker: Broker, inbox: Inbox, secrets: Secrets, state: State, *, port: int, people_file: Path
) -> dict[str, str]:
    """Variables to add to ours. Holds secrets."""
    values = {
        "DATABASE_URL": url,
        "KAFKA_BOOTSTRAP": broker.bootstrap,
        "EVENTS_TOPICS": msgspec.json.encode([state.topic]).decode(),
        "EVENTS_PARTITIONS": str(PARTITIONS),
        "CONSUMER_GROUP": state.group,
        "PEOPLE_FILE": str(people_file),
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "SLACK_WEBHOOK_URL": inbox.slack_url(TEAM_CHANNEL),
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(inbox.smtp_port),
        "SMTP_TLS": "none",
        "MAIL_FROM": "Kizashi <alerts@kizashi.example>",
        "WEBHOOK_URL": inbox.webhook_url,
        "WEBHOOK_SECRET": inbox.webhook_secret,
        "DEFAULT_RECIPIENT": "hana@kizashi.example",
        "ALLOW_PRIVATE_TARGETS": "true",
        "SECRET_KEY": secrets.secret_key,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "BOARD_OPEN": "true",
        "LOG_FORMAT": "json",
    }
    environment = {f"KIZASHI_{name}": value for name, value in values.items()}
    if broker.incarnation is not None:
        # feeding.catch_up sends what the old log may have held, and what happened since, before the roles look.
        environment["KIZASHI_BROKER_INCARNATION"] = f"{RESENT}{broker.incarnation}"
    for person_id in OWN_CHANNELS:
        environment[webhook_variable(person_id)] = inbox.slack_url(person_id)
    return environment
