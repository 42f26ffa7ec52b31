"""Where events enter and leave Kafka: the only package that knows aiokafka.

Every wait is bounded; "the broker does not answer" is always `BrokerUnavailable`. Keys are spread over partitions by
murmur2, as Java's default partitioner does, so that producers in either language put an account into the same one.

Traps of aiokafka 0.14 that this package keeps away from its callers:

- `send` and `stop` wait for ever while the broker is away, `getmany` while a rebalance is under way, whatever time-out
  it was given.
- An idempotent producer whose batch was refused for good leaves a hole in its sequence numbers and is refused ever
  after: it is replaced. So is one that has only failed for a while.
- A new partition would at once be read from the offset committed in Kafka. Ours come from Postgres: a partition
  delivers nothing until `seek`.
- An exception out of `getmany` loses the records that the same call had taken from other partitions: they are read
  again.
- Exceptions in rebalance callbacks are swallowed: the hooks only set state, and correctness never rests on them.
- Its background tasks can end on an error of their own, and the consumer is dead from then on: it is made anew.
"""

from consumers.broker.common import (
    DEFAULT_TIMEOUT_SECONDS,
    BrokerError,
    BrokerUnavailable,
    Headers,
    OffsetOutOfRange,
    Partition,
    Record,
    RecordTooLarge,
    TopicMissing,
)
from consumers.broker.consumer import SESSION_TIMEOUT_MS, Consumer
from consumers.broker.producer import RECORD_MAX_BYTES, Landed, Producer
from consumers.broker.topics import ensure_topics, read_cluster_id

__all__ = [
    "DEFAULT_TIMEOUT_SECONDS",
    "RECORD_MAX_BYTES",
    "SESSION_TIMEOUT_MS",
    "BrokerError",
    "BrokerUnavailable",
    "Consumer",
    "Headers",
    "Landed",
    "OffsetOutOfRange",
    "Partition",
    "Producer",
    "Record",
    "RecordTooLarge",
    "TopicMissing",
    "ensure_topics",
    "read_cluster_id",
]
