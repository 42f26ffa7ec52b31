"""Quix Streams with its changelog: a stateful fold (RocksDB), a batching sink that is flushed before the offsets of
each checkpoint (every 5 seconds, the library's default) are committed.
"""

from __future__ import annotations

import logging
from typing import Any

from quixstreams import Application, State
from quixstreams.sinks import BatchingSink, SinkBatch

from bench.peers.facts import fold, new
from bench.peers.meter import Meter, task
from bench.peers.table import Table


class FactsSink(BatchingSink):
    """The last state of each account of a checkpoint."""

    def __init__(self, table: Table, meter: Meter) -> None:
        super().__init__()
        self._table = table
        self._meter = meter

    def write(self, batch: SinkBatch) -> None:
        rows = {item.key: item.value for item in batch}
        self._table.write(rows)
        self._meter.durable(batch.size, len(rows))


def main() -> None:
    asked, meter = task(), Meter()
    table = Table(asked.dsn)
    app = Application(
        broker_address=asked.bootstrap,
        consumer_group=asked.group,
        auto_offset_reset="earliest",
        state_dir=asked.folder,
        use_changelog_topics=True,
        loglevel=logging.WARNING,
    )
    topic = app.topic(asked.topic, key_deserializer="str", value_deserializer="json")

    def update(event: dict[str, Any], _key: Any, timestamp_ms: int, _headers: Any, state: State) -> dict[str, Any]:
        meter.seen()
        facts = fold(state.get("facts") or new(), event, timestamp_ms)
        state.set("facts", facts)
        return facts

    app.dataframe(topic).apply(update, stateful=True, metadata=True).sink(FactsSink(table, meter))
    app.run(count=asked.events, timeout=30)
    table.close()
    meter.report()


if __name__ == "__main__":
    main()
