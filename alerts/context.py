"""What an evaluation needs besides the facts: rulebook and activations, scorecards, people, channels, what was
observed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alerts import reevaluation
from alerts.activation import NEWEST_VERSION, Activated, activate, newest_version
from alerts.ingestion import Operations, tell_operations
from alerts.people import read_people
from alerts.remembered import Memory
from alerts.routing import Channels, Person
from alerts.rules import RuleBook, RuleWatcher
from alerts.ticks import is_time
from health import driver, fleet, scorecards
from health import observed as observing
from health.catalogue import SIGNALS, SignalRef
from health.gaps import Observed
from health.rhythm import SHIPPED, Fleet
from health.scorecards import Scorecards
from health.yamlfile import FileError

log = structlog.get_logger("kizashi.evaluator")

_FRESH: Final = f"SELECT ({reevaluation.NEWEST}) AS round, ({NEWEST_VERSION}) AS version, {observing.SEEN}"

Progress = Callable[[AsyncConnection], Awaitable[datetime | None]]
"""Through when every partition is applied; None when some partition has never said so."""

OnRules = Callable[[AsyncConnection, str | None, str, datetime], Awaitable[None]]
"""Told in the same transaction that another rulebook runs: version before, version now, when."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Fixed for one batch."""

    rulebook: RuleBook
    scorecards: Scorecards
    activated_at: Mapping[str, datetime]
    people: Mapping[str, Person]
    channels: Channels
    observed: Observed
    public_url: str
    levels_at: Mapping[str, datetime] = field(default_factory=dict)
    fleet: Fleet = SHIPPED
    round: int = 0
    """Of the re-evaluations: what is evaluated now needs not be again for any up to this one."""
    memory: Memory = field(default_factory=Memory)

    @cached_property
    def refs(self) -> frozenset[SignalRef]:
        """Every signal in use."""
        return self.rulebook.refs.union(self.scorecards.refs)


Cadences = Callable[[], Mapping[str, timedelta]]
"""How often each source delivers that does not send as things happen; raises FileError."""


class Superseded(Exception):
    """Another evaluator has put a newer rulebook to work: nothing may be evaluated by ours any more."""


class ContextSource:
    """Hands out the context. ``refresh`` re-reads what changes rarely, ``read`` what each batch must know afresh.

    Rule and scorecard files are watched; a bad file leaves the running ones. A change begins a round of
    ``reevaluation``.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        rules_dir: Path,
        *,
        channels: Channels,
        public_url: str,
        progress: Progress,
        on_rules: OnRules | None = None,
        cadences: Cadences = dict,
        every: timedelta = timedelta(seconds=2),
        guard_every: timedelta = timedelta(seconds=60),
    ) -> None:
        """Loads the files; raises RulebookError or FileError: a service does not start on bad ones."""
        self._engine = engine
        self._channels = channels
        self._public_url = public_url.rstrip("/")
        self._progress = progress
        self._on_rules = on_rules
        self._cadences = cadences
        self._agreed: Mapping[str, timedelta] = {}
        self._every = every
        self._guard_every = guard_every
        self._watcher = RuleWatcher(rules_dir, SIGNALS)
        self._cards_dir = rules_dir / "scorecards"
        self._book = self._watcher.book
        self._cards = scorecards.load(self._cards_dir, self._book.custom)
        self.superseded = False
        """Another evaluator has a newer rulebook: two that differ would open and close each other's alerts."""
        self._loaded: tuple[Any, RuleBook] | None = None
        """What the running cards were loaded from."""
        self._problems: list[str] = []
        self._version = ""
        self._activated = Activated()
        self._people: Mapping[str, Person] = {}
        self._fleet = SHIPPED
        self._memory = Memory()
        self._kept_fleet: fleet.Kept | None = None
        self._refreshed_at: datetime | None = None
        self._guarded_at: datetime | None = None

    async def refresh(self, now: datetime) -> None:
        """Looks for changed files and people, records a new rulebook, and lets the volume guard judge, when it is
        time.
        """
        if not is_time(self._refreshed_at, self._every, now):
            return
        await asyncio.to_thread(self._reload)
        async with self._engine.begin() as conn:
            self._people = await read_people(conn)
            await self._read_fleet(conn, now)
            version = f"{self._book.version}:{self._cards.name}"
            why: reevaluation.Why | None = None
            if version != self._version and await self._activate(conn, version, now):
                why = "rules"
            newest = await newest_version(conn)
            if is_time(self._guarded_at, self._guard_every, now):
                changed = await self._guard(conn, now)
                why = why or ("observed" if changed else None)
                self._guarded_at = now
            if why is not None:  # last, since whoever begins a round keeps others from it until he commits
                await reevaluation.begin(conn, why, now)
        if newest != version and not self.superseded:
            log.warning(
                "another evaluator runs a newer rulebook; waiting for our files to follow", version=version[:12]
            )
        self.superseded = newest != version
        self._version = version
        self._refreshed_at = now

    async def _read_fleet(self, conn: AsyncConnection, now: datetime) -> None:
        """The newest that was kept: until a day is closed, the one before it."""
        newest = await fleet.newest(conn, now)
        if newest is not None and newest != self._kept_fleet:
            self._fleet = await fleet.of_day(conn, newest.day)
            self._kept_fleet = newest

    async def read(self, conn: AsyncConnection, now: datetime) -> Context:
        """The context of one batch, in its transaction and once its accounts are locked: what was observed is read
        anew. Raises Superseded.

        Whoever has read a round's number must see all that it began for. What was committed with it, or before, a
        statement sees together with it or not at all; how far all is applied, a statement of its own, comes after.
        """
        fresh = await driver.fetchrow(conn, _FRESH, now)
        if fresh["version"] != self._version:
            raise Superseded
        return Context(
            round=fresh["round"],
            rulebook=self._book,
            scorecards=self._cards,
            activated_at=self._activated.live,
            levels_at=self._activated.levels,
            people=self._people,
            channels=self._reachable(),
            observed=observing.observed(fresh, await self._progress(conn)),
            public_url=self._public_url,
            fleet=self._fleet,
            memory=self._memory,
        )

    def _reachable(self) -> Channels:
        routes = self._book.routes
        return replace(
            self._channels,
            default_recipient=routes.default_recipient or self._channels.default_recipient,
            default_language=routes.default_language,
        )

    def _operations(self) -> Operations:
        routes, channels = self._book.routes, self._reachable()
        recipient = routes.operations_recipient or channels.default_recipient
        return Operations(
            channels=replace(channels, default_recipient=recipient),
            wanted=routes.wanted("critical"),
            after=timedelta(minutes=routes.operations_after_minutes),
            public_url=self._public_url,
        )

    async def _guard(self, conn: AsyncConnection, now: datetime) -> bool:
        """Whether something else is observed now."""
        through = await self._progress(conn)
        report = await observing.guard(conn, now, through, self._agreed)
        for source, reason in report.opened:
            log.warning("a source fell silent: absence is held for its accounts", source=source, reason=reason)
        for source, reason in report.closed:
            log.info("a gap has ended", source=source, reason=reason)
        await tell_operations(conn, self._operations(), await observing.read(conn, through, now), report.lost, now)
        return report.changed

    def _reload(self) -> None:
        problems: list[str] = []
        if self._watcher.poll():
            log.info("rules were reloaded", version=self._watcher.book.version[:12])
        if self._watcher.error is not None:
            problems.append(str(self._watcher.error))
        book = self._watcher.book
        seen = (_marks(self._cards_dir), book)
        try:
            if seen != self._loaded:
                self._cards = scorecards.load(self._cards_dir, book.custom)
                self._book, self._loaded = book, seen
        except FileError as error:
            problems.append(str(error))
            # The rules may go on without these cards, unless the running cards speak of signals that have changed.
            if all(book.custom.get(name) == signal for name, signal in self._cards.custom.items()):
                self._book = book
        try:
            self._agreed = self._cadences()
        except FileError as error:
            problems.append(str(error))
        if problems and problems != self._problems:
            log.error("rules or scorecards are refused; the running ones stay", problem="\n".join(problems))
        self._problems = problems

    async def _activate(self, conn: AsyncConnection, version: str, now: datetime) -> bool:
        """Whether other rules or cards run now."""
        book = self._book
        cards = {card.name: card.card.model_dump(mode="json") for card in self._cards.cards}
        content = {**book.content, "scorecard": self._cards.name, "scorecards": cards}
        before = await newest_version(conn)
        self._activated, changed = await activate(conn, version, content, book.rules, now)
        if changed and self._on_rules is not None:
            await self._on_rules(conn, before, version, now)
        return changed


def _marks(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """By which a changed file is told without reading it."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        with contextlib.suppress(FileNotFoundError):  # removed since the folder was listed
            stat = path.stat()
            found.append((path.name, stat.st_mtime_ns, stat.st_size))
    return tuple(found)
