"""The board's forms, lines, sessions and assets: the pure parts behind its pages."""

import hashlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from health.custom import load, with_catalogue
from service.board import assets, lines, measures, timeline
from service.board.forms import AlertForm, RiskForm, own_path
from service.board.session import Signer, new_session
from service.board.words import Words
from service.queries import TimelineEntry, Transition

EN, JA = Words("en"), Words("ja")
NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)


def test_a_form_reads_its_own_link_back() -> None:
    asked = QueryParams("sort=renewal&band=red&band=green&owner=aiko&min_mrr=1,500&renews_before=2026-12-31&q=a%26b")
    form = RiskForm.read(asked, EN)
    assert form.where.bands == ("red", "green")
    assert form.where.min_mrr == Decimal(1500)
    assert form.where.renews_before == date(2026, 12, 31)
    assert form.where.text == "a&b"
    assert RiskForm.read(QueryParams(form.url().partition("?")[2]), EN) == form
    assert form.url(cursor="x", bands=()).endswith("cursor=x")
    assert RiskForm().url() == "/"


@pytest.mark.parametrize("amount", ["lots", "-1", "NaN", "Infinity", "1e30"])
def test_an_amount_that_is_none_is_left_out_and_said(amount: str) -> None:
    form = RiskForm.read(QueryParams({"min_mrr": amount}), EN)
    assert form.where.min_mrr is None
    assert len(form.problems) == 1


@pytest.mark.parametrize(("amount", "least"), [("1e-999999", "0.0001"), ("0", "0"), ("99.00001", "99.0001")])
def test_an_amount_has_the_decimals_that_money_has(amount: str, least: str) -> None:
    assert RiskForm.read(QueryParams({"min_mrr": amount}), EN).where.min_mrr == Decimal(least)


@given(
    st.dictionaries(st.sampled_from(["sort", "band", "owner", "min_mrr", "renews_before", "q", "cursor"]), st.text())
)
def test_no_query_breaks_the_list(query: dict[str, str]) -> None:
    form = RiskForm.read(QueryParams(query), EN)
    assert "\0" not in (form.where.text or "")
    assert form.url().startswith("/")


def test_tabs_of_the_alerts() -> None:
    assert AlertForm.read(QueryParams("state=closed")).where.states == ("resolved", "withdrawn")
    assert AlertForm.read(QueryParams("state=snoozed")).where.snoozed is True
    assert AlertForm.read(QueryParams("state=nonsense")).where.snoozed is False


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", "", None, "/a\nb"])
def test_links_stay_on_the_board(path: str | None) -> None:
    assert own_path(path) == "/"


def test_own_paths_are_kept() -> None:
    assert own_path("/alerts?state=closed") == "/alerts?state=closed"


def test_a_session_opens_only_with_its_own_signature_and_in_time() -> None:
    signer = Signer.from_secret("a long random string")
    session = new_session(name="aiko", key_id="k1", scopes=("read",), now=NOW)
    sealed = signer.seal(session)
    assert signer.open(sealed, now=NOW) == session
    assert Signer.from_secret("a long random string").open(sealed, now=NOW) == session
    assert Signer.from_secret("another").open(sealed, now=NOW) is None
    assert signer.open(sealed, now=NOW + timedelta(hours=12)) is None
    payload, _, mac = sealed.partition(".")
    assert signer.open(f"{payload[:-4]}AAAA.{mac}", now=NOW) is None
    for broken in (None, "", ".", "x", "x.y", "é.é"):
        assert signer.open(broken, now=NOW) is None
    assert session.actor == "board:aiko"
    assert not session.may_write


def test_a_form_token_belongs_to_one_session() -> None:
    signer = Signer.from_secret(None)
    mine, other = (new_session(name="board", key_id=None, scopes=("read", "write"), now=NOW) for _ in range(2))
    assert signer.is_form_token(mine, signer.form_token(mine))
    assert not signer.is_form_token(mine, signer.form_token(other))
    assert not signer.is_form_token(mine, "")
    assert mine.actor == "board"


def test_the_key_shows_in_no_repr() -> None:
    assert "secret" not in repr(Signer(b"secret"))


def entry(kind: str, **values: Any) -> TimelineEntry:
    plain: dict[str, Any] = {
        "entry_id": kind, "kind": kind, "at": NOW, "record_id": None, "user_id": None, "data": {}, "day": None,
        "count": None, "last_at": None,
    }  # fmt: skip
    return TimelineEntry(**{**plain, **values})


@pytest.mark.parametrize(
    ("told", "what", "detail", "tone"),
    [
        (entry("ticket", data={"status": "open", "subject": "Broken", "priority": "high"}), "Ticket opened",
         "Broken, priority high", ""),
        (entry("payment", data={"status": "failed", "amount": 99, "currency": "EUR"}), "Payment failed", "€99", "bad"),
        (entry("survey", data={"survey": "nps", "score": 6}), "NPS answer: 6", "", "bad"),
        (entry("survey", data={"survey": "nps", "score": 9}), "NPS answer: 9", "", "good"),
        (entry("survey", data={"survey": "csat", "score": 2}), "CSAT answer: 2", "", ""),
        (entry("milestone", data={"milestone": "Go-live"}), "Milestone reached", "Go-live", "good"),
        (entry("attribute", record_id="plan", data={"value": "pro", "previous": "free"}), "Plan", "free → pro", ""),
        (entry("attribute", record_id="renewal_on", data={"value": "2026-07-01", "previous": None}), "Renewal",
         "Jul 1, 2026", ""),
        (entry("attribute", record_id="owner", data={"value": None, "previous": "aiko"}), "Owner", "aiko → none", ""),
        (entry("subscription", data={"change": "ended"}), "Subscription ended", "", "bad"),
        (entry("custom", data={"name": "exported", "value": 3}), "custom", "exported, 3", ""),
        (entry("something_new", data={"status": "half_done"}), "something_new half done", "", ""),
    ],
)  # fmt: skip
def test_timeline_lines(told: TimelineEntry, what: str, detail: str, tone: str) -> None:
    line = timeline.timeline_line(told, EN)
    assert (line.what, line.detail, line.tone) == (what, detail, tone)


def test_uses_and_logins_of_a_day_share_a_line() -> None:
    today = NOW.date()
    uses = entry("usage", day=today, count=7, data={"features": {"export": 2.5}}, last_at=NOW)
    logins = entry("logins", day=today, count=1)
    yesterday = entry("logins", day=today - timedelta(days=1), count=2)
    told = timeline.timeline_lines([uses, logins, yesterday], EN)
    assert [line.what for line in told] == ["7 uses, 1 login", "2 logins"]
    assert told[0].detail == "export × 2.5"
    assert told[0].last_at == NOW


BOTH, CAPPED = {"en": "NPS 9", "ja": "NPS 9"}, {"en": "capped", "ja": "上限"}
FULL: dict[str, Any] = {
    "measure": "full_mark",
    "weight": 1.0,
    "contribution": 100.0,
    "reason": {"en": "full mark", "ja": "満点"},
}


def test_why_keeps_every_line_and_puts_the_worst_first() -> None:
    contributions: list[dict[str, Any]] = [
        {"measure": "nps", "group": "ROI", "weight": 0.1, "contribution": 0.0, "reason": BOTH},
        FULL,
        {"measure": "silent", "group": None, "weight": None, "contribution": -20.5, "reason": CAPPED},
        {"measure": "login", "group": "Engagement", "weight": 0.4, "contribution": -40.0,
         "reason": {"en": "no login for 30 days", "ja": "30日ログインなし"}},
    ]  # fmt: skip
    why = measures.why(contributions, 39.5, EN)
    assert why is not None
    assert [line.text for line in why.lines] == ["Full mark", "No login for 30 days", "Capped", "NPS 9"]
    assert sum(line.points for line in why.lines) == why.total
    assert [line.most for line in why.lines] == [None, 40.0, None, 10.0]
    assert all(0 <= line.fill <= 100 and 0 <= line.track <= 100 for line in why.lines)
    assert "no login for 30 days (−40)" in why.sentence
    japanese = measures.why(contributions, 39.5, JA)
    assert japanese is not None
    assert japanese.lines[1].text == "30日ログインなし"


def test_a_line_without_data_says_of_what() -> None:
    missing = {"en": "no data", "ja": "データなし"}
    line = {"measure": "nps", "group": "ROI", "signal": "nps_last", "points": None, "weight": 0.0, "contribution": 0.0,
            "reason": missing}  # fmt: skip
    told = [measures.why([FULL, line], 100.0, words) for words in (EN, JA)]
    assert [why.lines[1].text for why in told if why] == ["Last NPS answer: no data", "直近のNPS: データなし"]


def test_signals_are_told_in_words() -> None:
    signals = {"band": "red", "status": "active", "champion_gone": 0.0, "usual_pause": 1.8, "plan": "red"}
    japanese = {line.reference: line.value for line in measures.signal_lines(signals, JA)}
    assert japanese == {
        "band": "危険",
        "status": "契約中",
        "champion_gone": "いいえ",
        "usual_pause": "2日",
        "plan": "red",
    }
    english = {line.reference: line.value for line in measures.signal_lines(signals, EN)}
    assert english["champion_gone"] == "no"
    assert english["usual_pause"] == "2 days", "as the sentence about it says"


def test_without_a_score_there_is_nothing_to_explain() -> None:
    assert measures.why([FULL], None, EN) is None
    assert measures.why([], 50.0, EN) is None


def test_a_step_tells_its_outcome_and_the_readers_words() -> None:
    why = {"en": "No login for 14 days.", "ja": "14日間ログインがありません。"}
    opened = Transition(transition_id=1, kind="opened", at=NOW, reason=why["en"], actor="kizashi", data={})
    assert lines.step(opened, why, JA).reason == why["ja"]
    data = {"outcome": "no_answer"}
    closed = Transition(transition_id=2, kind="resolved", at=NOW, reason="no answer", actor="board:aiko", data=data)
    told = lines.step(closed, why, EN)
    assert (told.what, told.reason, told.actor) == ("Resolved: No answer", "", "aiko")


def test_measures_have_names() -> None:
    assert measures.measure_name("days_since_feature['export']", EN) == "Days since feature: export"
    assert measures.measure_name("not a signal!", EN) == "not a signal!"
    assert measures.measure_name("some_new_signal", JA) == "Some new signal"


def test_signals_of_configuration_are_told_with_their_words_and_since_when_they_are_right(tmp_path: Path) -> None:
    text = (
        "signals: [{name: sent, measure: count, event: custom, days: 7, unit: change, meaning: {en: Sent, ja: 送信}}]"
    )
    tmp_path.joinpath("signals.yaml").write_text(text, encoding="utf-8")
    ours = with_catalogue(load(tmp_path))
    (line,) = measures.signal_lines({"sent": 0.25}, JA, ours)
    assert (line.name, line.meaning, line.value) == (
        "送信",
        "送信 (最初のイベントまでさかのぼって正確)",
        measures.signal_lines({"usage_change_28d": 0.25}, JA)[0].value,
    )


def test_vendored_files_are_the_ones_that_were_reviewed(root: Path) -> None:
    folder = root / "service/board/static/vendor"
    sums = (line.split() for line in (folder / "SHA256SUMS").read_text().splitlines())
    listed = {name: digest for digest, name in sums}
    present = {path.name: path for path in folder.iterdir() if path.name != "SHA256SUMS"}
    assert listed == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in present.items()}
    assert "://" not in (root / "service/board/package-lock.json").read_text()


def test_assets_are_served_under_their_hash() -> None:
    loaded = assets.load()
    assert {"board.css", "board.js", "favicon.svg", "vendor/htmx.min.js"} <= set(loaded)
    sheet = loaded["board.css"]
    assert hashlib.sha256(sheet.body).hexdigest()[:16] in sheet.served_as


def test_templates_hold_no_inline_script_or_style(root: Path) -> None:
    for path in (root / "service/board/templates").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert " style=" not in text
        assert "<style" not in text
        assert "hx-on" not in text
        assert all("src=" in part for part in text.split("<script")[1:])
