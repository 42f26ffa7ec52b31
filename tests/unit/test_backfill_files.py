"""Rows of real files, bad ones among them; and the numbers that their events get."""

from __future__ import annotations

import gzip
from collections.abc import Mapping as Mapping_
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.backfill import Counts, FileFault, History, Mapping, Refusal
from consumers.events import Event, Usage

EVENT = {
    "kind": "usage", "event_id": "{id}:{day}", "account_id": "{id}", "timestamp": "{day}", "feature": "report",
    "quantity": "{n}",
}  # fmt: skip
GONE = {**EVENT, "event_id": "{id}:gone", "feature": "gone", "when": {"gone": {"present": True}}}
HEADER = "id,day,n\n"


def mapping(pattern: str = "*", events: Sequence[Mapping_[str, object]] = (EVENT,), **more: object) -> Mapping:
    entry = {"match": pattern, "events": list(events), **more}
    return Mapping.model_validate({"source": "crm", "timezone": "UTC", "time_of_day": "12:00", "files": [entry]})


def read(history: History) -> tuple[list[tuple[Event, ...] | None], Counts, list[Refusal]]:
    counts, refusals = Counts(), list[Refusal]()
    rows = history.rows(counts, shift=timedelta(0), now=None, on_refused=refusals.append)
    return [None if row is None else tuple(row) for row in rows], counts, refusals


def test_csv_with_bad_rows_among_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        b"\xef\xbb\xbfid,day,n\r\n"
        b'"Acme, ""A""\nTokyo",2026-01-01,1\r\n'  # two lines, one row; the break is refused by the event
        b"b,2026-01-01\r\n"
        b"\r\n"
        b'c"d,2026-01-01,3\r\n'
        b'"e"x,2026-01-01,3\r\n'
        b"\xff,2026-01-01,4\r\n"
        b"good,2026-01-01,5\r\n"
    )
    rows, counts, refusals = read(History.of([path], mapping(), None))
    assert [row is None for row in rows] == [True, True, False, True, True, False]
    assert (counts.rows, counts.rows_refused, counts.events) == (6, 4, 2)
    assert [(refusal.row, refusal.line) for refusal in {(r.row, r.line): r for r in refusals}.values()] == [
        (1, 2), (2, 4), (4, 7), (5, 8),
    ]  # fmt: skip
    assert any("has 2 cells, the header has 3" in str(refusal) for refusal in refusals)
    assert str(refusals[-1]).startswith("a.csv row 5 (line 8): ")


def test_an_unclosed_quote_takes_no_more_than_the_reader_s_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + '"open,2026-01-01,1\n' + "b,2026-01-01,1\n" * 20_000)
    rows, counts, _ = read(History.of([path], mapping(), None))
    assert rows[0] is None
    assert counts.events > 8_000


def test_japanese_encoding_and_other_delimiters(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("id;day;n\n東京;2026-01-01;2\n".encode("cp932"))
    rows, _, _ = read(History.of([path], mapping(encoding="cp932", delimiter=";"), None))
    assert rows[0] is not None and rows[0][0].account_id == "東京"
    rows, _, refusals = read(History.of([path], mapping(delimiter=";"), None))
    assert rows == [None]
    assert "not text" in refusals[0].problem


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.ndjson", "a.jsonl.gz", "a.parquet", "a.tsv"])
def test_every_format_gives_the_same_events(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    frame = pl.DataFrame({"id": ["a", "b", "c"], "day": ["2026-01-01", "2026-01-02", ""], "n": [1, 2, 3]})
    text = {
        "csv": frame.write_csv(), "tsv": frame.write_csv(separator="\t"), "ndjson": frame.write_ndjson(),
        "jsonl": frame.write_ndjson(),
    }  # fmt: skip
    if name.endswith("parquet"):
        frame.write_parquet(path)
    else:
        content = text[name.split(".")[1]].encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    history = History.of([path], mapping(), None)
    rows, counts, _ = read(history)
    assert history.rows_total == counts.rows == 3
    assert counts.bytes_read == history.bytes_total == path.stat().st_size
    assert [row and [event.event_id for event in row] for row in rows] == [["a:2026-01-01"], ["b:2026-01-02"], None]


def test_ndjson_of_events_needs_no_mapping(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    good = '{"kind":"login","event_id":"e%d","account_id":"a","timestamp":"2026-01-01T00:00:00Z"}\n'
    path.write_text(good % 1 + "\n{bad\n" + "x" * 3_000_000 + "\n" + good % 2)
    rows, counts, refusals = read(History.of([path], None, "crm"))
    assert [None if row is None else row[0].key for row in rows] == ["crm:e1", None, None, "crm:e2"]
    assert [(refusal.row, refusal.line) for refusal in refusals] == [(2, 3), (3, 4)]
    assert counts.rows == 4


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"id,day,nn\n", "has no column 'n', which events.0.quantity of '*' names (did you mean nn?)"),
        ("a.csv", b"id,day,n,n\n", "has n twice"),
        ("a.csv", b"", "has no column 'id'"),
        ("a.csv.gz", b"not gzip", "cannot be read"),
        ("a.csv.gz", gzip.compress(b"id,day,n\n" + b"a,2026-01-01,1\n" * 9000)[:-30], "cannot be read to its end"),
        ("a.parquet", b"PAR1", "is not Parquet"),
        ("a.xlsx", b"", "its name tells no format"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FileFault) as caught:
        History.of([path], mapping(), None)
    assert says in str(caught.value)


def test_files_must_match_and_must_not_change(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + "a,2026-01-01,1\n")
    with pytest.raises(FileFault, match="matches none"):
        History.of([path], mapping("b*"), None)
    with pytest.raises(FileFault, match="only NDJSON"):
        History.of([path], None, None)
    history = History.of([path], mapping(), None)
    path.write_text(HEADER + "a,2026-01-01,1\nb,2026-01-01,1\n")
    with pytest.raises(FileFault, match="has changed"):
        read(history)


def test_the_import_s_id_follows_contents_mapping_source_and_shift(tmp_path: Path) -> None:
    first, second, copy = (tmp_path / name for name in ("a.csv", "b.csv", "copy.csv"))
    first.write_text(HEADER + "a,2026-01-01,1\n")
    copy.write_text(HEADER + "a,2026-01-01,1\n")
    second.write_text(HEADER + "b,2026-01-01,1\n")

    def named(*paths: Path, source: str | None = None, shift: str = "none", pattern: str = "*") -> str:
        return History.of(paths, mapping(pattern), source).import_id(shift)

    assert named(first, second) == named(copy, second)
    others = {
        named(first, second), named(second, first), named(first), named(first, second, source="x"),
        named(first, second, shift="to-now"), named(first, second, pattern="*.csv"),
    }  # fmt: skip
    assert len(others) == 6


cells = st.sampled_from(["a", "b", "", "\x00"])
rows_of = st.lists(st.tuples(cells, st.sampled_from(["2026-01-01", "no"]), st.sampled_from(["1", "x", ""]),
                             st.sampled_from(["", "y"])), max_size=30)  # fmt: skip


@settings(max_examples=40)
@given(parts=st.lists(rows_of, min_size=1, max_size=3))
def test_numbers_are_the_same_however_files_are_cut(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[tuple[str, str, str, str]]]
) -> None:
    """One file or several, read once or twice: the same events in the same order, the same rows refused."""
    folder = tmp_path_factory.mktemp("cut")
    header = "id,day,n,gone\n"

    def written(name: str, rows: list[tuple[str, str, str, str]]) -> Path:
        path = folder / name
        path.write_text(header + "".join(",".join(row) + "\n" for row in rows))
        return path

    whole = History.of(
        [written("whole.csv", [row for part in parts for row in part])], mapping("*", (EVENT, GONE)), None
    )
    files = [written(f"{place}.csv", part) for place, part in enumerate(parts)]
    cut = History.of(files, mapping("*", (EVENT, GONE)), None)
    assert read(whole)[0] == read(cut)[0] == read(cut)[0]
    accepted = [row for row in read(cut)[0] if row is not None]
    assert all(len(row) in {1, 2} and isinstance(row[0], Usage) for row in accepted)


def test_the_newest_timestamp_of_all_files(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + "a,2026-01-01,1\nb,2026-03-01,x\nc,2026-02-01,1\n")
    assert History.of([path], mapping(), None).newest() == datetime(2026, 2, 1, 12, tzinfo=UTC)
