"""Rules that change while the service runs, and the routes beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alerts.rules import RulebookError, RuleWatcher, load, reload
from health.catalogue import SIGNALS

RULE = """\
rules:
  - id: quiet
    title: {en: Quiet, ja: 静か}
    when: days_since_login >= DAYS
    severity: warning
    reason: {en: Quiet, ja: 静か}
    suggestion: {en: Call, ja: 電話}
"""


def write(path: Path, text: str) -> None:
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text, encoding="utf-8")
    # Two writes may fall into one tick of the file system's clock.
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


def test_a_good_change_replaces_the_running_rules(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", RULE.replace("DAYS", "14"))
    watcher = RuleWatcher(tmp_path, SIGNALS)
    assert watcher.poll() is False
    write(tmp_path / "a.yaml", RULE.replace("DAYS", "15"))
    assert watcher.poll() is True
    assert watcher.book.rules[0].when.source == "days_since_login >= 15"
    assert watcher.poll() is False


def test_a_bad_change_leaves_the_running_rules_and_says_why(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", RULE.replace("DAYS", "14"))
    watcher = RuleWatcher(tmp_path, SIGNALS)
    running = watcher.book
    write(tmp_path / "b.yaml", "rules: 3")
    assert watcher.poll() is False
    assert watcher.book is running
    assert "b.yaml:1:8" in str(watcher.error)
    (tmp_path / "b.yaml").unlink()
    assert watcher.poll() is False
    assert watcher.error is None
    assert watcher.book is running


def test_a_change_of_nothing_is_no_change(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", RULE.replace("DAYS", "14"))
    watcher = RuleWatcher(tmp_path, SIGNALS)
    write(tmp_path / "a.yaml", "# the same\n" + RULE.replace("DAYS", "14"))
    assert watcher.poll() is False


def test_a_service_does_not_start_on_bad_rules(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "rules: 3")
    with pytest.raises(RulebookError):
        RuleWatcher(tmp_path, SIGNALS)


def test_reload_returns_the_current_rules_when_all_are_gone(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", RULE.replace("DAYS", "14"))
    current = load(tmp_path, SIGNALS)
    (tmp_path / "a.yaml").unlink()
    book, error = reload(current, tmp_path, SIGNALS)
    assert book is current
    assert "no rules file" in str(error)


def test_routes_say_which_channels_a_severity_may_use(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", RULE.replace("DAYS", "14"))
    write(
        tmp_path / "routes.yaml",
        "channels: {info: [], warning: [email, email]}\ndefault_recipient: cs@example.com\ndefault_language: ja\n",
    )
    routes = load(tmp_path, SIGNALS).routes
    assert routes.wanted("critical") == ("slack", "email", "webhook")
    assert routes.wanted("warning") == ("email",)
    assert routes.wanted("info") == ()
    assert (routes.default_recipient, routes.default_language) == ("cs@example.com", "ja")


def test_without_a_routes_file_every_channel_is_used(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", RULE.replace("DAYS", "14"))
    assert load(tmp_path, SIGNALS).routes.wanted("info") == ("slack", "email", "webhook")


def test_changed_routes_are_a_new_rulebook(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", RULE.replace("DAYS", "14"))
    watcher = RuleWatcher(tmp_path, SIGNALS)
    write(tmp_path / "routes.yaml", "channels: {info: []}\n")
    assert watcher.poll() is True
    assert watcher.book.routes.wanted("info") == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "channels: {criticl: [slack]}",
            "1:12: unknown key 'criticl'; there are critical, warning, info (did you mean critical?)",
        ),
        (
            "channels: {info: [slak]}",
            "1:19: channels.info is one of slack, email, webhook (did you mean slack?)",
        ),
        ("default_recipient: cs at example", "1:20: default_recipient: write one e-mail address, or null"),
        ("default_language: jp", "1:19: default_language is one of en, ja"),
    ],
)
def test_bad_routes_refuse_the_whole_rulebook(tmp_path: Path, text: str, problem: str) -> None:
    write(tmp_path / "a.yaml", RULE.replace("DAYS", "14"))
    write(tmp_path / "routes.yaml", text)
    with pytest.raises(RulebookError) as error:
        load(tmp_path, SIGNALS)
    assert str(error.value) == f"{tmp_path}/routes.yaml:{problem}"
