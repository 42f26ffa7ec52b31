"""Bytewax with recovery: a stateful map, a sink that writes each batch as it comes, state and offsets in the library's
own recovery store (SQLite) at the end of each epoch (1 second), after the sink's writes.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import msgspec
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main

from bench.peers.facts import Facts, fold, new
from bench.peers.meter import Meter, task
from bench.peers.table import Table

BATCH = 1_000
Item = tuple[str, Facts]
_decode = msgspec.json.Decoder().decode


class Partition(StatelessSinkPartition[Item]):
    def __init__(self, dsn: str, meter: Meter) -> None:
        self._table = Table(dsn)
        self._meter = meter

    def write_batch(self, items: list[Item]) -> None:
        rows = dict(items)
        self._table.write(rows)
        self._meter.durable(len(items), len(rows))

    def close(self) -> None:
        self._table.close()


class FactsSink(DynamicSink[Item]):
    def __init__(self, dsn: str, meter: Meter) -> None:
        self._dsn = dsn
        self._meter = meter

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Partition:
        del step_id, worker_index, worker_count
        return Partition(self._dsn, self._meter)


def main() -> None:
    asked, meter = task(), Meter()
    init_db_dir(Path(asked.folder), 1)

    def decode(message: KafkaSourceMessage[Any, Any]) -> tuple[str, tuple[dict[str, Any], int]]:
        meter.seen()
        return message.key.decode(), (_decode(message.value), message.timestamp[1])

    def update(facts: Facts | None, value: tuple[dict[str, Any], int]) -> tuple[Facts, Facts]:
        facts = fold(facts or new(), *value)
        return facts, facts

    flow = Dataflow("facts")
    source = KafkaSource([asked.bootstrap], [asked.topic], tail=False, batch_size=BATCH)
    keyed = op.map("decode", op.input("events", flow, source), decode)
    op.output("table", op.stateful_map("fold", keyed, update), FactsSink(asked.dsn, meter))
    recovery = RecoveryConfig(asked.folder)
    cluster_main(flow, [], 0, epoch_interval=timedelta(seconds=1), recovery_config=recovery)
    meter.report()


if __name__ == "__main__":
    main()
