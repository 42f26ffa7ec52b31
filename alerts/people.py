"""The people whom alerts may go to, as routing needs them."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.routing import Person
from health.tables import people


async def read_people(conn: AsyncConnection) -> dict[str, Person]:
    """By person id. The address of a personal Slack webhook is a secret and stays in the table."""
    columns = [column for column in people.c if column.name != "slack_webhook"]
    has_webhook = people.c.slack_webhook.is_not(None).label("has_slack_webhook")
    rows = await conn.execute(select(*columns, has_webhook))
    return {
        row.person_id: Person(
            person_id=row.person_id,
            name=row.name,
            email=row.email,
            slack_id=row.slack_id,
            has_slack_webhook=row.has_slack_webhook,
            language=row.language,
            timezone=row.timezone,
            stand_in=row.stand_in,
            away_from=row.away_from,
            away_until=row.away_until,
        )
        for row in rows
    }
