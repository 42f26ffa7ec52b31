"""The alert as a Slack message in Block Kit.

What comes from outside stands in ``plain_text`` where it can: Slack reads no markup there. What must be ``mrkdwn`` is
escaped and ``verbatim``, so that neither ``<!channel>`` nor a bare address becomes more than text.

Slack's limits: header 150, section 3,000, 10 fields of 2,000, context 10 elements, button text 75, URL 3,000, 50
blocks; whole messages begin to fail near 13,000 characters. ``parts`` keeps every piece far below; a test holds it.
"""

from __future__ import annotations

import re
from typing import Any

from alerts.render.parts import Parts, parts
from alerts.render.view import CLOSING, AlertView, Language
from alerts.render.wording import word

MAX_HEADER = 150
ICONS = {"critical": "🔴", "warning": "🟠", "info": "🔵"}
CLOSING_ICONS = {"resolved": "✅", "withdrawn": "↩️"}
_USER_ID = re.compile(r"[UW][A-Z0-9]{2,20}")
# Markup cannot be escaped in mrkdwn, only avoided: look-alikes.
_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "*": "∗", "`": "ˋ", "~": "∼"})

Block = dict[str, Any]


def slack(view: AlertView, language: Language, *, mention: bool = False) -> dict[str, Any]:
    """The JSON body for an incoming webhook. ``mention``: call the reader by name, for a channel shared by a team."""
    said = parts(view, language)
    icon = CLOSING_ICONS.get(view.kind) or ICONS[view.severity]
    header = f"{icon} {said.title}"
    if len(header) > MAX_HEADER:
        header = header[: MAX_HEADER - 1] + "…"
    blocks: list[Block] = [{"type": "header", "text": _plain(header)}]
    if said.lead:
        blocks.append({"type": "section", "text": _plain(said.lead)})
    if said.why:
        blocks.append({"type": "section", "text": _marked(f"*{escape(said.why_label)}*\n{escape(said.why)}")})
    fields = [*said.facts, (word("owner", language), "")]
    if said.health:
        fields.append((word("health", language), said.health))
    owner = _owner(view, said, mention=mention and view.kind not in CLOSING)
    blocks.append(
        {
            "type": "section",
            "fields": [_marked(f"*{escape(label)}*\n{escape(value) or owner}") for label, value in fields],
        }
    )
    if said.contributions:
        lines = word("line", language, a=word("contributions", language), b=" · ".join(said.contributions))
        blocks.append({"type": "context", "elements": [_plain(lines)]})
    if said.next_step:
        blocks.append(
            {"type": "section", "text": _marked(f"*{escape(word('next', language))}*\n{escape(said.next_step)}")}
        )
    if said.url:
        button: Block = {"type": "button", "text": _plain(word("open", language)), "url": said.url, "action_id": "open"}
        if view.kind not in CLOSING:
            button["style"] = "primary"
        blocks.append({"type": "actions", "elements": [button]})
    text = word("sentences", language, a=f"{icon} {escape(said.title)}", b=escape(said.lead or said.why))
    return {"text": text, "blocks": blocks, "unfurl_links": False, "unfurl_media": False}


def escape(text: str) -> str:
    """Text that mrkdwn shows as it is."""
    return text.translate(_MARKUP)


def _owner(view: AlertView, said: Parts, *, mention: bool) -> str:
    name = escape(said.owner)
    reader = view.reader_slack_id or view.owner_slack_id
    if not mention or reader is None or not _USER_ID.fullmatch(reader):
        return name
    if view.reader_slack_id and view.reader_slack_id != view.owner_slack_id:
        return f"{name} → <@{reader}>"
    return f"<@{reader}>"


def _plain(text: str) -> Block:
    return {"type": "plain_text", "text": text, "emoji": True}


def _marked(text: str) -> Block:
    return {"type": "mrkdwn", "text": text, "verbatim": True}
