"""Writes the AsyncAPI 3 document of the topics: ``python -m consumers.asyncapi docs/asyncapi.json``. A test compares.

The schemas are those of the decoder (``consumers/events.py``); foreign formats are described as far as they are read.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

from consumers.events import KINDS, json_schema
from consumers.formats.segment import CALLS

EVENTS_TOPIC: Final = "kizashi.events"
DRAFT: Final = "application/schema+json;version=draft-2020-12"
BINDING: Final = "0.5.0"
ID: Final[dict[str, Any]] = {"type": ["string", "number", "null"]}
OBJECT: Final[dict[str, Any]] = {"type": ["object", "null"]}
TIME: Final[dict[str, Any]] = {
    "type": ["string", "number", "null"],
    "description": "ISO 8601, or seconds or ms since 1970",
}


def document() -> dict[str, Any]:
    """AsyncAPI 3.0.0."""
    messages = {"event": _event(), **_foreign()}
    foreign = [name for name in messages if name != "event"]
    return {
        "asyncapi": "3.0.0",
        "id": "urn:kizashi:topics",
        "info": {
            "title": "Kizashi topics",
            "version": "1.0.0",
            "description": "The topics that Kizashi reads. Keys are account ids, so that an account has one partition.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "localhost:9092",
                "protocol": "kafka",
                "description": "KIZASHI_KAFKA_BOOTSTRAP",
            }
        },
        "channels": {
            "events": {
                "address": EVENTS_TOPIC,
                "title": "Events",
                "description": "Our own form; KIZASHI_EVENTS_TOPICS names others. Read by the role "
                "`consumer`, at least once, applied once.",
                "servers": [{"$ref": "#/servers/kafka"}],
                "messages": {"event": {"$ref": "#/components/messages/event"}},
                "bindings": {"kafka": {"topic": EVENTS_TOPIC, "partitions": 32, "bindingVersion": BINDING}},
            },
            "foreign": {
                "address": "{topic}",
                "title": "Topics in foreign formats",
                "description": "Those that rules/sources.yaml lists. Read by the role `relay`, which writes events.",
                "servers": [{"$ref": "#/servers/kafka"}],
                "parameters": {"topic": {"description": "Name of the topic, from `topics` of rules/sources.yaml"}},
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in (*foreign, "event")},
            },
        },
        "operations": {
            "readEvents": _operation("receive", "events", ["event"], "The role `consumer` folds events into facts"),
            "writeEvents": _operation("send", "events", ["event"], "The doors and the relay write what they took"),
            "readForeign": _operation("receive", "foreign", [*foreign, "event"], "The role `relay` translates"),
        },
        "components": {"messages": messages, "schemas": _schemas()},
    }


def text() -> str:
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _schemas() -> dict[str, Any]:
    """The event and its parts, which stand beside it: here, a `$ref` counts from the root of the document."""
    moved = json.dumps(json_schema()).replace("#/$defs/", "#/components/schemas/")
    event: dict[str, Any] = json.loads(re.sub(r'"(#/components/schemas/\w+)"', r'"\1/schema"', moved))
    parts = event.pop("$defs")
    return {name: _draft(schema) for name, schema in {"Event": event, **parts}.items()}


def _operation(action: str, channel: str, messages: list[str], summary: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }


def _event() -> dict[str, Any]:
    key = {"type": "string", "description": "account_id in UTF-8; any key works, this one is fast"}
    return {
        "name": "event",
        "title": "An event in our own form",
        "summary": f"One of the kinds {', '.join(KINDS)}",
        "contentType": "application/json",
        "payload": {"$ref": "#/components/schemas/Event"},
        "bindings": {"kafka": {"key": key, "bindingVersion": BINDING}},
        "examples": [{"name": "login", "payload": {
            "kind": "login", "event_id": "5b1f0c2e", "account_id": "acct_42", "user_id": "u_7",
            "timestamp": "2026-05-01T09:30:00Z",
        }}],
    }  # fmt: skip


def _foreign() -> dict[str, Any]:
    call = {"type": {"enum": list(CALLS)}, "messageId": ID, "userId": ID, "groupId": ID, "event": {"type": "string"},
            "timestamp": TIME, "properties": OBJECT, "traits": OBJECT, "context": OBJECT}  # fmt: skip
    posthog = {"event": {"type": "string"}, "uuid": ID, "distinct_id": ID, "timestamp": TIME,
               "properties": {"type": ["object", "string", "null"], "description": "In ClickHouse's rows JSON as text"},
               "data": {"type": "string", "description": "Of the capture topic: the event as JSON"}}  # fmt: skip
    amplitude = {"event_type": {"type": "string"}, "insert_id": ID, "user_id": ID, "time": TIME, "groups": OBJECT,
                 "event_properties": OBJECT, "user_properties": OBJECT, "group_properties": OBJECT}  # fmt: skip
    attributes = {"id": {"type": "string", "minLength": 1}, "source": {"type": "string", "minLength": 1},
                  "specversion": {"const": "1.0"}, "type": {"type": "string", "minLength": 1}, "time": TIME,
                  "subject": {"type": ["string", "null"]}}  # fmt: skip
    needed = ["id", "source", "specversion", "type"]
    headers = _draft({
        "type": "object",
        "properties": {f"ce_{name}": {"type": "string"} for name in attributes},
        "required": [f"ce_{name}" for name in needed],
    })  # fmt: skip
    cloud = _message("cloudevent", "A CloudEvent, structured", {**attributes, "data": OBJECT}, needed)
    return {
        "segment": _message("segment", "A call of Segment or RudderStack", call, ["type"]),
        "posthog": _message("posthog", "An event of PostHog's pipeline", posthog, []),
        "amplitude": _message("amplitude", "An event of Amplitude", amplitude, ["event_type"]),
        "cloudevent": {**cloud, "contentType": "application/cloudevents+json"},
        "cloudeventBinary": {
            **_message("cloudeventBinary", "A CloudEvent, binary: its attributes are headers", {}, []),
            "headers": headers,
        },
    }


def _message(name: str, title: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return {"name": name, "title": title, "contentType": "application/json", "payload": _draft(schema)}


def _draft(schema: dict[str, Any]) -> dict[str, Any]:
    return {"schemaFormat": DRAFT, "schema": schema}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")
