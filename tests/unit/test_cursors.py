"""Cursors come back as they went, and nothing else is taken for one."""

from __future__ import annotations

import base64
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.queries import cursors
from service.queries.cursors import BadCursorError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1)
VALUES: dict[type, st.SearchStrategy[Any]] = {
    float: st.floats(allow_nan=False, allow_infinity=False),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**13), max_value=10**13),
    datetime: st.datetimes(timezones=st.just(UTC)),
    date: st.dates(),
}


@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data(), row_id=TEXT)
def test_a_cursor_comes_back_as_it_went(kind: type, data: st.DataObject, row_id: str) -> None:
    value = data.draw(st.none() | VALUES[kind])
    cursor = cursors.encode("list:order", value, row_id)
    assert cursors.decode(cursor, "list:order", kind) == (value, row_id)
    with pytest.raises(BadCursorError):
        cursors.decode(cursor, "list:another", kind)


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
@example("W" * 3000)
@example(base64.urlsafe_b64encode(b"[" * 1000).decode())
def test_anything_else_is_refused(text: str) -> None:
    for kind in VALUES:
        with pytest.raises(BadCursorError):
            cursors.decode(text, "list:order", kind)


@pytest.mark.parametrize(
    "content",
    [
        ["s", "float", "1.0", "a"],
        ["s", "datetime", 10**18, "a"],
        ["s", "datetime", 10**30, "a"],
        ["s", "decimal", "NaN", "a"],
        ["s", "decimal", "1e999999999", "a"],
        ["s", "date", "0000-00-00", "a"],
        ["s", "none", None, "a\x00"],
        ["s", "none", None, 7],
        ["s", "none", None],
        {"s": 1},
    ],
)
def test_forged_content_is_refused(content: Any) -> None:
    cursor = base64.urlsafe_b64encode(msgspec.json.encode(content)).rstrip(b"=").decode()
    for kind in VALUES:
        with pytest.raises(BadCursorError):
            cursors.decode(cursor, "s", kind)
