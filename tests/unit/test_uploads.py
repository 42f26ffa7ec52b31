"""CSV files as people write them, and what they would change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.events import decode, encode
from service.uploads import rows as rows_of
from service.uploads import sheet
from service.uploads.columns import ACCOUNT_COLUMNS, PEOPLE_COLUMNS, Columns, match
from service.uploads.plan import Planned, Stored, plan_accounts, plan_people
from service.uploads.rows import Refused, Row
from service.uploads.sheet import SheetFault, guarded, read, unguarded, written

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def accounts(text: str | bytes, stored: dict[str, Stored] | None = None) -> Planned:
    found = read(text.encode() if isinstance(text, str) else text)
    columns = match(found, ACCOUNT_COLUMNS, "account_id")
    return plan_accounts(rows_of.accounts(found, columns), columns, stored or {}, NOW)


def people(text: str, stored: dict[str, dict[str, Any]] | None = None) -> Planned:
    found = read(text.encode())
    columns = match(found, PEOPLE_COLUMNS, "person_id")
    return plan_people(rows_of.people(found, columns), columns, stored or {})


def changes(planned: Planned) -> dict[str, dict[str, tuple[Any, Any]]]:
    return {entry.key: {each.field: (each.old, each.new) for each in entry.changes} for entry in planned.entries}


JAPANESE = (
    'アカウントID,会社名,月額,通貨,契約更新日,契約状態,席数\nacme,青葉ソフト,"¥380,000",jpy,2026/9/30,契約中,２５\n'
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp932", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_encodings_separators_and_japanese_headers(encoding: str, separator: str) -> None:
    text = JAPANESE.replace('"¥380,000"', '"¥380000"').replace(",", separator) if separator != "," else JAPANESE
    text = text.replace("¥", "") if encoding == "cp932" else text
    planned = accounts(text.encode(encoding))
    assert changes(planned) == {
        "acme": {
            "name": (None, "青葉ソフト"), "mrr": (None, 380_000), "currency": (None, "JPY"),
            "renewal_on": (None, "2026-09-30"), "status": (None, "active"), "seats": (None, 25),
        }
    }  # fmt: skip
    assert planned.plan.unused_columns == ()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"PK\x03\x04\x00\x00", "not text"),
        (b"\x81 ,\n", "not text"),
        (b"name,plan\nAcme,Pro\n", "account_id is missing"),
        ("会社ID,顧客ID\n1,2\n".encode(), "both mean account_id"),
        (b"account_id," + b",".join(b"c%d" % n for n in range(120)) + b"\n", "more than 100 columns"),
        (b"account_id\n" + b"".join(b"a%d\n" % n for n in range(10_001)), "more than 10,000 rows"),
        (b'account_id\n"' + b"x" * 200_000 + b'"\n', "not CSV"),
    ],
)
def test_files_that_cannot_be_used(raw: bytes, words: str) -> None:
    with pytest.raises(SheetFault, match=words) as raised:
        accounts(raw)
    assert raised.value.remedy


def test_rows_are_told_by_the_numbers_of_a_spreadsheet() -> None:
    planned = accounts(
        "account_id,mrr,renewal_on,seats,status,currency,extra\n"
        "a,490,2026-09-30,5,active,EUR,\n"
        "\n"
        "b,lots,,,,,\n"
        'c,1,"soon",,,,\n'
        "d,1,,2.5,,,\n"
        "e,1,,,lost,,\n"
        "f,1,,,,EURO,\n"
        ",1,,,,,\n"
        "a,2,,,,,\n"
        "g,1,,,,,x,y\n"
        "..,1,,,,,\n"
    )
    assert [(each.row, each.field) for each in planned.refused] == [
        (4, "mrr"), (5, "renewal_on"), (6, "seats"), (7, "status"), (8, "currency"), (9, "account_id"),
        (10, "account_id"), (11, ""), (12, "account_id"),
    ]  # fmt: skip
    assert all(each.problem and each.remedy for each in planned.refused)
    assert (planned.plan.rows, planned.plan.new, planned.plan.refused) == (10, 1, 9)
    assert [column.column for column in planned.plan.unused_columns] == ["extra"]


def test_a_slip_in_a_header_is_told_with_what_was_meant() -> None:
    planned = accounts("account id,renewal dat,trait:tier,E\nacme,2026-01-01,gold,1\n")
    assert [(each.column, each.nearest) for each in planned.plan.unused_columns] == [
        ("renewal dat", "renewal_on"), ("E", None),
    ]  # fmt: skip
    assert changes(planned) == {"acme": {"tier": (None, "gold")}}


STORED = {
    "acme": Stored(
        values={"name": "Acme", "mrr": 490, "seats": 5, "plan": "Pro", "vip": True},
        keys={"name": "a:1", "mrr": "a:1", "seats": "a:1", "plan": "a:2", "vip": "a:1"},
    ),
    "bare": Stored(),
}


def test_new_changed_unchanged() -> None:
    text = "account_id,name,mrr,seats,plan,trait:vip\nacme,Acme,490.0,6,NULL,1\nbare,,,,,\nnew,,,,,\nother,Other,,,,\n"
    planned = accounts(text, STORED)
    assert changes(planned) == {
        "acme": {"seats": (5, 6), "plan": ("Pro", None), "vip": (True, "1")}, "new": {},
        "other": {"name": (None, "Other")},
    }  # fmt: skip
    assert (planned.plan.new, planned.plan.changed, planned.plan.unchanged) == (2, 1, 1)
    events = {event.account_id: event.traits for event in planned.events}
    assert events == {"acme": {"seats": 6, "plan": None, "vip": "1"}, "new": {}, "other": {"name": "Other"}}
    for event in planned.events:
        assert decode(encode(event)) == event


def test_the_same_file_twice_is_the_same_events_until_somebody_else_changes_the_account() -> None:
    text = "account_id,plan\nacme,Basic\n"
    first, again = accounts(text, STORED), accounts(text, STORED)
    assert [event.event_id for event in first.events] == [event.event_id for event in again.events]
    assert first.plan.hash == again.plan.hash
    applied = {"acme": Stored(values={"plan": "Basic"}, keys={"plan": "upload:x"})}
    assert accounts(text, applied).events == ()
    back = {"acme": Stored(values={"plan": "Pro"}, keys={"plan": "crm:9"})}
    later = accounts(text, back)
    assert later.events[0].event_id != first.events[0].event_id
    assert later.plan.hash != first.plan.hash


def test_a_plan_is_another_when_what_is_stored_is() -> None:
    text = "account_id,plan\nacme,Basic\n"
    moved = {"acme": Stored(values={"plan": "Gold"}, keys={"plan": "a:2"})}
    assert accounts(text, STORED).plan.hash != accounts(text, moved).plan.hash
    assert accounts(text, STORED).plan.hash != accounts(text + "x\n", STORED).plan.hash


MINA = {
    "name": "Mina", "email": "mina@example.com", "slack_id": None, "language": "ja", "timezone": "Asia/Tokyo",
    "role": "csm", "manager": None, "stand_in": None,
}  # fmt: skip


def test_people() -> None:
    text = (
        "担当者ID,氏名,メールアドレス,言語,役割,上司,代理\n"
        "mina,,,英語,,ken,\n"
        "ken,Ken Ito,ken@example.com,日本語,マネージャー,,mina\n"
        "tom,,,,,,\n"
        "ana,Ana,not-mail,,,,\n"
        "bob,Bob,,,,nobody,\n"
        "eve,Eve,,,,,eve\n"
    )
    planned = people(text, {"mina": MINA})
    found = changes(planned)
    assert found["mina"] == {"language": ("ja", "en"), "manager": (None, "ken")}
    assert found["ken"]["role"] == (None, "manager")
    assert planned.people["mina"]["email"] == "mina@example.com"
    assert [(each.row, each.field) for each in planned.refused] == [
        (4, "name"), (5, "email"), (6, "manager"), (7, "stand_in"),
    ]  # fmt: skip
    unchanged = people("person_id,name\nmina,Mina\n", {"mina": MINA})
    assert (unchanged.plan.unchanged, unchanged.people) == (1, {})
    taken = people("person_id,email,name\nmina,NULL,NULL\n", {"mina": MINA})
    assert [each.field for each in taken.refused] == ["name"]
    assert changes(people("person_id,email\nmina,NULL\n", {"mina": MINA})) == {
        "mina": {"email": ("mina@example.com", None)}
    }


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
def test_no_cell_is_a_formula_on_its_way_out_and_all_come_back(text: str) -> None:
    out = guarded(text)
    assert not out.startswith(("=", "+", "-", "@", "\t", "\r"))
    if not text.startswith("'"):
        assert unguarded(out) == text


def test_written_files_are_read_again() -> None:
    raw = written([("account_id", "name"), ("=1+1", '@x "y", z')])
    assert b"'=1+1" in raw
    found = read(raw)
    assert found.header == ("account_id", "name")
    assert found.lines[0].cells == ("=1+1", '@x "y", z')


@given(st.binary(max_size=200))
def test_any_bytes_are_a_sheet_or_a_fault(raw: bytes) -> None:
    try:
        found = read(b"account_id,name\n" + raw)
    except SheetFault:
        return
    columns = Columns(fields=("account_id", "name"), unused=())
    for row in rows_of.accounts(found, columns) if len(found.header) == 2 else ():
        assert isinstance(row, Row | Refused)
        if isinstance(row, Row):
            msgspec.json.encode(row.values)


def test_the_limits_are_told() -> None:
    assert (sheet.MAX_ROWS, sheet.MAX_COLUMNS) == (10_000, 100)
