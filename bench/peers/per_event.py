"""The loop that everybody writes first: for each event get, change and commit with SQLAlchemy's ORM, then commit the
offset."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from confluent_kafka import Consumer
from sqlalchemy import BigInteger, DateTime, Text, create_engine
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from bench.peers.facts import fold, new
from bench.peers.meter import Meter, task

SCALARS = ("first_event_at", "last_event_at", "last_login_at")
WARM_UP = 100


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "peer_accounts"
    account_id: Mapped[str] = mapped_column(Text, primary_key=True)
    first_event_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_event_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_login_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    events: Mapped[int] = mapped_column(BigInteger)
    logins: Mapped[int] = mapped_column(BigInteger)
    facts: Mapped[dict[str, Any]] = mapped_column(JSONB)


def apply(session: Session, event: dict[str, Any], arrived_ms: int) -> None:
    account = session.get(Account, event["account_id"])
    if account is None:
        account = Account(account_id=event["account_id"], facts=new())
        session.add(account)
    facts = fold(json.loads(json.dumps(account.facts)), event, arrived_ms)  # a copy, so that the change is seen
    account.facts = facts
    account.events, account.logins = facts["events"], facts["logins"]
    for name in SCALARS:
        value = facts[name]
        setattr(account, name, None if value is None else datetime.fromisoformat(value))
    session.commit()


def main() -> None:
    asked, meter = task(), Meter()
    engine = create_engine(asked.dsn.replace("postgresql://", "postgresql+psycopg://"))
    consumer = Consumer(
        {
            "bootstrap.servers": asked.bootstrap, "group.id": asked.group, "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )  # fmt: skip
    consumer.subscribe([asked.topic])
    done = 0
    with Session(engine) as session:
        while done < asked.events:
            message = consumer.poll(1.0)
            if message is None or message.error() is not None:
                continue
            if done == WARM_UP:
                meter.seen()
            apply(session, json.loads(message.value() or b""), message.timestamp()[1])
            consumer.commit(message=message, asynchronous=False)
            done += 1
            if done > WARM_UP:
                meter.durable(1, 1)
    consumer.close()
    meter.report()


if __name__ == "__main__":
    main()
