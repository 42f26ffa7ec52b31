"""People from a YAML file (KIZASHI_PEOPLE_FILE): checked as the API checks them, stored whenever the file changes.

    people:
      mina: {name: Mina Sato, email: mina@example.com, language: ja, timezone: Asia/Tokyo, stand_in: tom}
      tom: {name: Tom Baker, email: tom@example.com, slack_webhook: "env:TOM_SLACK_WEBHOOK"}

People who are in the table but not in the file are left alone: they may come from the API.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
import yaml
from pydantic import SecretStr, ValidationError
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from health.tables import people
from service.api.people import PersonBody
from service.clock import Clock
from service.secrets import SecretsError, Vault

POLL_SECONDS = 5.0
ENV = "env:"

log = structlog.get_logger("kizashi.people")


class PeopleFileError(Exception):
    """The file cannot be used; the message lists every person and field that is wrong, never a secret."""


def parse(text: str, environment: Mapping[str, str]) -> dict[str, PersonBody]:
    """The people of a file by id. ``slack_webhook: env:NAME`` is taken from the environment. Raises PeopleFileError."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PeopleFileError(f"not YAML: {error}") from None
    entries = document.get("people") if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        raise PeopleFileError("the file has no mapping `people:` from person id to person")
    found: dict[str, PersonBody] = {}
    problems: list[str] = []
    for person_id, entry in entries.items():
        try:
            found[str(person_id)] = PersonBody.model_validate(_with_environment(entry, environment), strict=False)
        except ValidationError as error:
            places = [(".".join(str(part) for part in e["loc"]), e["msg"]) for e in error.errors(include_input=False)]
            problems += [f"people.{person_id}.{place}: {message}" for place, message in places]
        except KeyError as error:
            problems.append(f"people.{person_id}.slack_webhook: environment variable {error} is not set")
    for person_id, person in found.items():
        if person.stand_in is not None and person.stand_in not in entries:
            problems.append(f"people.{person_id}.stand_in: there is no person {person.stand_in!r} in this file")
    if problems:
        raise PeopleFileError("\n".join(problems))
    return found


def _with_environment(entry: Any, environment: Mapping[str, str]) -> Any:
    webhook = entry.get("slack_webhook") if isinstance(entry, dict) else None
    if isinstance(webhook, str) and webhook.startswith(ENV):
        return {**entry, "slack_webhook": environment[webhook.removeprefix(ENV)]}
    return entry


async def store(engine: AsyncEngine, found: Mapping[str, PersonBody], vault: Vault, now: datetime) -> None:
    async with engine.begin() as conn:
        for person_id, person in sorted(found.items()):
            values: dict[str, Any] = {name: getattr(person, name) for name in PersonBody.model_fields}
            webhook: SecretStr | None = values["slack_webhook"]
            values["slack_webhook"] = None if webhook is None else vault.seal(webhook.get_secret_value())
            values["updated_at"] = now
            statement = insert(people).values(person_id=person_id, **values)
            await conn.execute(statement.on_conflict_do_update(index_elements=["person_id"], set_=values))


async def load(engine: AsyncEngine, path: Path, vault: Vault, now: datetime) -> int:
    """Reads the file and stores its people; returns how many. Raises PeopleFileError, OSError or SecretsError."""
    found = parse(await asyncio.to_thread(path.read_text, encoding="utf-8"), os.environ)
    await store(engine, found, vault, now)
    return len(found)


async def watch(engine: AsyncEngine, path: Path, vault: Vault, clock: Clock) -> None:
    """Stores the people again whenever the file changes, until cancelled; a bad file leaves those already stored."""
    seen: tuple[int, int] | None = None
    mark: tuple[int, int] | None = None
    while True:
        try:
            stat = await asyncio.to_thread(path.stat)
            mark = (stat.st_mtime_ns, stat.st_size)
            if mark != seen:
                count = await load(engine, path, vault, clock())
                log.info("people loaded", file=path.name, people=count)
                seen = mark
        except (PeopleFileError, SecretsError) as error:
            # The message says it all; a traceback would not help who wrote the file.
            log.error("people file is refused; those stored stay", file=path.name, problem=str(error))  # noqa: TRY400
            seen = mark
        except (OSError, DBAPIError, TimeoutError) as error:
            log.warning("people file cannot be loaded now", file=path.name, problem=type(error).__name__)
        await asyncio.sleep(POLL_SECONDS)
