"""User ids hashed at the door, on the whole way: HTTP, topic, consumer, facts; and forgotten by the plain id."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx2
import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.broker import Producer
from consumers.pseudonyms import Pseudonyms
from consumers.tables import dead_letters
from embedded.broker import EmbeddedBroker
from health.tables import accounts, user_months, users
from service.clock import utc_now
from tests import canary
from tests.commands import kizashi
from tests.serving import Road, road

SECRET = "a secret of the tests, long enough"
USER, OTHER, MAIL = "canary-user-91c2", "somebody-else", "canary.mail@example.org"


def event(event_id: str, kind: str = "login", user_id: str = USER, **more: Any) -> dict[str, Any]:
    at = (utc_now() - timedelta(hours=1)).isoformat()
    return {"kind": kind, "event_id": event_id, "account_id": "acme", "user_id": user_id, "timestamp": at, **more}


async def send(way: Road, *events: dict[str, Any]) -> None:
    async with httpx2.AsyncClient(base_url=way.url, headers={"Authorization": f"Bearer {way.key}"}) as client:
        answer = await client.post("/api/v1/events", json=list(events))
    assert answer.status_code == 202, answer.text


async def produce(broker: EmbeddedBroker, topic: str, *events: dict[str, Any]) -> None:
    producer = Producer(broker.bootstrap)
    try:
        await producer.send_many(topic, [(b"acme", msgspec.json.encode(each), ()) for each in events])
    finally:
        await producer.stop()


async def known(way: Road) -> tuple[set[str], set[str], int]:
    """Users with attributes, users with active days, and the account's logins."""
    async with way.engine.connect() as conn:
        named = set((await conn.scalars(select(users.c.user_id))).all())
        active = set((await conn.scalars(select(user_months.c.user_id))).all())
        return named, active, (await conn.execute(select(accounts.c.logins))).scalar_one()


async def test_a_plain_id_is_nowhere_and_forgets_what_came_under_its_pseudonym(
    engine: AsyncEngine, broker: EmbeddedBroker, topic: str, database: str
) -> None:
    this, other = (Pseudonyms(SECRET.encode()).of(name) for name in (USER, OTHER))
    async with road(engine, broker, topic, hash_user_ids=True, secret_key=SECRET) as way:
        await send(way, event("l-1"), event("l-2", user_id=OTHER),
                   event("i-1", "identify", traits={"email": MAIL, "role": "admin"}))  # fmt: skip
        # A producer of one's own, that knows nothing of hashing, and one that sends what it has read from the topic.
        await produce(broker, topic, event("l-3"), event("l-4", user_id=this))
        await way.applied(5)
        assert await known(way) == ({this}, {this, other}, 4)
        assert await canary.places(engine, USER, OTHER, MAIL) == set()
        assert (await way.facts())["acme"]["users"] == {this: {"role": "admin"}}

        environment = {
            "KIZASHI_DATABASE_URL": database, "KIZASHI_HASH_USER_IDS": "true", "KIZASHI_SECRET_KEY": SECRET,
        }  # fmt: skip
        done = kizashi("forget", "--user", USER, "--yes", environment=environment)
        assert done.exit_code == 0, done.output
        assert await known(way) == (set(), {other}, 4), "the company keeps its counts"
        assert await canary.places(engine, this, USER, MAIL) == set()

        # What comes again from before is nobody's; what comes new counts as new.
        await produce(broker, topic, event("l-5", received_at=(utc_now() - timedelta(minutes=30)).isoformat()))
        await way.applied(6)
        assert await known(way) == (set(), {other}, 5)
        assert await canary.places(engine, this, USER) == set()
        await send(way, event("l-6"))
        await way.applied(7)
        assert await known(way) == (set(), {this, other}, 6)
        async with engine.connect() as conn:
            assert (await conn.execute(select(dead_letters))).all() == []
