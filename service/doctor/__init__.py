"""``kizashi doctor``: looks at everything the service needs. Changes nothing, sends nothing, shows no secret."""

from __future__ import annotations

from collections.abc import Mapping

from consumers.broker.survey import Survey
from service.clock import Clock
from service.doctor import database, outside
from service.doctor.finding import Finding
from service.settings import Settings

__all__ = ["Finding", "examine"]


async def examine(settings: Settings, clock: Clock) -> list[Finding]:
    """Every finding, in the order of the road. A part that cannot be reached hides only what depends on it."""
    reached, survey = await outside.broker(settings)
    broker = [reached, *(outside.topics(settings, survey) if survey is not None else [])]
    return [
        *await _database(settings, survey, clock),
        *broker,
        *outside.files(settings),
        *await outside.channels(settings),
        await outside.port(settings),
    ]


async def _database(settings: Settings, survey: Survey | None, clock: Clock) -> list[Finding]:
    found: list[Finding] = []
    try:
        async with database.connected(settings) as conn:
            found += await database.server(conn, clock)
            migrated = await database.migrations(conn)
            found.append(migrated)
            if migrated.state == "ok":
                found += await database.consumers(conn, settings, _ends(survey), clock())
                found.append(await database.keys(conn, clock()))
                found.append(await database.secret_key(conn, settings))
    except database.DATABASE_ERRORS as error:
        found.append(database.unreachable(settings, error))
    return found


def _ends(survey: Survey | None) -> Mapping[tuple[str, int], int] | None:
    if survey is None:
        return None
    return {(topic, number): end for topic, seen in survey.topics.items() for number, end in seen.ends.items()}
