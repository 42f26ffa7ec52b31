"""The local inbox answers as Slack, a mail server and a webhook do, and shows hostile messages harmlessly."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx2
import pytest

from embedded.inbox import Inbox
from embedded.inbox.page import mrkdwn, slack_blocks
from embedded.inbox.slack import RateLimit, SlackError, check_payload
from embedded.inbox.store import KEPT, Store

ROOT = Path(__file__).resolve().parents[2]


def section(text: str, kind: str = "mrkdwn") -> dict[str, Any]:
    return {"type": "section", "text": {"type": kind, "text": text}}


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    async with Inbox(slack_per_second=1000, slack_burst=1000) as running:
        yield running


@pytest.fixture
async def client(inbox: Inbox) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=inbox.url, trust_env=False) as made:
        yield made


@pytest.mark.parametrize(
    ("payload", "word"),
    [
        (b"{", "invalid_payload"),
        (b"[1]", "invalid_payload"),
        (b"[" * 100_000, "invalid_payload"),
        ({}, "no_text"),
        ({"text": 5}, "invalid_payload"),
        ({"blocks": "x"}, "invalid_blocks"),
        ({"blocks": [{"type": "divider"}] * 51}, "invalid_blocks"),
        ({"blocks": [{"type": "poem"}]}, "invalid_blocks"),
        ({"blocks": [{"type": "section"}]}, "invalid_blocks"),
        ({"blocks": [section("")]}, "invalid_blocks"),
        ({"blocks": [section("x" * 3001)]}, "invalid_blocks"),
        ({"blocks": [section("x", "markdown")]}, "invalid_blocks"),
        ({"blocks": [{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}]}, "invalid_blocks"),
        ({"blocks": [{"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}]}, "invalid_blocks"),
        ({"blocks": [{"type": "section", "fields": [section("x")["text"]] * 11}]}, "invalid_blocks"),
        ({"blocks": [{"type": "actions", "elements": [{"type": "button", "text": "x"}]}]}, "invalid_blocks"),
        ({"blocks": [section("x" * 2900)] * 5}, "msg_blocks_too_long"),
    ],
)
def test_slack_refuses_with_its_own_words(payload: Any, word: str) -> None:
    with pytest.raises(SlackError) as raised:
        check_payload(payload if isinstance(payload, bytes) else json.dumps(payload).encode())
    assert raised.value.word == word


def test_slack_allows_about_one_message_a_second_and_channel() -> None:
    now = 0.0
    rate = RateLimit(1.0, 2, lambda: now)
    assert [rate.allows("a") for _ in range(3)] == [True, True, False]
    assert rate.allows("b")
    now = 1.0
    assert [rate.allows("a") for _ in range(2)] == [True, False]


async def test_slack_doors_answer_like_slack(client: httpx2.AsyncClient) -> None:
    answers = {
        channel: await client.post(f"/slack/{channel}", json={"text": "hi"})
        for channel in ("team", "missing", "archived", "prohibited")
    }
    assert {channel: (answer.status_code, answer.text) for channel, answer in answers.items()} == {
        "team": (200, "ok"),
        "missing": (404, "channel_not_found"),
        "archived": (410, "channel_is_archived"),
        "prohibited": (403, "action_prohibited"),
    }


async def test_too_many_messages_are_told_when_to_come_back() -> None:
    async with Inbox() as strict, httpx2.AsyncClient(base_url=strict.url, trust_env=False) as client:
        answers = [await client.post("/slack/team", json={"text": "hi"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].headers["retry-after"] == "1"


async def test_an_unsigned_webhook_is_refused(inbox: Inbox, client: httpx2.AsyncClient) -> None:
    assert (await client.post("/webhook", json={})).status_code == 401
    assert inbox.messages() == []


async def test_faults_can_be_scripted_from_another_process(client: httpx2.AsyncClient) -> None:
    script = {"door": "slack", "target": "team", "faults": [{"status": 500}, {"status": 429}]}
    assert (await client.post("/api/faults", json=script)).status_code == 204
    answers = [(await client.post("/slack/team", json={"text": "hi"})).status_code for _ in range(3)]
    assert answers == [500, 429, 200]
    assert (await client.post("/api/faults", json={"door": "slack"})).status_code == 422


async def test_a_mail_is_kept_with_both_bodies_and_shown_in_a_sandbox(inbox: Inbox, client: httpx2.AsyncClient) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@x.example", "b@x.example", "件名 <b>"
    message["Message-ID"] = "<1@x.example>"
    message.set_content("テキスト")
    message.add_alternative("<html><head></head><body><script>alert(1)</script></body></html>", subtype="html")

    def submit() -> None:
        with smtplib.SMTP("127.0.0.1", inbox.smtp_port, timeout=5) as smtp:
            smtp.send_message(message)

    await asyncio.to_thread(submit)
    (found,) = (await client.get("/api/messages?door=email")).json()
    assert (found["content"]["subject"], found["content"]["text"].strip()) == ("件名 <b>", "テキスト")
    shown = await client.get(f"/mail/{found['number']}")
    assert "sandbox" in shown.headers["content-security-policy"]
    assert "allow-scripts" not in shown.headers["content-security-policy"]
    page = (await client.get("/")).text
    assert "件名 &lt;b&gt;" in page
    assert "allow-scripts" not in page
    assert (await client.get("/mail/999")).status_code == 404


async def test_the_page_shows_new_messages_on_top_and_can_be_asked_for_those_only(client: httpx2.AsyncClient) -> None:
    for text in ("first", "second"):
        await client.post("/slack/team", json={"text": text})
    page = (await client.get("/")).text
    assert page.index("second") < page.index("first")
    fresh = (await client.get("/entries?after=1")).text
    assert "second" in fresh
    assert "first" not in fresh
    assert "<article" not in (await client.get("/?door=email")).text
    await client.delete("/api/messages")
    assert (await client.get("/api/messages")).json() == []


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("&lt;!channel&gt;", "&lt;!channel&gt;"),
        ("<!channel>", '<span class="mention everyone">@channel</span>'),
        ("<@U1>", '<span class="mention">@U1</span>'),
        ("<javascript:alert(1)|x>", "&lt;javascript:alert(1)|x&gt;"),
        (
            '<https://a.example/"onclick=x|go>',
            '<a href="https://a.example/&quot;onclick=x" target="_blank" rel="noreferrer">go</a>',
        ),
        ("*bold* a*b*c", "<strong>bold</strong> a*b*c"),
        ("a &amp;lt; b", "a &amp;lt; b"),
    ],
)
def test_markup_is_read_as_slack_reads_it_and_never_runs(text: str, html: str) -> None:
    assert mrkdwn(text) == html


def test_a_button_leads_only_to_the_web() -> None:
    button = {"type": "button", "text": {"type": "plain_text", "text": "x"}, "url": "javascript:alert(1)"}
    assert "href" not in slack_blocks({"blocks": [{"type": "actions", "elements": [button]}]})


def test_messages_outlive_a_restart_even_one_in_the_middle_of_a_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add("slack", "team", {"text": "株\ud800"})
    with (tmp_path / "messages.jsonl").open("a") as file:
        file.write('{"number": 2, "door"')
    again = Store(tmp_path)
    assert [one.content for one in again.newest()] == [{"text": "株\ud800"}]
    assert again.add("slack", "team", {"text": "next"}).number == 2
    assert [one.number for one in Store(tmp_path).newest()] == [2, 1]


def test_the_last_thousand_are_kept_and_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(3 * KEPT):
        store.add("slack", "team", {"text": str(number)})
    assert len(list(store.newest())) == KEPT
    assert len((tmp_path / "messages.jsonl").read_text().splitlines()) <= 2 * KEPT
    assert [one.number for one in Store(tmp_path).newest()] == [one.number for one in store.newest()]


def test_the_process_announces_its_ports_keeps_its_secret_and_stops_when_told(tmp_path: Path) -> None:
    announced = []
    for turn in range(2):
        file = tmp_path / f"announce{turn}.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "embedded.inbox", "--announce", str(file), "--state", str(tmp_path / "state")],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 20
            while not file.exists() and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.05)
            announced.append(json.loads(file.read_text()))
            assert httpx2.get(announced[-1]["url"], trust_env=False).status_code == 200
            assert file.stat().st_mode & 0o077 == 0
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
    assert announced[0]["webhook_secret"] == announced[1]["webhook_secret"]


async def test_a_taken_port_is_reported(inbox: Inbox) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "embedded.inbox", "--http-port", str(inbox.http_port),
        cwd=ROOT, stderr=asyncio.subprocess.PIPE, env=dict(os.environ),
    )  # fmt: skip
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert f"HTTP port {inbox.http_port}".encode() in said
