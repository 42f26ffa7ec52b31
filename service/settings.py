"""All settings: environment variables ``KIZASHI_*`` (or a ``.env`` file), checked at start; units are in the names."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

PACKAGE_ROOT = Path(__file__).resolve().parent.parent
EX_CONFIG = 78
"""Exit status of a process that cannot run as configured: starting it again would not help."""
SECRET_KEY_LENGTH = 16
DRIVER = "postgresql+asyncpg"
ARCHIVE_SCHEMES = ("file", "s3", "gs", "az")


class Settings(BaseSettings):
    """Every knob with its default. A wrong value stops the start and names the variable."""

    model_config = SettingsConfigDict(env_prefix="KIZASHI_", env_file=".env", extra="ignore")

    # Postgres
    database_url: SecretStr = Field(
        default=SecretStr("postgresql+asyncpg://kizashi@127.0.0.1:5432/kizashi"),
        description="SQLAlchemy URL of the Postgres database (asyncpg driver)",
    )
    database_pool_size: int = Field(default=8, ge=1, description="Connections a role keeps open")
    database_timeout_seconds: float = Field(default=10.0, gt=0, description="Longest a statement or a connect may take")

    # Kafka
    kafka_bootstrap: str = Field(default="127.0.0.1:9092", description="Bootstrap servers, comma separated")
    events_topics: list[str] = Field(
        default=["kizashi.events"],
        min_length=1,
        description="Topics, as a JSON list; HTTP and backfill write to the first. All have as many partitions",
    )
    events_partitions: int = Field(
        default=32, ge=1, description="Partitions when the topic is made by `kizashi migrate`"
    )
    consumer_group: str = Field(default="kizashi", description="Kafka consumer group")
    broker_incarnation: str | None = Field(
        default=None,
        description="Marker of a volatile broker's log; another one means: start anew, saying what was unread",
    )
    accept_timeout_seconds: float = Field(default=5.0, gt=0, description="Longest POST /events waits for the broker")

    # Ingestion limits
    event_max_bytes: int = Field(default=32 * 1024, gt=0, description="Largest single event")
    body_max_bytes: int = Field(default=8 * 1024 * 1024, gt=0, description="Largest request body")
    batch_max_events: int = Field(default=2500, gt=0, description="Most events in a request")
    future_tolerance_seconds: float = Field(default=300.0, ge=0, description="Events further ahead of us are refused")
    dedup_window_days: int = Field(default=14, ge=1, description="Window within which a repeated event is recognised")

    # What cannot be read
    dead_letter_days: int = Field(default=90, ge=1, description="Dead letters are kept so long after they were closed")
    poison_share: float = Field(
        default=0.01, gt=0, le=1, description="A partition above this share of dead letters stops"
    )
    poison_window: int = Field(default=1_000, ge=1_000, description="Records over which that share is judged, at least")
    poison_in_a_row: int = Field(default=100, ge=1, description="So many dead letters in a row stop a partition")

    # The HTTP door
    ingest_events_per_second: float = Field(default=20_000, gt=0, description="Events a key may send, in the long run")
    ingest_burst_events: int = Field(default=100_000, gt=0, description="Events a key may send at once after a pause")
    ingest_bad_keys_per_minute: int = Field(
        default=60, gt=0, description="Requests with no valid key taken from one address, in the long run and at once"
    )
    ingest_max_requests: int = Field(default=500, gt=0, description="Requests with events answered at once")
    ingest_max_bytes: int = Field(
        default=64 * 1024 * 1024, gt=0, description="Bytes of their bodies held at once, as sent and inflated"
    )

    # Users without an account
    waiting_max_events_per_user: int = Field(default=1_000, ge=0, description="Events that wait for a user's account")
    waiting_max_events: int = Field(default=1_000_000, ge=0, description="Events that wait for accounts in all")
    waiting_days: int = Field(default=14, ge=1, description="Events that wait longer become dead letters")

    # Archive
    archive_url: str | None = Field(
        default=None, description="Where accepted events are archived: file:///folder, s3://bucket/folder, gs://, az://"
    )
    archive_flush_seconds: float = Field(default=60.0, gt=0, description="An event is archived after this time at most")
    archive_flush_bytes: int = Field(
        default=32 * 1024 * 1024, gt=0, description="So many bytes of records are archived at once"
    )

    # Evaluation
    coalesce_seconds: float = Field(default=1.0, ge=0, description="An account is evaluated at most once in this time")
    evaluator_batch: int = Field(default=500, ge=1, le=500, description="Accounts locked and evaluated at once")
    sweep_seconds: float = Field(default=60.0, gt=0, description="Pause between sweeps for missed accounts")

    reevaluate_per_second: float = Field(
        default=1000.0,
        gt=0,
        description="Accounts a second, of all evaluators together, when other rules or scorecards have come",
    )

    # Rules, scorecards, routes, people
    rules_dir: Path = Field(default=PACKAGE_ROOT / "rules", description="Directory of rules, scorecards, routes")
    people_file: Path | None = Field(default=None, description="YAML file of people, loaded at start and on change")

    # Delivery
    public_url: str = Field(default="http://127.0.0.1:8000", description="Where readers of an alert reach the board")
    slack_webhook_url: SecretStr | None = Field(default=None, description="The team's Slack incoming webhook")
    smtp_host: str | None = Field(default=None, description="Mail server; none: no e-mail")
    smtp_port: int = Field(default=587)
    smtp_username: str | None = Field(default=None)
    smtp_password: SecretStr | None = Field(default=None)
    smtp_tls: Literal["starttls", "tls", "none"] = Field(default="starttls")
    mail_from: str = Field(default="Kizashi <kizashi@localhost>")
    webhook_url: SecretStr | None = Field(default=None, description="Generic webhook that gets every delivery")
    webhook_secret: SecretStr | None = Field(default=None, description="Standard Webhooks secret (whsec_…)")
    default_recipient: str | None = Field(default=None, description="E-mail address used when an account has no owner")
    allow_private_targets: bool = Field(
        default=False,
        description="Let webhooks go to private and loopback addresses (demo, tests, internal receivers)",
    )
    secret_key: SecretStr | None = Field(
        default=None,
        description="Encrypts personal Slack webhooks in the database (any long random string)",
    )

    # Privacy
    hash_user_ids: bool = Field(
        default=False, description="Keep pseudonyms made with the secret key instead of users' ids"
    )

    # Serving
    host: str = Field(default="127.0.0.1")
    port: int = Field(default=8000)
    metrics_host: str = Field(default="127.0.0.1")
    metrics_port: int | None = Field(default=None, description="Port for /metrics, /livez, /readyz of the other roles")
    metrics_peers: list[str] = Field(
        default=[], description="role=url of sibling roles whose metrics the API also shows"
    )
    log_format: Literal["json", "console"] = Field(default="json")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info")
    board_open: bool = Field(default=False, description="Show the board without signing in (demo)")

    @field_validator("database_url")
    @classmethod
    def _by_our_driver(cls, url: SecretStr) -> SecretStr:
        """Addresses as managed databases hand them out are taken, too."""
        try:
            parsed = make_url(url.get_secret_value())
        except (ArgumentError, ValueError):  # whose words may quote a part of it
            raise ValueError(f"is no database address: write {DRIVER}://user:password@host:5432/database") from None
        if parsed.drivername not in {DRIVER, "postgresql", "postgres"}:
            raise ValueError(f"must begin with {DRIVER}:// (postgresql:// and postgres:// are taken as that)")
        return SecretStr(parsed.set(drivername=DRIVER).render_as_string(hide_password=False))

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value()) < SECRET_KEY_LENGTH:
            raise ValueError(f"is too short: use at least {SECRET_KEY_LENGTH} random characters, or leave it out")
        return key

    @field_validator("hash_user_ids")
    @classmethod
    def _has_a_key(cls, wanted: bool, info: ValidationInfo) -> bool:
        if wanted and info.data.get("secret_key") is None:
            raise ValueError("needs KIZASHI_SECRET_KEY, which makes the pseudonyms: set it, and keep it for good")
        return wanted

    @field_validator("archive_url")
    @classmethod
    def _of_a_known_store(cls, url: str | None) -> str | None:
        if url is not None and urlsplit(url).scheme not in ARCHIVE_SCHEMES:
            schemes = ", ".join(f"{scheme}://" for scheme in ARCHIVE_SCHEMES)
            raise ValueError(f"must begin with one of {schemes}: file:///var/lib/kizashi/archive, s3://bucket/folder")
        return url

    @field_validator("metrics_peers")
    @classmethod
    def _role_and_address(cls, peers: list[str]) -> list[str]:
        parse_peers(peers)
        return peers


def parse_peers(peers: Sequence[str]) -> dict[str, str]:
    """`role=url` each. Raises ValueError naming the entry by its place."""
    found: dict[str, str] = {}
    for place, peer in enumerate(peers, start=1):
        role, _, address = peer.partition("=")
        try:
            url = urlsplit(address)
        except ValueError:
            url = urlsplit("")
        # Without a path it would be asked for "/", where no role has its metrics.
        usable = url.scheme in {"http", "https"} and url.hostname and url.path.strip("/")
        if not role.isidentifier() or role == "api" or not usable:
            raise ValueError(f"entry {place} is not role=http://host:port/metrics, of another role than api")
        found[role] = address
    return found


def load() -> Settings:
    """The settings of this process. Ends it with a readable list when one is wrong; values are never shown."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"KIZASHI_{str(e['loc'][0]).upper()}: {_words(e['msg'])}" for e in error.errors()]
    except SettingsError as error:
        named = re.search(r'field "(\w+)"', str(error))
        # Of the lists, which must be JSON, the library gives up at the first one.
        lines = [f'KIZASHI_{named[1].upper() if named else "*"}: is not a JSON list, like ["one", "two"]']
    sys.stderr.write("Settings are wrong:\n" + "".join(f"  {line}\n" for line in lines))
    raise SystemExit(EX_CONFIG)


def _words(message: str) -> str:
    return message.removeprefix("Value error, ")
