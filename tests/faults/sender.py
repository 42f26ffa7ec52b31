"""Clients of the doors, as a process: sends events by HTTP and straight to Kafka, and keeps a ledger of every answer.

What was not acknowledged is sent again with the same id, as clients do; some of what was acknowledged is sent again
all the same; some clients leave in the middle of a request, and a few of these never come back. The ledger is a file
that only grows: an event is noted before it is sent, its acknowledgement, with fsync, after it came.

The end of standard input means: begin nothing new, bring home what is under way, end.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
from confluent_kafka import KafkaException, Producer

HTTP_CLIENTS = 4
ACCOUNTS = 200
BATCHES = (1, 1, 1, 5, 20, 60)
AGAIN = 0.05
"""Share of batches by HTTP, and of events to Kafka, after which something acknowledged is sent again."""
LEAVES = 0.03
"""Share of the batches whose client leaves in the middle of its request first."""
NEVER_BACK = 0.2
"""Share of those that are not sent again: of these nobody knows what became."""
ANSWER_SECONDS = 12.0
DELIVERY_MS = 8_000
PAUSE_SECONDS = 0.4
LAST_SECONDS = 150.0
REMEMBERED = 20_000
NAME = "ledger"
"""The Kafka client id of this process."""

Sent = dict[str, Any]


class Ledger:
    """One JSON array a line: ["sent", at, way, event], ["acknowledged", at, way, ids], ["said", at, what, count]."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.open_ids: set[str] = set()

    def sent(self, way: str, events: Sequence[Sent]) -> None:
        self.open_ids.update(event["event_id"] for event in events)
        self._write(*(["sent", time.time(), way, event] for event in events))

    def acknowledged(self, way: str, ids: Sequence[str]) -> None:
        new = [event_id for event_id in ids if event_id in self.open_ids]
        if new:
            self._write(["acknowledged", time.time(), way, new])
            os.fsync(self._fd)
            self.open_ids.difference_update(new)

    def said(self, what: str, count: int = 1) -> None:
        self._write(["said", time.time(), what, count])

    def never_back(self, events: Sequence[Sent]) -> None:
        self.open_ids.difference_update(event["event_id"] for event in events)
        self.said("never came back", len(events))

    def _write(self, *lines: list[Any]) -> None:
        os.write(self._fd, b"".join(json.dumps(line).encode() + b"\n" for line in lines))


class Maker:
    """Events whose every single counting can be read off the facts: each use is of a feature of its own."""

    def __init__(self, seed: str, source: str) -> None:
        self._chance = random.Random(f"{seed} {source}")
        self._seed, self._source = seed, source
        self._number = 0

    def batch(self, count: int) -> list[Sent]:
        return [self.event() for _ in range(count)]

    def event(self) -> Sent:
        chance = self._chance
        self._number += 1
        account = f"acct-{int(ACCOUNTS * chance.random() ** 3):03}"
        event_id = f"{self._source}-{self._seed}-{self._number:07}"
        ago = chance.choices(
            (timedelta(0), timedelta(hours=chance.uniform(0, 70)), timedelta(days=chance.uniform(3, 40))), (80, 15, 5)
        )[0]
        event: Sent = {
            "event_id": event_id,
            "account_id": account,
            "timestamp": (datetime.now(UTC) - ago).isoformat(),
            "source": self._source,
            "user_id": f"{account}-u{chance.randrange(5)}",
        }
        return event | self._own(event_id)

    def _own(self, event_id: str) -> Sent:
        chance = self._chance
        kind = chance.choices(("usage", "login", "ticket", "payment", "survey", "group"), (78, 15, 2, 2, 1, 2))[0]
        number = str(chance.randrange(8))
        own: dict[str, Sent] = {
            "usage": {"feature": event_id, "quantity": chance.randint(1, 3)},
            "login": {},
            "ticket": {"ticket_id": number, "status": chance.choice(("open", "pending", "solved", "closed"))},
            "payment": {"payment_id": number, "status": chance.choice(("failed", "paid")), "amount": 12.5},
            "survey": {"survey_id": number, "survey": "nps", "score": chance.randrange(11)},
            "group": {"traits": {"plan": chance.choice(("free", "pro")), "mrr": chance.randrange(1000)}},
        }  # fmt: skip
        return {"kind": kind, **own[kind]}


class ByHttp:
    """Product services that post, each waiting for its answer."""

    def __init__(self, ledger: Ledger, url: str, key: str, seed: str, rate: float) -> None:
        self._ledger = ledger
        self._url, self._key, self._rate = url, key, rate
        self._maker = Maker(seed, "http")
        self._chance = random.Random(f"{seed} clients")
        self._before: collections.deque[Sent] = collections.deque(maxlen=REMEMBERED)

    async def run(self, stop: asyncio.Event) -> None:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        async with httpx2.AsyncClient(
            base_url=self._url, headers=headers, timeout=ANSWER_SECONDS, trust_env=False
        ) as client:
            await asyncio.gather(*(self._client(client, stop) for _ in range(HTTP_CLIENTS)))

    async def _client(self, client: httpx2.AsyncClient, stop: asyncio.Event) -> None:
        mean = sum(BATCHES) / len(BATCHES)
        while not stop.is_set():
            batch = self._maker.batch(self._chance.choice(BATCHES))
            self._ledger.sent("http", batch)
            if self._chance.random() < LEAVES:
                await self._leave(batch)
                if self._chance.random() < NEVER_BACK and all(event["kind"] == "usage" for event in batch):
                    self._ledger.never_back(batch)
                    continue
            await self._deliver(client, batch)
            if self._chance.random() < AGAIN and self._before:
                await self._again(client)
            await asyncio.sleep(self._chance.expovariate(self._rate / HTTP_CLIENTS / mean))

    async def _deliver(self, client: httpx2.AsyncClient, batch: list[Sent]) -> None:
        left = {event["event_id"]: event for event in batch}
        while left:
            results = await self._post(client, list(left.values()))
            taken = [result["event_id"] for result in results if result["status"] == "accepted"]
            self._ledger.acknowledged("http", taken)
            self._before.extend(left.pop(event_id) for event_id in taken)
            refused = [result for result in results if result["status"] == "refused"]
            if refused:
                self._ledger.said(f"refused: {refused[0]['errors']}", len(refused))
            if left:
                await asyncio.sleep(PAUSE_SECONDS * self._chance.uniform(0.5, 1.5))

    async def _post(self, client: httpx2.AsyncClient, events: list[Sent]) -> list[dict[str, Any]]:
        """The results per item; none when there was no such answer."""
        try:
            answer = await client.post("/api/v1/events", content=json.dumps(events))
        except httpx2.HTTPError as error:
            self._ledger.said(type(error).__name__)
            return []
        if answer.status_code in (202, 422):
            results: list[dict[str, Any]] = answer.json().get("results", [])
            return results
        self._ledger.said(f"status {answer.status_code}")
        return []

    async def _again(self, client: httpx2.AsyncClient) -> None:
        events = self._chance.sample(list(self._before), min(len(self._before), 5))
        self._ledger.said("sent again", len(await self._post(client, events)))

    async def _leave(self, batch: list[Sent]) -> None:
        """Sends the request, all of it or a part, and is gone."""
        self._ledger.said("client left")
        body = json.dumps(batch).encode()
        host, _, port = self._url.removeprefix("http://").partition(":")
        head = (
            f"POST /api/v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        whole = self._chance.random() < 0.5
        try:
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(head + (body if whole else body[: len(body) // 2]))
            await writer.drain()
            await asyncio.sleep(self._chance.uniform(0, 0.01))
            writer.transport.abort()
        except OSError:
            return


class ByKafka:
    """A product service that produces by librdkafka, acks=all; not idempotent, so that its retries may repeat."""

    def __init__(self, ledger: Ledger, bootstrap: str, topic: str, seed: str, rate: float) -> None:
        self._ledger = ledger
        self._topic, self._rate = topic, rate
        self._maker = Maker(seed, "direct")
        self._chance = random.Random(f"{seed} direct")
        self._before: collections.deque[Sent] = collections.deque(maxlen=REMEMBERED)
        self._left: dict[str, Sent] = {}
        self._failed: list[Sent] = []
        self._done: list[str] = []
        self._producer = Producer({
            "bootstrap.servers": bootstrap, "client.id": NAME, "acks": "all", "partitioner": "murmur2_random",
            "linger.ms": 5, "delivery.timeout.ms": DELIVERY_MS, "request.timeout.ms": DELIVERY_MS // 2,
            "reconnect.backoff.max.ms": 1_000, "log_level": 0,
        })  # fmt: skip

    async def run(self, stop: asyncio.Event) -> None:
        due = time.monotonic()
        while not stop.is_set() or self._left:
            now = time.monotonic()
            while not stop.is_set() and due <= now:
                due += self._chance.expovariate(self._rate)
                event = self._maker.event()
                self._ledger.sent("direct", [event])
                self._left[event["event_id"]] = event
                self._produce(event)
                if self._chance.random() < AGAIN and self._before:
                    self._produce(self._chance.choice(self._before), counted=False)
                    self._ledger.said("sent again")
            await asyncio.sleep(0.02)
            self._settle()

    def _produce(self, event: Sent, counted: bool = True) -> None:
        try:
            self._producer.produce(
                self._topic, json.dumps(event).encode(), event["account_id"].encode(),
                on_delivery=self._answered(event) if counted else None,
            )  # fmt: skip
        except (BufferError, KafkaException):
            if counted:
                self._failed.append(event)

    def _answered(self, event: Sent) -> Callable[[Any, Any], None]:
        def answered(error: Any, _: Any) -> None:
            if error is None:
                self._done.append(event["event_id"])
            else:
                self._failed.append(event)

        return answered

    def _settle(self) -> None:
        self._producer.poll(0)
        done, self._done = self._done, []
        self._ledger.acknowledged("direct", done)
        self._before.extend(self._left.pop(event_id) for event_id in done if event_id in self._left)
        failed, self._failed = self._failed, []
        for event in failed:
            if event["event_id"] in self._left:
                self._produce(event)


async def run(arguments: argparse.Namespace) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 1) else _ended(stop))
    ledger = Ledger(arguments.ledger)
    http = ByHttp(ledger, arguments.api, os.environ["LEDGER_KEY"], arguments.seed, arguments.rate / 2)
    kafka = ByKafka(ledger, arguments.bootstrap, arguments.topic, arguments.seed, arguments.rate / 2)
    running = asyncio.gather(http.run(stop), kafka.run(stop))
    running.add_done_callback(lambda _: stop.set())  # one of them failed: no reason to wait for the end
    await stop.wait()
    try:
        async with asyncio.timeout(LAST_SECONDS):
            await running
    except TimeoutError:
        sys.stderr.write(f"{len(ledger.open_ids)} events were never acknowledged\n")
        return 1
    return 0


def _ended(stop: asyncio.Event) -> None:
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    stop.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--api", required=True, help="http://127.0.0.1:port; its key is in LEDGER_KEY")
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--rate", type=float, default=150.0, help="events per second")
    raise SystemExit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
