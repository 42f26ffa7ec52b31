"""The consumers' loop: open the partitions that come, gather what they bring, apply it, say how far it got.

Nothing here is needed for correctness: a consumer that has lost a partition without knowing fails the compare-and-set
of ``consumers/store.py`` and reads its positions again. The loop's duties are to stay in the group, to wait out a
database that is away, to stop a partition whose log cannot be trusted, and to notice when it is stuck.

While a batch is being written the next one is read and prepared, and never more than that: a batch's transaction
begins when the one before it is known to be stored. When that one is not, what was read behind it is dropped and read
again from the positions in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

from consumers import metrics
from consumers.applier import Applied, Applies, Polled, Ready
from consumers.broker import BrokerUnavailable, Consumer, OffsetOutOfRange, Partition, Record
from consumers.broker.metadata import TopicMark
from consumers.offsets import VOLATILE, Log, Offsets, Opening, Stored, decide, mismatch
from consumers.poison import Poison, PoisonLimits, places
from consumers.reach import Reach
from consumers.records import DatabaseAway, LostPartition, Position
from consumers.store import TRANSIENT

T = TypeVar("T")

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.2
BEAT_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 1.0
TOPICS_SECONDS: Final = 10.0
"""How often the topics themselves are looked at: made anew, or given more partitions."""
NEVER: Final = -1


class Stuck(RuntimeError):
    """The broker has more and nothing moves: only a new process helps. The supervisor starts one."""


class GivenUp(Exception):
    """A batch was not stored, and what was read behind it goes with it: the partitions are to be opened anew."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """The batch under way, and the records that it was made of."""

    polled: Polled
    prepared: Ready
    task: asyncio.Task[Applied]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How much at once. Live, small batches reach the evaluators soon; behind, large ones cost less an event."""

    live_records: int = 1_000
    behind_records: int = 20_000
    linger_seconds: float = 0.1
    behind_from: int = 5_000  # lag, in records
    stuck_seconds: float = 60.0


@dataclass(kw_only=True)
class Status:
    """For the readiness of the role: connected, and every held partition read."""

    connected: bool = False
    waits: str | None = None  # why nothing can be stored for now
    stopped: dict[Partition, str] = field(default_factory=dict)

    def problems(self) -> list[str]:
        found = [] if self.connected else ["the broker is not reached"]
        found += [self.waits] if self.waits is not None else []
        return found + [f"{topic}[{partition}] is stopped: {why}" for (topic, partition), why in self.stopped.items()]


class Loop:
    """One member of the group. ``incarnation`` marks the log of a volatile broker."""

    def __init__(
        self,
        consumer: Consumer,
        applier: Applies[Any],
        offsets: Offsets,
        *,
        clock: Callable[[], datetime],
        pace: Pace,
        status: Status,
        incarnation: str | None = None,
        poison: PoisonLimits | None = None,
    ) -> None:
        self._consumer = consumer
        self._applier = applier
        self._offsets = offsets
        self._clock = clock
        self._pace = pace
        self._status = status
        self._incarnation = incarnation
        self._poison_limits = poison or PoisonLimits()
        self._poison: dict[Partition, Poison] = {}
        self._generation = NEVER
        self._writing: Writing | None = None
        self._positions: dict[Partition, Position] = {}  # as stored
        self._stopped: dict[Partition, Position] = {}
        self._unsaid: dict[Partition, str] = {}  # why a partition is to be stopped, while the database is away
        self._topics: dict[str, TopicMark] = {}
        self._unchecked: set[Partition] = set()  # whose last applied record is still to be compared
        self._lag: dict[Partition, int] = {}
        self._reach: dict[Partition, Reach] = {}
        self._moved: dict[Partition, tuple[int, float]] = {}  # offset reached, and since when
        self._committed: dict[Partition, int] = {}
        self._next_beat = 0.0
        self._next_look = 0.0  # at the topics
        self._rebalancing = False

    def on_revoked(self, _: frozenset[Partition]) -> None:
        """The consumer's hook: a rebalance begins."""
        self._rebalancing = True

    def on_assigned(self, _: frozenset[Partition]) -> None:
        """The consumer's hook: it has ended."""
        self._rebalancing = False

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``. Raises Stuck, and BrokerError when reading cannot go on."""
        try:
            while not stop.is_set():
                if self._generation != self._consumer.generation and not await self._reopen(stop):
                    await self._idle(RETRY_SECONDS)
                    continue
                await self._step(stop)
            await self._settle(stop)
        except GivenUp:  # told to stop while the database is away
            pass
        finally:
            if self._writing is not None:
                self._writing.task.cancel()
                await asyncio.gather(self._writing.task, return_exceptions=True)
        await self._tell_kafka()

    async def _step(self, stop: asyncio.Event) -> None:
        polled = await self._gather()
        try:
            if polled:
                await self._take(polled, stop)
            else:
                await self._settle(stop)
        except GivenUp:
            self._generation = NEVER
        if self._generation != self._consumer.generation:
            return  # what was read is dropped: the client's position says nothing until partitions are open again
        if time.monotonic() >= self._next_beat:
            await self._beat()
            self._next_beat = time.monotonic() + BEAT_SECONDS

    async def _reopen(self, stop: asyncio.Event) -> bool:
        """What is under way ends first: the positions are read after it."""
        with contextlib.suppress(GivenUp):
            await self._settle(stop)
        return await self._open()

    async def _open(self) -> bool:
        """Positions every partition held; False: try again."""
        generation = self._consumer.generation
        held = self._consumer.assignment
        metrics.forget([*self._positions, *self._status.stopped])
        for state in (self._positions, self._lag, self._reach, self._moved, self._committed, self._status.stopped,
                      self._stopped, self._poison):  # fmt: skip
            state.clear()
        self._unsaid = {place: reason for place, reason in self._unsaid.items() if place in held}
        self._unchecked.clear()
        self._applier.forget()
        if held:
            try:
                logs = await self._logs(held)
                now = self._clock()
                stored = await self._offsets.open(logs, now)
                anew: dict[Partition, tuple[Stored, Log]] = {}
                for place, row in stored.items():
                    opening = decide(row, logs[place])
                    if place in self._unsaid:
                        opening = Opening(action="stop", reason=self._unsaid[place])
                    position = row.position
                    if opening.action == "stop":
                        if not await self._stop(position, opening.reason):
                            return False
                        continue
                    if opening.action == "anew":
                        logger.warning("%s[%d] starts anew: %s", *place, opening.reason)
                        anew[place] = row, logs[place]
                        continue
                    await self._offsets.identify(position, logs[place], now)
                    self._start(position, logs[place], check=opening.check)
                for position in await self._offsets.start_anew(anew, now):
                    self._start(position, logs[position.place], check=False)
            except (BrokerUnavailable, *TRANSIENT) as error:
                logger.warning("partitions not opened: %r", error)
                return False
            logger.info("%d partitions opened, %d stopped", len(self._positions), len(self._status.stopped))
        self._generation = generation
        return True

    async def _logs(self, held: frozenset[Partition]) -> dict[Partition, Log]:
        starts = await self._consumer.beginning_offsets(held)
        ends = await self._consumer.end_offsets(held)
        self._topics = await self._consumer.topic_marks()
        volatile = self._incarnation is not None
        cluster = f"{VOLATILE}{self._incarnation}" if volatile else await self._consumer.cluster_id()
        return {
            place: Log(cluster_id=cluster, topic_id=self._topics[place[0]].id, start=starts[place], end=ends[place])
            for place in held
        }

    def _start(self, position: Position, log: Log, *, check: bool) -> None:
        """Reads from the position, or from the last applied record when that is to be compared first."""
        topic, partition = position.place
        first = position.last_offset if check and position.last_offset is not None else position.next_offset
        if self._consumer.seek(topic, partition, first):
            self._consumer.resume([position.place])  # it may have been stopped, and the group not joined anew since
            self._positions[position.place] = position
            self._lag[position.place] = log.end - position.next_offset
            metrics.STOPPED.labels(topic, str(partition)).set(0)
            if check:
                self._unchecked.add(position.place)

    async def _stop(self, position: Position, reason: str) -> bool:
        """Loudly: log, metric, readiness, and in the database for the API. False: not noted there, open anew."""
        place = position.place
        logger.error("%s[%d] is stopped at %d: %s", *place, position.next_offset, reason)
        self._consumer.pause([place])
        self._positions.pop(place, None)
        self._unchecked.discard(place)
        self._status.stopped[place] = reason
        self._stopped[place] = position
        self._poison.pop(place, None)
        metrics.STOPPED.labels(place[0], str(place[1])).set(1)
        try:
            await self._offsets.stop(position, reason, self._clock())
        except TRANSIENT as error:
            logger.warning("the stop is not noted yet: %r", error)
            self._unsaid[place] = reason
            self._generation = NEVER
            return False
        self._unsaid.pop(place, None)
        return True

    async def _gather(self) -> dict[Partition, list[Record]]:
        """A batch: what comes within the linger time of its first record, up to the size that the lag asks for."""
        behind = self._behind
        most = self._pace.behind_records if behind else self._pace.live_records
        polled = await self._poll(most, POLL_SECONDS)
        count = sum(map(len, polled.values()))
        deadline = time.monotonic() + self._pace.linger_seconds
        while 0 < count < most and (left := deadline - time.monotonic()) > 0:
            more = await self._poll(most - count, left)
            for place, records in more.items():
                polled.setdefault(place, []).extend(records)
                count += len(records)
        return await self._checked(polled)

    async def _poll(self, most: int, timeout: float) -> dict[Partition, list[Record]]:
        try:
            return await self._consumer.getmany(most, timeout)
        except BrokerUnavailable as error:
            logger.warning("nothing read: %s", error)
            await asyncio.sleep(timeout)
        except OffsetOutOfRange as error:
            place = (error.topic, error.partition)
            position = self._positions.get(place)
            if place in self._unchecked:
                # Retention may have taken the record since we looked: look again.
                self._generation = NEVER
            elif position is not None:
                await self._stop(position, f"the log does not hold offset {error.offset} (any more)")
        return {}

    async def _checked(self, polled: dict[Partition, list[Record]]) -> dict[Partition, list[Record]]:
        """Compares the first record of partitions just opened with what was applied there, and takes it away."""
        for place in self._unchecked & polled.keys():
            position, records = self._positions[place], polled[place]
            reason = mismatch(position, records[0])
            if reason is not None:
                del polled[place]
                await self._stop(position, reason)
                continue
            self._unchecked.discard(place)
            del records[0]
        return polled

    async def _take(self, polled: Polled, stop: asyncio.Event) -> None:
        """Prepares a batch beside the write of the one before it, and begins its own. Raises GivenUp."""
        prepared = await self._prepare(polled, stop)
        await self._settle(stop)
        if prepared is not None and not prepared.positions.keys() <= self._positions.keys():
            # A partition was stopped over the batch before: nothing more of it is applied.
            self._applier.forget()
            prepared = await self._prepare(polled, stop)
        if prepared is not None:
            task = asyncio.create_task(self._applier.store(prepared))
            self._writing = Writing(polled=polled, prepared=prepared, task=task)

    async def _prepare(self, polled: Polled, stop: asyncio.Event) -> Ready | None:
        before = {} if self._writing is None else self._writing.prepared.positions
        expected = {place: before.get(place, position) for place, position in self._positions.items()}
        now, behind = self._clock(), self._behind
        prepare = partial(self._applier.prepare, polled, expected, now=now, catching_up=behind)
        return await self._patiently(prepare, stop)

    async def _settle(self, stop: asyncio.Event) -> None:
        """Waits until what is being written is stored. Raises GivenUp when it never will be."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        tries = itertools.chain([writing.task], (self._applier.store(writing.prepared) for _ in itertools.count()))
        applied = await self._patiently(lambda: next(tries), stop)
        await self._advance(writing.polled, applied)

    async def _patiently(self, step: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T:
        """Until it is done. While the database, or what else it needs, is away the partitions are paused, and polled
        on, so that the group does not think us dead. Raises GivenUp when they are lost, or when told to stop."""
        paused = False
        try:
            while True:
                try:
                    return await step()
                except LostPartition as error:
                    logger.warning("batch undone, others hold or erased: %s", error)
                    metrics.LOST.inc()
                    await asyncio.sleep(POLL_SECONDS)
                    raise GivenUp from error
                except DatabaseAway as error:
                    logger.warning("waiting, %s: %s", error.waits, error)
                    self._waits(error.waits)
                    if not paused:
                        paused = True
                        self._consumer.pause(self._positions)
                    await self._idle(RETRY_SECONDS)
                    if stop.is_set() or self._generation != self._consumer.generation:
                        raise GivenUp from error
        finally:
            if paused:
                self._waits(None)
                self._consumer.resume(self._positions)
                self._moved.clear()

    async def _advance(self, polled: Polled, applied: Applied) -> None:
        """Stops the partitions that bring too many dead letters: what they had is stored, what follows waits."""
        bad: dict[Partition, set[int]] = {}
        for letter in applied.dead_letters:
            bad.setdefault((letter.record.topic, letter.record.partition), set()).add(letter.record.offset)
        for place, after in applied.positions.items():
            if place not in self._positions:  # stopped meanwhile
                continue
            first = self._positions[place].next_offset
            self._positions[place] = after
            if place not in bad:
                letters, count = [], len(polled[place])
            else:
                offsets = [record.offset for record in polled[place] if record.offset >= first]
                letters, count = places(offsets, bad[place]), len(offsets)
            seen = self._poison.setdefault(place, Poison(self._poison_limits))
            if (reason := seen.saw(count, letters)) is not None:
                await self._stop(after, reason)

    def _waits(self, why: str | None) -> None:
        self._status.waits = why
        metrics.AWAY.set(why == DatabaseAway.waits)

    async def _idle(self, seconds: float) -> None:
        """Waits, staying a member of the group. What comes is dropped: the partitions are paused, or opened anew."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            await self._poll(1, 0.0)
            await asyncio.sleep(min(left, POLL_SECONDS))

    async def _beat(self) -> None:
        """Each second: lag, how far everything is complete, whether anything is stuck."""
        positions = dict(self._positions)
        if not positions and not self._stopped:
            self._status.connected = True
            return
        asked_at = self._clock()
        try:
            if await self._topics_changed():
                return
            ends = await self._consumer.end_offsets([*positions, *self._stopped])
        except BrokerUnavailable as error:
            logger.warning("lag not known: %s", error)
            self._status.connected = False
            self._moved.clear()
            return
        self._status.connected = True
        for place, position in self._stopped.items():
            metrics.LAG.labels(place[0], str(place[1])).set(max(ends[place] - position.next_offset, 0))
        if shrunk := [place for place, position in positions.items() if ends[place] < position.next_offset]:
            logger.error("the logs of %s end before what was applied of them: opening them anew", shrunk)
            self._generation = NEVER
            return
        try:
            positions = await self._step_over(positions, asked_at)
            if self._stopped and await self._offsets.any_released(self._stopped):
                self._generation = NEVER
        except TRANSIENT as error:
            logger.warning("progress not noted: %r", error)
            self._moved.clear()
            return
        through = []
        for place, position in positions.items():
            reached = self._reached(position)
            self._lag[place] = lag = max(ends[place] - reached, 0)
            metrics.LAG.labels(place[0], str(place[1])).set(lag)
            reach = self._reach.setdefault(place, Reach())
            reach.seen(ends[place], asked_at)
            if place not in self._unchecked and (at := reach.complete_through(reached)) is not None:
                through.append((position, at))
        try:
            await self._offsets.beat(through, asked_at)
        except TRANSIENT as error:
            logger.warning("progress not noted: %r", error)
            self._moved.clear()
            return
        self._watch(positions)
        await self._tell_kafka()

    async def _step_over(self, positions: Mapping[Partition, Position], now: datetime) -> dict[Partition, Position]:
        """Moves positions over the markers of transactions, so that whoever compares them with the end of the log, in
        the database, sees that nothing is unread. Gives ``positions`` as they are then."""
        over = {
            place: (position, reached)
            for place, position in positions.items()
            if place not in self._unchecked and (reached := self._reached(position)) > position.next_offset
        }
        stepped = {
            place: replace(position, next_offset=over[place][1])
            for place in await self._offsets.step_over(over, now)
            for position in (over[place][0],)
        }
        self._positions.update(stepped)
        return {**positions, **stepped}

    async def _topics_changed(self) -> bool:
        """Now and then: whether a topic has been made anew under its name, which opens every partition anew, or has
        more partitions, which joins the group anew."""
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + TOPICS_SECONDS
        marks = await self._consumer.topic_marks()
        changed = {topic: (was, marks[topic]) for topic, was in self._topics.items() if was.differs(marks[topic])}
        for topic, (was, now) in changed.items():
            logger.error("topic %s has changed (%s, was %s): opening its partitions anew", topic, now, was)
            if now.partitions != was.partitions:
                await self._consumer.look_for_partitions()
            self._generation = NEVER
        return bool(changed)

    def _watch(self, positions: Mapping[Partition, Position]) -> None:
        now = time.monotonic()
        for place, position in positions.items():
            reached = self._reached(position)
            offset, since = self._moved.get(place, (NEVER, now))
            if offset != reached or not self._lag[place]:
                self._moved[place] = (reached, now)
            elif now - since > self._pace.stuck_seconds:
                raise Stuck(
                    f"{place[0]}[{place[1]}] stands at {reached} for {now - since:.0f} s "
                    f"while the broker has {self._lag[place]} more"
                )

    async def _tell_kafka(self) -> None:
        """For lag tools only. During a rebalance the answer would wait for its end."""
        if self._rebalancing:
            return
        moved = {place: p.next_offset for place, p in self._positions.items()
                 if self._committed.get(place) != p.next_offset and p.last_offset is not None}  # fmt: skip
        if moved and await self._consumer.commit(moved):
            self._committed.update(moved)

    def _reached(self, position: Position) -> int:
        """Everything below is applied. A transaction's marker takes an offset and is no record: the client has stepped
        over it, and our position has not. Where a batch is still being written, the client says nothing. Only to be
        asked while nothing else that was read waits to be applied."""
        if self._writing is not None and position.place in self._writing.prepared.positions:
            return position.next_offset
        return max(position.next_offset, self._consumer.position(*position.place))

    @property
    def _behind(self) -> bool:
        return sum(self._lag.values()) > self._pace.behind_from
