"""What the consumers count. Labels are bounded: kinds, reasons, partitions; never an account, a user or an event."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from consumers.broker import Partition

INGESTED: Final = Counter("kizashi_events_ingested_total", "Events applied to the facts", ["kind"])
DUPLICATES: Final = Counter("kizashi_events_duplicate_total", "Events that had been applied before")
ERASED: Final = Counter("kizashi_events_erased_total", "Events dropped since their account or user was erased")
DEAD_LETTERS: Final = Counter("kizashi_dead_letters_total", "Records that could not be taken", ["reason"])
LAG: Final = Gauge("kizashi_consumer_lag_records", "Records not yet applied", ["topic", "partition"])
STOPPED: Final = Gauge("kizashi_partition_stopped", "1: stopped until somebody decides", ["topic", "partition"])
LOST: Final = Counter("kizashi_batches_lost_total", "Batches undone because another consumer had moved the offset")
AWAY: Final = Gauge("kizashi_consumer_database_away", "1: the consumer waits for the database")
ARCHIVED: Final = Counter("kizashi_archive_written_total", "Events written to the archive")
ARCHIVE_SECONDS: Final = Histogram(
    "kizashi_archive_flush_seconds",
    "From the first look at a batch to its archive files' commit",
    buckets=(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
ARCHIVE_FILES: Final = Gauge("kizashi_archive_files", "Files of the archive that count")
ARCHIVE_EVENTS: Final = Gauge("kizashi_archive_events", "Events in them")
ARCHIVE_BYTES: Final = Gauge("kizashi_archive_bytes", "Their size, compressed")
BATCH_SECONDS: Final = Histogram(
    "kizashi_batch_seconds",
    "From the first look at a batch to its commit",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


def forget(partitions: Iterable[Partition]) -> None:
    """Drops the series of partitions that others hold now: a stale lag would page somebody for nothing."""
    for topic, partition in partitions:
        for gauge in (LAG, STOPPED):
            with contextlib.suppress(KeyError):
                gauge.remove(topic, str(partition))
