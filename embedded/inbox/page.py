"""The inbox page: messages as their readers see them. What was received is foreign: escaped here, on its way out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from embedded.inbox.store import Received

SANDBOX = "allow-popups allow-popups-to-escape-sandbox"
DOORS = {None: "All", "slack": "Slack", "email": "E-mail", "webhook": "Webhook"}
_REFERENCE = re.compile(r"<([^<>]*)>")
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}
_ENTITY = re.compile("|".join(_ENTITIES))
_BOLD = re.compile(r"(?<![\w*])\*([^*\n]+)\*(?![\w*])")


def whole(messages: Sequence[Received], door: str | None) -> str:
    tabs = "".join(_tab(key, label, current=key == door) for key, label in DOORS.items())
    entries = "".join(entry(one) for one in messages)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Kizashi inbox</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="/static/icon.svg">'
        '<link rel="stylesheet" href="/static/inbox.css">'
        '<script src="/static/inbox.js" defer></script></head>'
        '<body><a class="skip" href="#messages">To the messages</a>'
        "<header><h1>Local inbox</h1><p>What Kizashi sent, as its readers see it. Nothing leaves this machine.</p>"
        f'<nav aria-label="Kind of message">{tabs}</nav></header>'
        f'<main id="messages" tabindex="-1"><p id="news" role="status" class="news"></p>'
        f'<div id="list">{entries}</div>'
        '<p class="empty">Nothing has arrived yet. Messages appear here by themselves.</p>'
        "</main></body></html>"
    )


def _tab(door: str | None, label: str, *, current: bool) -> str:
    address = "/" if door is None else f"/?door={door}"
    return f'<a href="{address}"{" aria-current=page" if current else ""}>{label}</a>'


def entry(received: Received) -> str:
    """One message as an article."""
    title, where, inner = _shown(received)
    again = f'<span class="again">repetition {received.repeats}</span>' if received.repeats else ""
    name = f"m{received.number}"
    return (
        f'<article class="{received.door}" data-number="{received.number}" aria-labelledby="{name}">'
        f'<div class="top"><span class="badge">{escape(where)}</span>{again}'
        f'<time datetime="{escape(received.at)}">{escape(received.at[:19].replace("T", " "))} UTC</time></div>'
        f'<h2 id="{name}">{escape(title)}</h2>{inner}</article>'
    )


def _shown(received: Received) -> tuple[str, str, str]:
    """Title and place as text, the body as HTML."""
    content = received.content
    if received.door == "slack":
        return "Kizashi", f"Slack #{received.target}", slack_blocks(content)
    if received.door == "email":
        return content.get("subject") or "(no subject)", f"E-mail to {received.target}", _mail(received)
    body = json.dumps(content, indent=2, ensure_ascii=False)
    return str(content.get("type", "message")), "Webhook", _code(body, "Body", open_=True)


def _mail(received: Received) -> str:
    content = received.content
    sender = f'<p class="from">From {escape(content.get("from") or "")}</p>'
    frame = (
        f'<iframe sandbox="{SANDBOX}" src="/mail/{received.number}" title="The e-mail as shown by a mail program" '
        'loading="lazy"></iframe>'
        if content.get("html")
        else ""
    )
    headers = "\n".join(f"{name}: {value}" for name, value in content.get("headers", []))
    text = _code(content.get("text") or "", "Text version", open_=not frame)
    return sender + frame + text + _code(headers, "Headers")


def _code(text: str, label: str, *, open_: bool = False) -> str:
    return (
        f'<details{" open" if open_ else ""}><summary>{label}</summary><pre tabindex="0">{escape(text)}</pre></details>'
    )


def slack_blocks(payload: dict[str, Any]) -> str:
    """Blocks as HTML; the plain text when there are none. The blocks have passed ``check_payload``."""
    blocks = payload.get("blocks") or [{"type": "section", "text": {"type": "mrkdwn", "text": payload.get("text", "")}}]
    return '<div class="blocks">' + "".join(_block(block) for block in blocks) + "</div>"


def _block(block: dict[str, Any]) -> str:
    match block["type"]:
        case "header":
            return f"<h3>{_text(block['text'])}</h3>"
        case "section":
            text = f"<p>{_text(block['text'])}</p>" if "text" in block else ""
            fields = "".join(f"<li>{_text(field)}</li>" for field in block.get("fields", []))
            return text + (f'<ul class="fields">{fields}</ul>' if fields else "")
        case "context":
            return '<p class="context">' + " ".join(_text(element) for element in block["elements"]) + "</p>"
        case "actions":
            return '<p class="actions">' + "".join(_button(element) for element in block["elements"]) + "</p>"
        case _:
            return "<hr>"


def _button(element: dict[str, Any]) -> str:
    style = "button primary" if element.get("style") == "primary" else "button"
    label = _text(element["text"])
    url = element.get("url", "")
    if not url.startswith(("http://", "https://")):
        return f'<span class="{style}">{label}</span>'
    return f'<a class="{style}" href="{escape(url)}" target="_blank" rel="noreferrer">{label}</a>'


def _text(text: dict[str, Any]) -> str:
    return plain(text["text"]) if text["type"] == "plain_text" else mrkdwn(text["text"])


def plain(text: str) -> str:
    return escape(_unescaped(text)).replace("\n", "<br>")


def mrkdwn(text: str) -> str:
    """Slack's markup as Slack reads it: ``<…>`` is a mention or a link, the three entities are characters."""
    pieces = _REFERENCE.split(text)
    return "".join(_reference(piece) if odd % 2 else _styled(piece) for odd, piece in enumerate(pieces))


def _styled(text: str) -> str:
    return _BOLD.sub(r"<strong>\1</strong>", plain(text))


def _reference(inside: str) -> str:
    target, _, label = inside.partition("|")
    if target.startswith(("@", "#")):
        return f'<span class="mention">{plain(label or target)}</span>'
    if target.startswith("!"):
        return f'<span class="mention everyone">@{plain(label or target[1:])}</span>'
    if target.startswith(("http://", "https://", "mailto:")):
        return f'<a href="{escape(_unescaped(target))}" target="_blank" rel="noreferrer">{plain(label or target)}</a>'
    return plain(f"<{inside}>")


def _unescaped(text: str) -> str:
    return _ENTITY.sub(lambda match: _ENTITIES[match.group()], text)
