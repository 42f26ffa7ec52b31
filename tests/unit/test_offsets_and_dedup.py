"""How a partition is opened again, and what is recognised as seen before."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.applier import advance
from consumers.broker import Record
from consumers.dedup import DayHashes, event_hash
from consumers.events import Login
from consumers.offsets import Log, Opening, Stored, decide, mismatch
from consumers.records import Position, fingerprint
from consumers.upserts import PLACES, day_array, text_array
from tests.unit.test_fold import AT

POSITION = Position(topic="t", partition=0, next_offset=50, epoch=0, last_offset=49, last_timestamp_ms=7, last_crc=1)
STORED = Stored(position=POSITION, cluster_id="c", topic_id="id", stopped_reason=None)
LOG = Log(cluster_id="c", topic_id="id", start=0, end=80)


@pytest.mark.parametrize(
    ("stored", "log", "action", "check", "words"),
    [
        (STORED, LOG, "read", True, "as stored"),
        (STORED, replace(LOG, end=50), "read", True, "as stored"),
        (STORED, replace(LOG, start=50), "read", False, "as stored"),
        (STORED, replace(LOG, start=51), "stop", False, "1 offsets were lost unread"),
        (STORED, replace(LOG, end=49), "stop", False, "truncated"),
        (STORED, replace(LOG, cluster_id="other"), "stop", False, "the cluster c, this is other"),
        (STORED, replace(LOG, cluster_id=None), "read", True, "as stored"),
        (STORED, replace(LOG, topic_id="anew"), "stop", False, "made anew"),
        (STORED, replace(LOG, topic_id=None), "read", True, "as stored"),
        (replace(STORED, cluster_id="volatile:1"), replace(LOG, cluster_id="volatile:2"), "anew", False, "gone"),
        (replace(STORED, cluster_id="c"), replace(LOG, cluster_id="volatile:2"), "stop", False, "volatile:2"),
        (replace(STORED, position=Position(topic="t", partition=0, next_offset=0, epoch=0)), LOG, "read", False, "as"),
    ],
)  # fmt: skip
def test_opening_a_partition(stored: Stored, log: Log, action: str, check: bool, words: str) -> None:
    opening: Opening = decide(stored, log)
    assert (opening.action, opening.check) == (action, check)
    assert words in opening.reason


def test_the_last_applied_record_is_known_by_offset_time_and_bytes() -> None:
    record = Record("t", 0, 49, 7, b"key", b"value", ())
    position = advance(replace(POSITION, next_offset=40), [record]).after
    assert (position.next_offset, position.last_crc) == (50, fingerprint(record))
    assert mismatch(position, record) is None
    for other in (
        Record("t", 0, 49, 7, b"key", b"other", ()),
        Record("t", 0, 49, 8, b"key", b"value", ()),
        Record("t", 0, 50, 7, b"key", b"value", ()),
    ):
        assert mismatch(position, other) is not None
    assert fingerprint(Record("t", 0, 0, 0, None, None, ())) == 0


def test_the_hash_tells_source_account_and_id_apart() -> None:
    names = [("s", "a", "e"), ("s", "ae", ""), ("sa", "", "e"), ("s", "", "ae"), ("t", "a", "e")]
    hashes = {event_hash(Login(source=s, account_id=a, event_id=e, timestamp=AT)) for s, a, e in names}
    assert len(hashes) == len(names)
    # Stored for the length of the window: it must not change from one release to the next.
    assert event_hash(Login(source="s", account_id="a", event_id="e", timestamp=AT)) == 12380849274624003715


@given(st.lists(st.sets(st.integers(0, 2**64 - 1) | st.integers(0, 50), min_size=1, max_size=30), max_size=30))
def test_a_day_knows_exactly_what_was_added(batches: list[set[int]]) -> None:
    day, model = DayHashes(), set[int]()
    for batch in batches:
        hashes = np.array(sorted(batch), dtype=np.uint64)
        assert day.contains(hashes).tolist() == [h in model for h in sorted(batch)]
        day.add(hashes[~day.contains(hashes)]) if not batch <= model else None
        model |= batch
    assert len(day) == len(model)
    reloaded = DayHashes([np.array([h], dtype=np.uint64) for h in model])
    assert reloaded.contains(np.array(sorted(model), dtype=np.uint64)).all()


def test_day_arrays_and_texts_as_literals() -> None:
    assert day_array({}) == "{" + ",".join(["0"] * PLACES) + "}"
    assert day_array({30: 7}) == "{" + "0," * 30 + "7}"
    assert day_array({0: 1, 30: 7}) == "{1," + "0," * 29 + "7}"
    assert text_array(["a", "b"]) == '{"a","b"}'
    assert text_array(["a,b", ""]) == '{"a,b",""}'
    assert text_array([None, 'q"\\']) == r'{NULL,"q\"\\"}'
    assert text_array(['","']) == r'{"\",\""}'
