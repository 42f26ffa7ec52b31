"""``rules/sources.yaml``: what it may say, what it does, and how its faults are told."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from consumers.formats.canonical import Limits
from consumers.formats.items import Item
from consumers.formats.vendors import TRANSLATE
from consumers.sources import Source, Sources, Topic, json_schema, load, schema_text
from health.yamlfile import FileError

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
T = "2026-05-01T09:00:00Z"

FILE = """
sources:
  default:
    group_type: workspace
  web-app:
    format: segment
    account: [context.groupId, properties.space.id]
    traits: {tier: plan, arr_monthly: mrr}
    events:
      - match: [Heartbeat, "Debug *"]
        kind: ignore
      - match: "Onboarding Completed"
        kind: milestone
        milestone: onboarded
      - match: "* Exported"
        kind: usage
        feature: export
        from: {quantity: properties.rows}
      - match: Ticket Changed
        kind: ticket
        status: open
        from: {ticket_id: properties.id, priority: "properties.tags[0]"}
      - match: "page: Pricing"
        kind: custom
        name: looked at prices
      - match: Company Updated
        kind: group
        from: {traits: properties.company}
topics:
  - {topic: segment.events, source: web-app, format: segment}
  - {topic: other, source: other}
"""


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    (tmp_path / "sources.yaml").write_text(FILE)
    return load(tmp_path / "sources.yaml")


def item(source: Source, **fields: Any) -> Item:
    document = {
        "type": "track", "messageId": "m", "userId": "u", "timestamp": T, "context": {"groupId": "acme"}, **fields,
    }  # fmt: skip
    [found] = TRANSLATE["segment"](document, call="", source=source, now=NOW, limits=Limits()).items
    return found


def event(source: Source, called: str, **fields: Any) -> Any:
    """Some kind of event; tests say which by its fields."""
    found = item(source, event=called, **fields)
    assert found.error is None, found.error
    return found.events[0]


def test_events_become_what_is_agreed(sources: Sources) -> None:
    web = sources.of("web-app")
    assert (web.name, web.format) == ("web-app", "segment")
    assert item(web, event="heartbeat").ignored == item(web, event="Debug me").ignored == "by rule"
    assert event(web, "Onboarding Completed").milestone == "onboarded"
    exported = event(web, "Report Exported", properties={"rows": "12"})
    assert (exported.kind, exported.feature, exported.quantity) == ("usage", "export", 12)
    assert event(web, "Report Exported").quantity == 1, "no such property"
    ticket = event(web, "Ticket Changed", properties={"id": 7, "tags": ["high"]})
    assert (ticket.ticket_id, ticket.priority) == ("7", "high")
    looked = event(web, "", type="page", name="Pricing", properties={"a": 1})
    assert (looked.kind, looked.name, looked.properties) == ("custom", "looked at prices", {"a": 1})
    group = event(web, "Company Updated", properties={"company": {"tier": "pro", "arr_monthly": "9"}})
    assert group.traits == {"plan": "pro", "mrr": 9}
    assert event(web, "Anything").kind == "usage"


def test_a_field_that_does_not_fit_is_told_with_its_place(sources: Sources) -> None:
    web = sources.of("web-app")
    error = item(web, event="Report Exported", properties={"rows": "many"}).error
    assert error is not None
    assert error.problems[0].field == "quantity (properties.rows)"
    missing = item(web, event="Ticket Changed", properties={}).error
    assert missing is not None
    assert [problem.field for problem in missing.problems] == ["ticket_id"]


def test_accounts_stand_where_the_source_says(sources: Sources) -> None:
    web = sources.of("web-app")
    assert event(web, "x", context={}, properties={"space": {"id": 5}}).account_id == "5"
    assert event(web, "x", context={}, properties={"account_id": "no"}).account_id == ""
    unnamed = sources.of("nobody")
    assert unnamed.name == "nobody"
    assert unnamed.group_types == ("workspace",)
    assert event(unnamed, "x", context={"groups": {"account": "no", "workspace": "w"}}).account_id == "w"


def test_topics(sources: Sources) -> None:
    assert sources.topics == (
        Topic(topic="segment.events", source="web-app", format="segment"),
        Topic(topic="other", source="other"),
    )


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    found = load(tmp_path / "sources.yaml")
    assert found.topics == ()
    assert found.of("x").name == "x"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("sources: {a: {formt: segment}}", 1, "did you mean format"),
        ("sources:\n  a: {format: segmnt}", 2, "did you mean segment"),
        ("sources:\n  a:\n    account: ['a[']", 3, "is not JMESPath"),
        ("sources:\n  a:\n    traits: {x: plam}", 3, "did you mean plan"),
        ("sources:\n  a:\n    events:\n      - {match: x, kind: usage, featur: y}", 4, "did you mean feature"),
        ("sources:\n  a:\n    events:\n      - {match: x, kind: ticket, status: open}", 4, "ticket needs ticket_id"),
        ("sources:\n  a:\n    events:\n      - {match: x, kind: ticket, ticket_id: t, status: opened}", 4,
         "did you mean open"),
        ("sources:\n  a:\n    events:\n      - {match: x, kind: usage, from: {quantiti: a}}", 4,
         "did you mean quantity"),
        ("sources:\n  a:\n    events:\n      - {match: x, kind: usage, from: {quantity: 'a b'}}", 4, "not JMESPath"),
        ("sources:\n  a:\n    events:\n      - {match: x, kind: usage, feature: y, from: {feature: a}}", 4,
         "given twice"),
        ("sources:\n  a:\n    events:\n      - {match: x, kind: group, traits: y}", 4, "give traits in `from`"),
        ("topics: [{topic: a, source: b}, {topic: a, source: c}]", 1, "named twice"),
        ("topics: [{topic: 'a b', source: b}]", 1, "topic"),
    ],
)  # fmt: skip
def test_faults_are_told_with_their_place(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(text)
    with pytest.raises(FileError) as refusal:
        load(path)
    assert any(problem.line == line and words in str(problem) for problem in refusal.value.problems), str(refusal.value)


def test_a_path_on_anything_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text("sources: {a: {account: ['sum(properties.x)', 'to_number(properties.x)']}}")
    source = load(path).of("a")
    found = item(source, event="x", properties={"x": "no list"})
    assert found.error is not None
    assert "cannot be computed" in str(found.error)


def test_the_shipped_file_its_schema_and_its_example() -> None:
    assert (ROOT / "rules/sources.schema.json").read_text(encoding="utf-8") == schema_text(), (
        "run python -m consumers.sources"
    )
    jsonschema.Draft202012Validator.check_schema(json_schema())
    shipped = (ROOT / "rules/sources.yaml").read_text(encoding="utf-8")
    assert load(ROOT / "rules/sources.yaml") == Sources()
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    for document in (yaml.safe_load(_example()), yaml.safe_load(shipped), yaml.safe_load(FILE)):
        assert [str(fault) for fault in validator.iter_errors(document)] == []
    wrong = {"sources": {"a": {"events": [{"match": "x", "kind": "usage", "featur": "y"}]}}}
    assert list(validator.iter_errors(wrong))


def _example() -> str:
    """What the shipped file shows in its comments."""
    lines = (ROOT / "rules/sources.yaml").read_text(encoding="utf-8").splitlines()
    shown = lines[lines.index("# sources:") : lines.index("sources: {}")]
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in shown)


def test_the_example_of_the_shipped_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(_example())
    found = load(path)
    assert found.of("web-app").group_types == ("workspace",)
    assert [topic.topic for topic in found.topics] == ["segment.events"]
