"""One Kafka request that aiokafka lacks: metadata version 12, whose answer carries topic ids.

A topic that is deleted and made again keeps its name and gets a new id, so that a stored
offset can be told to be of another log.
"""

from typing import Any, cast
from uuid import UUID

import msgspec
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

METADATA_KEY = 3
NO_ID = UUID(int=0)


class _Uuid:
    """16 bytes; the protocol's type of that name, absent from aiokafka."""

    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: Any) -> UUID:
        return UUID(bytes=data.read(16))

    @classmethod
    def repr(cls, value: UUID) -> str:
        return str(value)


class _MetadataResponseV12(Response):  # type: ignore[misc]
    API_KEY = METADATA_KEY
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _MetadataRequestV12(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = METADATA_KEY
    API_VERSION = 12
    RESPONSE_TYPE = _MetadataResponseV12
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataRequestV12]):  # type: ignore[misc]
    API_KEY = METADATA_KEY

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_MetadataRequestV12]) -> _MetadataRequestV12:
        # Asking must never create: some brokers make a topic that is merely named.
        return request_struct_class([(NO_ID, topic, {}) for topic in self._topics], False, False, {})


class TopicMark(msgspec.Struct, frozen=True):
    """What tells a topic from another of its name; None where the broker is too old to say, or has no such topic."""

    id: str | None = None
    partitions: int | None = None

    def differs(self, other: "TopicMark") -> bool:
        """Whether both say something, and not the same."""
        pairs = ((self.id, other.id), (self.partitions, other.partitions))
        return any(ours is not None and theirs is not None and ours != theirs for ours, theirs in pairs)


async def read_topic_marks(client: AIOKafkaClient, topics: list[str]) -> dict[str, TopicMark]:
    """One for each of ``topics``."""
    marks = dict.fromkeys(topics, TopicMark())
    try:
        answer = cast("Any", await client.send(client.get_random_node(), _MetadataRequest(topics)))
    except (IncompatibleBrokerVersion, NotImplementedError):
        return marks
    for error_code, topic, topic_id, _, partitions, *_ in answer.topics:
        if error_code == 0:
            marks[topic] = TopicMark(str(topic_id) if topic_id != NO_ID else None, len(partitions))
    return marks
