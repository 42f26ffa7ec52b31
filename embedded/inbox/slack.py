"""Slack's incoming webhook, as far as a sender can notice: its answers, its Block Kit limits, its rate."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

MAX_BLOCKS = 50
MAX_MESSAGE = 13_000
"""Whole messages fail near here although every block is legal."""
MAX_FALLBACK_TEXT = 40_000
# Channels with a fate, for trying a setup by hand.
FATES = {
    "missing": (404, "channel_not_found"),
    "archived": (410, "channel_is_archived"),
    "prohibited": (403, "action_prohibited"),
}
LIMITS = {"header": 150, "section": 3000, "field": 2000, "context": 2000, "button": 75}
BUTTON_STYLES = {None, "primary", "danger"}


class SlackError(Exception):
    """Slack's one-word answer to a bad request, with what we know more."""

    def __init__(self, word: str, detail: str) -> None:
        super().__init__(f"{word}: {detail}")
        self.word = word


def check_payload(body: bytes) -> dict[str, Any]:
    """The message. Raises SlackError: ``invalid_payload``, ``no_text``, ``invalid_blocks``, ``msg_blocks_too_long``."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        raise SlackError("invalid_payload", "the body is not JSON") from None
    if not isinstance(payload, dict):
        raise SlackError("invalid_payload", "the body is not an object")
    text, blocks = payload.get("text", ""), payload.get("blocks", [])
    if not isinstance(text, str) or len(text) > MAX_FALLBACK_TEXT:
        raise SlackError("invalid_payload", "text")
    if not isinstance(blocks, list) or len(blocks) > MAX_BLOCKS:
        raise SlackError("invalid_blocks", "at most 50 blocks in a list")
    if not text and not blocks:
        raise SlackError("no_text", "neither text nor blocks")
    for block in blocks:
        _check_block(block)
    if len(json.dumps(blocks, ensure_ascii=False)) > MAX_MESSAGE:
        raise SlackError("msg_blocks_too_long", "the blocks together")
    return payload


def _check_block(block: Any) -> None:
    kind = block.get("type") if isinstance(block, dict) else None
    match kind:
        case "header":
            _check_text(block.get("text"), "header", {"plain_text"})
        case "section":
            fields = block.get("fields", [])
            if "text" not in block and not fields:
                raise SlackError("invalid_blocks", "a section needs text or fields")
            if "text" in block:
                _check_text(block["text"], "section")
            if not isinstance(fields, list) or len(fields) > 10:
                raise SlackError("invalid_blocks", "at most 10 fields")
            for field in fields:
                _check_text(field, "field")
        case "context":
            elements = block.get("elements")
            if not isinstance(elements, list) or not 1 <= len(elements) <= 10:
                raise SlackError("invalid_blocks", "1 to 10 elements in a context")
            for element in elements:
                _check_text(element, "context")
        case "actions":
            _check_buttons(block.get("elements"))
        case "divider":
            pass
        case _:
            raise SlackError("invalid_blocks", f"unknown block {kind!r}")


def _check_text(text: Any, place: str, kinds: frozenset[str] | set[str] = frozenset({"plain_text", "mrkdwn"})) -> None:
    if not isinstance(text, dict) or text.get("type") not in kinds or not isinstance(text.get("text"), str):
        raise SlackError("invalid_blocks", f"{place}: no text object")
    if not 1 <= len(text["text"]) <= LIMITS[place]:
        raise SlackError("invalid_blocks", f"{place}: 1 to {LIMITS[place]} characters")
    if text["type"] == "mrkdwn" and "emoji" in text:
        raise SlackError("invalid_blocks", f"{place}: emoji belongs to plain_text")
    if text["type"] == "plain_text" and "verbatim" in text:
        raise SlackError("invalid_blocks", f"{place}: verbatim belongs to mrkdwn")


def _check_buttons(elements: Any) -> None:
    if not isinstance(elements, list) or not 1 <= len(elements) <= 25:
        raise SlackError("invalid_blocks", "1 to 25 elements in actions")
    for element in elements:
        if not isinstance(element, dict) or element.get("type") != "button":
            raise SlackError("invalid_blocks", "only buttons are known here")
        _check_text(element.get("text"), "button", {"plain_text"})
        if element.get("style") not in BUTTON_STYLES:
            raise SlackError("invalid_blocks", "button: style")
        if not isinstance(element.get("url", ""), str) or len(element.get("url", "")) > 3000:
            raise SlackError("invalid_blocks", "button: url")


class RateLimit:
    """About one message a second and channel, with a small burst."""

    def __init__(self, per_second: float, burst: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._monotonic = per_second, burst, monotonic
        self._tokens: dict[str, tuple[float, float]] = {}

    def allows(self, channel: str) -> bool:
        now = self._monotonic()
        tokens, then = self._tokens.get(channel, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - then) * self._per_second)
        allowed = tokens >= 1
        self._tokens[channel] = (tokens - 1 if allowed else tokens, now)
        return allowed
