"""What a reader is told: structure, both languages, limits, and names that mean harm."""

from __future__ import annotations

import json
import string
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slack_sdk.models.blocks import Block

from alerts.render.clean import clean, clean_header
from alerts.render.mail import mail
from alerts.render.slack import slack
from alerts.render.view import CLOSING, AlertView, Kind, Language, from_json, language_of, to_json
from alerts.render.webhook import webhook
from alerts.render.wording import KIND_TITLES, LEADS, WORDS, day, instant, money
from embedded.inbox.slack import check_payload
from tests.messages import NOW, make_view

LANGUAGES: tuple[Language, ...] = get_args(Language)
KINDS: tuple[Kind, ...] = get_args(Kind)
DELIVERY = UUID("6cba073d-2bed-490a-b368-1f3d172c69a8")
HOSTILE = [
    "<!channel>",
    "<@U1>",
    "<http://evil.example|Acme>",
    "`code` ```block``` *bold* ~gone~",
    "\u202egnp.exe Acme\u2066",
    "Acme\r\nBcc: x@evil.example",
    "🙂 =?UTF-8?Q?=0ABcc=3A x@evil.example?=",
    "a\x00b\x1b[31m\ud800c",
    "<script>alert(1)</script>",
    "x" * 5000,
    "&" * 5000,
    "株" * 5000,
]


def texts(value: Any) -> list[dict[str, Any]]:
    """Every text object of a Slack message."""
    if isinstance(value, list):
        return [found for item in value for found in texts(item)]
    if not isinstance(value, dict):
        return []
    own = [value] if value.get("type") in {"plain_text", "mrkdwn"} else []
    return own + [found for item in value.values() for found in texts(item)]


def as_mail(view: AlertView, language: Language = "en", **changes: Any) -> EmailMessage:
    values = {"sender": "Kizashi <kizashi@mail.example>", "recipient": "yuki@example.com", **changes}
    built = mail(view, language, delivery_id=DELIVERY, date=NOW, **values)
    parsed = message_from_bytes(built.as_bytes(), policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def test_a_view_survives_storage() -> None:
    view = make_view()
    assert from_json(json.loads(json.dumps(to_json(view)))) == view


def test_a_view_refuses_naive_times_and_unknown_kinds() -> None:
    with pytest.raises(ValueError, match="since: naive"):
        make_view(since=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(msgspec.ValidationError, match="kind"):
        from_json({**to_json(make_view()), "kind": "exploded"})


@pytest.mark.parametrize(
    ("tag", "language"), [("ja", "ja"), ("ja-JP", "ja"), ("JA_jp", "ja"), ("en-GB", "en"), ("fr", "en")]
)
def test_a_language_tag_finds_its_words(tag: str, language: Language) -> None:
    assert language_of(tag) == language


def test_both_languages_say_the_same_things() -> None:
    def holes(text: str) -> set[str | None]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for table in (WORDS, KIND_TITLES, LEADS):
        english, japanese = dict(table["en"].items()), dict(table["ja"].items())
        assert english.keys() == japanese.keys()
        assert {key: holes(text) for key, text in english.items()} == {
            key: holes(text) for key, text in japanese.items()
        }
    assert KIND_TITLES["en"].keys() == set(KINDS)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_slack_message_has_all_its_pieces(kind: Kind, language: Language) -> None:
    view = make_view(kind=kind)
    message = slack(view, language)
    kinds = [block["type"] for block in message["blocks"]]
    assert kinds[0] == "header"
    assert kinds[-1] == "actions"
    assert message["blocks"][-1]["elements"][0]["url"] == view.url
    shown = "\n".join(text["text"] for text in texts(message["blocks"]))
    assert view.reasons[language] in shown
    for piece in ("Acme Robotics", "150,000", "Pro", "14", "Yuki Tanaka"):
        assert piece in shown
    assert (view.suggestion[language] in shown) == (kind not in CLOSING)
    assert message["text"]


def test_the_owner_is_mentioned_only_where_a_team_reads() -> None:
    owned = make_view()
    assert "<@U02ABCDEF>" not in json.dumps(slack(owned, "en"))
    assert "<@U02ABCDEF>" in json.dumps(slack(owned, "en", mention=True))
    assert "<@" not in json.dumps(slack(make_view(kind="resolved"), "en", mention=True))
    assert "<@" not in json.dumps(slack(make_view(owner_slack_id="U1> <!channel"), "en", mention=True))
    stand_in = json.dumps(slack(make_view(reader_slack_id="U09STANDIN"), "en", mention=True))
    assert "Yuki Tanaka" in stand_in
    assert "<@U09STANDIN>" in stand_in


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text_in_slack_and_within_its_limits(name: str, language: Language) -> None:
    words = {"en": name, "ja": name}
    view = make_view(
        account_name=name, plan=name, rule_title=words, reasons=words, suggestion=words, owner_name=name,
        contributions=(make_view().contributions[0],) * 9, kind="escalated",
    )  # fmt: skip
    message = slack(view, language)
    marked = [text["text"] for text in texts(message) if text["type"] == "mrkdwn"] + [message["text"]]
    for text in marked:
        assert "<" not in text
        assert ">" not in text
        assert "`" not in text
    everything = json.dumps(message, ensure_ascii=False)
    everything.encode()
    assert not set(everything) & set("\u202e\u2066\x00\x1b\r")
    assert len(everything) < 12_000
    assert len(message["blocks"][0]["text"]["text"]) <= 150
    for block in message["blocks"]:
        parsed = Block.parse(block)
        assert parsed is not None
        parsed.validate_json()
        assert all(len(field["text"]) <= 2000 for field in block.get("fields", []))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_add_no_header_and_no_markup_to_a_mail(name: str) -> None:
    words = {"en": name}
    view = make_view(account_name=name, rule_title=words, reasons=words, plan=name, owner_name=name)
    message = as_mail(view)
    plain = as_mail(make_view())
    assert set(message.keys()) == set(plain.keys())
    assert message["Bcc"] is None
    assert len(message["Subject"]) <= 160
    html = body(message, "html")
    assert "<script" not in html
    assert "evil.example|" not in html.replace("&lt;http://evil.example|Acme&gt;", "")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_mail_has_text_and_html_and_says_that_a_machine_wrote_it(language: Language) -> None:
    view = make_view()
    message = as_mail(view, language)
    assert message.get_content_type() == "multipart/alternative"
    assert message["Message-ID"] == f"<{DELIVERY}@mail.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["List-Unsubscribe"] is None
    assert "Acme Robotics" in message["Subject"]
    for kind in ("plain", "html"):
        assert view.reasons[language] in body(message, kind)
        assert view.url in body(message, kind)
    assert f'lang="{language}"' in body(message, "html")


def test_messages_of_an_episode_form_a_thread_and_can_be_stopped_where_a_url_exists() -> None:
    opened, resolved = as_mail(make_view()), as_mail(make_view(kind="resolved"))
    assert opened["References"] == resolved["References"]
    stoppable = as_mail(make_view(unsubscribe_url="https://kizashi.example/u/1"))
    assert stoppable["List-Unsubscribe"] == "<https://kizashi.example/u/1>"
    assert stoppable["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


@pytest.mark.parametrize("address", ["", "nobody", "a@b\r\nBcc: c@d", "a@b, c@d", "a b@c"])
def test_a_bad_recipient_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        as_mail(make_view(), recipient=address)


def test_a_withdrawal_apologises() -> None:
    assert "a late event shows that" in slack(make_view(kind="withdrawn"), "en")["text"]
    assert "お詫び" in slack(make_view(kind="withdrawn"), "ja")["text"]


def test_only_web_addresses_become_links() -> None:
    message = slack(make_view(url="javascript:alert(1)"), "en")
    assert [block["type"] for block in message["blocks"]].count("actions") == 0


def test_the_webhook_tells_all_and_reads_back() -> None:
    sent = json.loads(webhook(make_view(kind="escalated")))
    assert sent["type"] == "alert.escalated"
    assert sent["timestamp"] == "2026-03-02T09:30:00Z"
    assert from_json(sent["data"]) == make_view(kind="escalated")
    assert len(webhook(make_view())) < 20_000


@pytest.mark.parametrize(
    ("amount", "currency", "language", "shown"),
    [
        ("150000", "JPY", "en", "¥150,000"),
        ("150000", "JPY", "ja", "￥150,000"),
        ("1200.5", "EUR", "en", "€1,200.50"),
        ("99", "USD", "en", "$99"),
        ("1200.00", "usd", "ja", "$1,200"),
        ("500", None, "en", "500"),
        ("500", "<b>", "en", "500"),
    ],
)
def test_money_is_shown_in_its_currency(amount: str, currency: str | None, language: Language, shown: str) -> None:
    assert money(Decimal(amount), currency, language) == shown


def test_times_are_shown_where_the_reader_lives_and_ages_in_days() -> None:
    at = datetime(2026, 2, 16, 20, 0, tzinfo=UTC)
    assert instant(at, at + timedelta(days=14), "Asia/Tokyo", "en") == "17 Feb 2026, 05:00 JST (14 days ago)"
    assert instant(at, at + timedelta(days=1), "Nowhere/Land", "ja") == "2026年2月16日 20:00 UTC（1日前）"
    # 20:00 UTC on the 16th is the 17th in Tokyo: the renewal is "today" there.
    assert day(date(2026, 2, 17), at, "Asia/Tokyo", "en") == "17 Feb 2026 (today)"
    assert day(date(2026, 2, 17), at, "UTC", "en") == "17 Feb 2026 (in 1 day)"
    assert day(date(2026, 2, 15), at, "UTC", "ja") == "2026年2月15日（1日前）"


@given(name=st.text(max_size=300), language=st.sampled_from(LANGUAGES), kind=st.sampled_from(KINDS))
def test_any_name_makes_a_legal_message_everywhere(name: str, language: Language, kind: Kind) -> None:
    words = {"en": name, "ja": name}
    view = make_view(
        account_name=name, plan=name, owner_name=name, rule_title=words, reasons=words, suggestion=words, kind=kind
    )
    check_payload(json.dumps(slack(view, language, mention=True)).encode())
    assert set(as_mail(view, language).keys()) == set(as_mail(make_view(), language).keys())


def test_cleaning_keeps_words_and_drops_tricks() -> None:
    assert clean("  Acme \n\t 株式会社  ", 50) == "Acme 株式会社"
    assert clean("a\u202eb\u200ec\ue000\ud800", 50) == "abc"
    assert clean("abcdef", 4) == "abc…"
    assert clean_header("=?UTF-8?Q?=0A?=Bcc: x@y", 80) == "UTF-8?Q0ABcc: x@y"
    assert "=?" not in clean_header("==??x", 80)
