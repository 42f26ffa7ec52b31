"""What a mapping may say, and what rows become by it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest

from consumers.backfill import Mapping, json_schema, load
from consumers.backfill.convert import Refused, canonical, mapped, not_later_than, shifted
from consumers.backfill.history import shift_to
from consumers.backfill.values import TemplateFault, Unfit, as_boolean, as_day, as_instant, as_number, parse
from consumers.events import Event, Group, Subscription, Usage
from health.yamlfile import FileError

NOW = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)
USAGE = {"kind": "usage", "event_id": "{id}:{day}", "account_id": "{id}", "timestamp": "{day}", "feature": "report"}


def events(row: dict[str, Any], *wanted: dict[str, Any], **top: Any) -> tuple[Event, ...]:
    settings = {"timezone": "UTC", "time_of_day": "12:00", **top}
    mapping = Mapping.model_validate({**settings, "files": [{"match": "*", "events": list(wanted)}]})
    return mapped(mapping, mapping.files[0], "shop")(row)


def refusal(row: dict[str, Any], *wanted: dict[str, Any], **top: Any) -> list[tuple[str, str]]:
    with pytest.raises(Refused) as caught:
        events(row, *wanted, **top)
    return [(problem.field, problem.problem) for problem in caught.value.problems]


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    with pytest.raises(FileError) as caught:
        load(path)
    return [str(problem) for problem in caught.value.problems]


def test_constants_columns_and_composed_ids() -> None:
    (event,) = events({"id": "acme", "day": "2026-04-01", "n": " 12 "}, {**USAGE, "quantity": "{n}", "user_id": "{u}"})
    assert event == Usage(
        event_id="acme:2026-04-01", account_id="acme", timestamp=datetime(2026, 4, 1, 12, tzinfo=UTC), source="shop",
        feature="report", quantity=12,
    )  # fmt: skip


def test_a_row_becomes_the_events_whose_conditions_hold() -> None:
    ended = {
        "kind": "subscription", "event_id": "{id}:ended", "account_id": "{id}", "timestamp": "{gone}",
        "change": "ended", "when": {"gone": {"present": True}, "plan": {"one_of": ["pro", "team"]}},
    }  # fmt: skip
    row = {"id": "a", "day": "2026-04-01", "gone": "2026-04-03", "plan": "pro"}
    assert [type(event) for event in events(row, USAGE, ended)] == [Usage, Subscription]
    assert [type(event) for event in events({**row, "gone": ""}, USAGE, ended)] == [Usage]
    assert events({**row, "plan": "free"}, ended) == ()
    assert events({**row, "n": 3}, {**USAGE, "when": {"n": {"equals": "3"}, "x": {"present": False}}})


def test_traits_are_typed_and_empty_cells_leave_them_out() -> None:
    group = {
        "kind": "group", "event_id": "{id}:g", "account_id": "{id}", "timestamp": "{day}",
        "traits": {"name": "{name}", "mrr": "{mrr}", "seats": "{seats}", "renewal_on": "{end:%d/%m/%Y}", "tier": "gold",
                   "beta": "{beta:boolean}", "started_at": "{day}", "note": "{none}"},
    }  # fmt: skip
    row = {"id": "a", "day": "2026-04-01", "name": "Ümläut, Inc", "mrr": "99.50", "seats": "10", "end": "31/12/2026",
           "beta": "yes", "none": ""}  # fmt: skip
    (event,) = events(row, group)
    assert isinstance(event, Group)
    assert event.traits == {
        "name": "Ümläut, Inc", "mrr": 99.5, "seats": 10, "renewal_on": "2026-12-31", "tier": "gold", "beta": True,
        "started_at": "2026-04-01",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": "a", "day": "2026-04-01", "n": "many"}, ("quantity", "column n is not a number: 'many'")),
        ({"id": "", "day": "2026-04-01", "n": "1"}, ("event_id", "is missing")),
        ({"id": "a", "day": "", "n": "1"}, ("event_id", "is missing")),
        ({"id": "a", "day": "yesterday", "n": "1"}, ("timestamp", "column day is not a time: 'yesterday'")),
        ({"id": "a", "day": "2026-04-01", "n": "-3"}, ("quantity", "is less than 0.0")),
        ({"id": "a\x00b", "day": "2026-04-01", "n": "1"}, ("event_id", "has the character U+0000")),
        ({"id": "a\udcff", "day": "2026-04-01", "n": "1"}, ("event_id", "has bytes that are not text")),
    ],
)
def test_a_bad_cell_refuses_the_row_with_field_and_problem(row: dict[str, Any], expected: tuple[str, str]) -> None:
    found = refusal(row, {**USAGE, "quantity": "{n}"})
    assert expected[0] in {field for field, _ in found}
    assert any(problem.startswith(expected[1][:14]) for _, problem in found)


def test_one_bad_event_refuses_the_whole_row() -> None:
    bad = {**USAGE, "event_id": "{id}:2", "quantity": "{n}"}
    assert refusal({"id": "a", "day": "2026-04-01", "n": "x"}, USAGE, bad)


def test_a_date_needs_a_time_of_day_and_a_local_time_a_zone() -> None:
    row = {"id": "a", "day": "2026-04-01"}
    assert refusal(row, USAGE, time_of_day=None) == [("timestamp", "column day is a date without a time: '2026-04-01'")]
    assert refusal({**row, "day": "2026-04-01 08:00"}, USAGE, timezone=None)[0][0] == "timestamp"
    (event,) = events({**row, "day": "2026-04-01T08:00:00"}, {**USAGE, "timezone": "Asia/Tokyo"})
    assert event.timestamp == datetime(2026, 3, 31, 23, tzinfo=UTC)
    (event,) = events(row, {**USAGE, "time_of_day": "23:59", "timezone": "Asia/Tokyo"})
    assert event.timestamp == datetime(2026, 4, 1, 14, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("template", "cell"),
    [("{t:epoch_s}", "1775046600"), ("{t:epoch_ms}", 1775046600000), ("{t:%d.%m.%Y %H:%M}", "01.04.2026 12:30"),
     ("{t}", datetime(2026, 4, 1, 12, 30, tzinfo=UTC)), ("{t}", datetime(2026, 4, 1, 12, 30)),  # noqa: DTZ001
     ("{t}", "2026-04-01T12:30:00Z"), ("{t}T12:30:00Z", "2026-04-01")],
)  # fmt: skip
def test_times_come_in_many_forms(template: str, cell: object) -> None:
    (event,) = events({"id": "a", "day": "x", "t": cell}, {**USAGE, "timestamp": template})
    assert event.timestamp == datetime(2026, 4, 1, 12, 30, tzinfo=UTC)


def test_cells_of_parquet_keep_their_types() -> None:
    row = {"id": 42, "day": date(2026, 4, 1), "n": Decimal("2.5")}
    (event,) = events(row, {**USAGE, "quantity": "{n}"})
    assert isinstance(event, Usage)
    assert (event.account_id, event.event_id, event.quantity) == ("42", "42:2026-04-01", 2.5)


def test_json_reaches_into_objects() -> None:
    row = {"user": {"id": "u1"}, "id": "a", "day": "2026-04-01"}
    (event,) = events(row, {**USAGE, "user_id": "{user.id}"})
    assert event.user_id == "u1"
    assert refusal(row, {**USAGE, "user_id": "{user}"})[0][0] == "user_id"


def test_shifting_moves_instants_and_days_alike() -> None:
    mapping = Mapping.model_validate({"timezone": "UTC", "time_of_day": "12:00", "files": [{"match": "*", "events": [
        {"kind": "group", "event_id": "g", "account_id": "{id}", "timestamp": "{day}",
         "traits": {"renewal_on": "{day}", "started_at": "{day}", "name": "{day}"}},
        {"kind": "subscription", "event_id": "s", "account_id": "{id}", "timestamp": "{day}", "change": "renewed",
         "renewal_on": "{day}"}]}]})  # fmt: skip
    move = shifted(mapped(mapping, mapping.files[0], "x"), timedelta(days=366))
    group, subscription = move({"id": "a", "day": "2024-01-01"})
    assert isinstance(group, Group)
    assert isinstance(subscription, Subscription)
    assert group.timestamp == subscription.timestamp == datetime(2025, 1, 1, 12, tzinfo=UTC)
    assert group.traits == {"renewal_on": "2025-01-01", "started_at": "2025-01-01", "name": "2024-01-01"}
    assert subscription.renewal_on == date(2025, 1, 1)
    with pytest.raises(Refused, match="out of range"):
        shifted(mapped(mapping, mapping.files[0], "x"), timedelta(days=3_000_000))({"id": "a", "day": "2024-01-01"})


@pytest.mark.parametrize("before", [0, 1, -3 * 3600, 900 * 86400])
def test_the_newest_event_lands_on_the_last_instant_not_after_now(before: int) -> None:
    newest = NOW - timedelta(seconds=before)
    shift = shift_to(newest, NOW)
    assert shift % timedelta(days=1) == timedelta(0)
    assert newest + shift <= NOW < newest + shift + timedelta(days=1)


def test_the_future_is_refused_against_the_start_of_the_import() -> None:
    convert = not_later_than(canonical(None), NOW, timedelta(minutes=5))
    line = b'{"kind":"login","event_id":"e","account_id":"a","timestamp":"%s"}'
    assert convert(line % b"2026-05-01T09:35:00Z")
    with pytest.raises(Refused, match="future"):
        convert(line % b"2026-05-01T09:35:01Z")


def test_canonical_lines_lose_another_import_s_number_and_get_the_source() -> None:
    line = (b'{"kind":"login","event_id":"e","account_id":"a","timestamp":"2026-04-01T00:00:00Z","import_id":"x",'
            b'"import_row":3,"received_at":"2026-04-02T00:00:00Z"}')  # fmt: skip
    (event,) = canonical("crm")(line)
    assert (event.source, event.import_id, event.import_row, event.received_at) == ("crm", None, None, None)
    with pytest.raises(Refused):
        canonical(None)(b"{")


@pytest.mark.parametrize("text", ["{a", "a}", "{}", "{a:unknown}", "{a{b}}"])
def test_templates_that_cannot_be_read(text: str) -> None:
    with pytest.raises(TemplateFault):
        parse(text)


def test_braces_can_be_written() -> None:
    assert parse("{{{a}}}").getter("text")({"a": "x"}) == "{x}"


@pytest.mark.parametrize("value", ["1,234", "12 EUR", "nan", "inf", "", True, "١٢x"])
def test_numbers_that_are_none(value: object) -> None:
    with pytest.raises(Unfit):
        as_number(value)


def test_numbers_days_and_truth() -> None:
    assert [as_number(value) for value in ("7", "-1.5", 2.0, Decimal(3), "1e3")] == [7, -1.5, 2, 3, 1000]
    assert as_day("2026-04-01T23:00:00Z") == date(2026, 4, 1)
    assert [as_boolean(value) for value in ("Yes", "0", True)] == [True, False, True]
    assert as_instant("2026-04-01", time(8), ZoneInfo("Europe/Berlin")) == datetime(2026, 4, 1, 6, tzinfo=UTC)


def test_problems_name_line_column_and_what_was_meant(tmp_path: Path) -> None:
    text = """source: bad source
timezone: Europe/Nowhere
files:
  - match: "*.csv"
    events:
      - kind: usage
        event_id: constant
        account_id: "{id"
        timestamp: "{day}"
        time_of_day: noon
        feature: report
        quantty: 3
      - kind: subscription
        event_id: "{id}"
        account_id: "{id}"
        timestamp: "{day}"
        change: startd
      - kind: survey
        event_id: "{id}"
        account_id: "{id}"
        timestamp: "{day}"
        survey: nps
        traits: {a: [1]}
"""
    found = problems(tmp_path, text.replace("bad source", "crm"))
    for expected in (
        "mapping.yaml:2:1: there is no time zone 'Europe/Nowhere'",
        "mapping.yaml:7:9: event_id is the same for every row",
        "mapping.yaml:8:9: a single {",
        "mapping.yaml:10:9: time_of_day is written 12:00",
        "mapping.yaml:12:9: usage has no field quantty (did you mean quantity?)",
        "mapping.yaml:17:9: change is one of",
        "(did you mean started?)",
        "mapping.yaml:18:9: survey needs survey_id",
        "mapping.yaml:23:9: only identify and group have traits",
        "mapping.yaml:23:18: a is a constant",
    ):
        assert any(expected in line for line in found), (expected, found)
    assert any(":1:1: source" in line for line in problems(tmp_path, text))


def test_misspelt_keys_and_kinds(tmp_path: Path) -> None:
    found = problems(tmp_path, "files:\n  - match: a\n    formt: csv\n    events:\n      - kind: usge\n")
    assert any("a.yaml" not in line and "3:5" in line and "format" in line for line in found)
    assert any(line.startswith("mapping.yaml:5:9") and "usage" in line for line in found)


def test_the_example_fits_the_schema_and_loads(root: Path) -> None:
    import yaml

    path = root / "docs" / "examples" / "oulad-mapping.yaml"
    mapping = load(path)
    assert mapping.for_file("activity-2013.csv.gz") is mapping.files[1]
    jsonschema.validate(yaml.safe_load(path.read_text()), json_schema())
    wrong = yaml.safe_load(path.read_text())
    wrong["files"][1]["events"][0]["quantty"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, json_schema())


def test_the_published_schema_is_the_code_s(root: Path) -> None:
    published = json.loads((root / "docs" / "backfill-mapping.schema.json").read_text())
    assert published == json_schema(), "run `kizashi backfill --mapping-schema > docs/backfill-mapping.schema.json`"
