"""docs/asyncapi.json is what the code says, and is a sound AsyncAPI 3 document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from consumers.asyncapi import document, text
from consumers.events import KINDS, json_schema
from consumers.formats.sniff import sniff
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = document()


def resolved(reference: str) -> Any:
    found: Any = DOCUMENT
    assert reference.startswith("#/")
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def validator(schema: Any) -> Any:
    """Of a schema whose references count from the root of the document."""
    registry = Registry().with_resource("doc:", DRAFT202012.create_resource(DOCUMENT))
    based = json.loads(json.dumps(schema).replace('"$ref": "#/', '"$ref": "doc:#/'))
    return jsonschema.Draft202012Validator(based, registry=registry)


def test_it_is_the_one_of_the_code() -> None:
    published = (ROOT / "docs/asyncapi.json").read_text(encoding="utf-8")
    assert published == text(), "run `python -m consumers.asyncapi docs/asyncapi.json`"


def test_every_reference_leads_somewhere() -> None:
    found = list(references(DOCUMENT))
    assert len(found) > 20
    for reference in found:
        assert resolved(reference) is not None


def test_the_parts_that_asyncapi_asks_for() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    allowed = {"asyncapi", "id", "info", "defaultContentType", "servers", "channels", "operations", "components"}
    assert DOCUMENT.keys() <= allowed
    for server in DOCUMENT["servers"].values():
        assert {"host", "protocol"} <= server.keys()
    for channel in DOCUMENT["channels"].values():
        assert channel["address"]
        named = set(channel.get("parameters", {}))
        assert {name for name in named if f"{{{name}}}" in channel["address"]} == named
        for message in channel["messages"].values():
            assert message["$ref"].startswith("#/components/messages/")
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = resolved(operation["channel"]["$ref"])
        for message in operation["messages"]:
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/"), "a message of its channel"
            assert resolved(message["$ref"]) in channel["messages"].values()


def test_the_topic_is_the_configured_default() -> None:
    events = DOCUMENT["channels"]["events"]
    settings = Settings.model_fields
    assert settings["events_topics"].default == [events["address"]]
    assert settings["events_partitions"].default == events["bindings"]["kafka"]["partitions"]


def test_the_events_are_those_of_the_schema() -> None:
    event = validator(DOCUMENT["components"]["schemas"]["Event"]["schema"])
    plain = jsonschema.Draft202012Validator(json_schema())
    [example] = DOCUMENT["components"]["messages"]["event"]["examples"]
    good = example["payload"]
    samples = [
        good, {**good, "kind": "usage"}, {**good, "kind": "usage", "feature": "x"}, {**good, "timestamp": "soon"}, {},
        {**good, "kind": "custom", "name": "n", "properties": {"a": {"b": [1]}}},
    ]  # fmt: skip
    for sample in samples:
        assert event.is_valid(sample) == plain.is_valid(sample)
    assert event.is_valid(good)
    names = {schema.lower() for schema in DOCUMENT["components"]["schemas"]}
    assert set(KINDS) <= names


@pytest.mark.parametrize(
    ("message", "sample", "format_"),
    [
        ("segment", {"type": "track", "event": "x", "messageId": "m", "userId": 4, "context": {}}, "segment"),
        ("posthog", {"event": "x", "distinct_id": "u", "uuid": "q", "properties": "{}"}, "posthog"),
        ("amplitude", {"event_type": "x", "user_id": "u", "time": 1, "groups": {"account": "a"}}, "amplitude"),
        ("cloudevent", {"specversion": "1.0", "id": "1", "source": "/", "type": "t", "data": {}}, "cloudevents"),
    ],
)
def test_foreign_messages_are_those_that_are_read(message: str, sample: dict[str, Any], format_: str) -> None:
    schema = DOCUMENT["components"]["messages"][message]["payload"]["schema"]
    assert validator(schema).is_valid(sample)
    assert sniff(sample, {}) == format_
