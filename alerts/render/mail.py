"""The alert as an e-mail: plain text and HTML without images, styles inline because mail programs drop the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from html import escape
from uuid import UUID

from alerts.render.clean import clean_header
from alerts.render.parts import Parts, parts
from alerts.render.view import CLOSING, AlertView, Language
from alerts.render.wording import word

MAX_SUBJECT = 160
_SPEC = r"[^\s<>,;:\\\"()\[\]@]+@[^\s<>,;:\\\"()\[\]@]+"
_ADDRESS = re.compile(rf"([^<>\r\n]*)<({_SPEC})>|({_SPEC})")
COLOURS = {"critical": "#b42318", "warning": "#b54708", "info": "#175cd3"}
CLOSED_COLOUR = "#067647"
MUTED = "#667085"
FONT = "font-family:-apple-system,'Segoe UI','Hiragino Sans','Noto Sans JP',Roboto,Helvetica,Arial,sans-serif"


def mail(
    view: AlertView, language: Language, *, delivery_id: UUID, sender: str, recipient: str, date: datetime
) -> EmailMessage:
    """``sender`` may be ``Name <address>``; ``recipient`` is a bare address; ``date`` is the time of this attempt.

    The Message-ID comes from the delivery, so repetitions are recognisable; messages of an episode form a thread.
    Raises ``ValueError`` for an address that is none.
    """
    said = parts(view, language)
    origin = _address(sender)
    message = EmailMessage(policy=SMTP)
    message["Subject"] = clean_header(said.title, MAX_SUBJECT)
    message["From"] = origin
    message["To"] = _address(recipient)
    message["Date"] = format_datetime(date)
    message["Message-ID"] = f"<{delivery_id}@{origin.domain}>"
    message["References"] = f"<episode.{view.episode_id}@{origin.domain}>"
    message["Content-Language"] = language
    message["Auto-Submitted"] = "auto-generated"
    if view.unsubscribe_url and view.unsubscribe_url.startswith("https://"):
        message["List-Unsubscribe"] = f"<{clean_header(view.unsubscribe_url, 1000)}>"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content(_text(said, language), cte="base64" if language == "ja" else "quoted-printable")
    message.add_alternative(_html(view, said, language), subtype="html", cte="base64")
    return message


def _address(text: str) -> Address:
    """``name@host`` or ``Shown name <name@host>``. Refuses what it does not know rather than mending it."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None:
        raise ValueError("not an e-mail address: write name@example.com")
    name, bracketed, bare = match.groups()
    return Address(display_name=clean_header(name or "", 80), addr_spec=bracketed or bare)


def _rows(said: Parts, language: Language) -> Sequence[tuple[str, str]]:
    rows = [*said.facts, (word("owner", language), said.owner)]
    if said.health:
        rows.append((word("health", language), said.health))
    if said.contributions:
        rows.append((word("contributions", language), ", ".join(said.contributions)))
    return rows


def _text(said: Parts, language: Language) -> str:
    blocks = [said.title, said.lead, _line(said.why_label, said.why, language) if said.why else ""]
    blocks.append("\n".join(_line(*row, language) for row in _rows(said, language)))
    if said.next_step:
        blocks.append(_line(word("next", language), said.next_step, language))
    if said.url:
        blocks.append(_line(word("open", language), said.url, language))
    blocks.append(f"-- \n{word('footer', language)}")
    return "\n\n".join(block for block in blocks if block) + "\n"


def _line(label: str, value: str, language: Language) -> str:
    return word("line", language, a=label, b=value)


def _html(view: AlertView, said: Parts, language: Language) -> str:
    colour = CLOSED_COLOUR if view.kind in CLOSING else COLOURS[view.severity]
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left;vertical-align:top;padding:4px 16px 4px 0;font-weight:normal;'
        f'color:{MUTED};white-space:nowrap">{escape(label)}</th>'
        f'<td style="padding:4px 0;color:#101828">{escape(value)}</td></tr>'
        for label, value in _rows(said, language)
    )
    return (
        f'<!DOCTYPE html><html lang="{language}"><head><meta charset="utf-8">'
        f'<meta name="color-scheme" content="light"><title>{escape(said.title)}</title></head>'
        f'<body style="margin:0;padding:24px;background:#f2f4f7;{FONT};font-size:15px;line-height:1.5;color:#101828">'
        '<div style="max-width:600px;margin:0 auto;background:#ffffff;border-radius:12px;overflow:hidden;'
        f'border-top:4px solid {colour}"><div style="padding:24px">'
        f'<h1 style="margin:0 0 16px;font-size:20px;line-height:1.3;color:{colour}">{escape(said.title)}</h1>'
        + (_paragraph(said.lead) if said.lead else "")
        + (_paragraph(said.why, said.why_label) if said.why else "")
        + f'<table style="border-collapse:collapse;margin:0 0 16px;font-size:14px">{rows}</table>'
        + (_paragraph(said.next_step, word("next", language)) if said.next_step else "")
        + (_button(said.url, word("open", language), colour) if said.url else "")
        + f'</div></div><p style="max-width:600px;margin:16px auto 0;font-size:12px;color:{MUTED}">'
        + escape(word("footer", language))
        + "</p></body></html>"
    )


def _paragraph(text: str, label: str = "") -> str:
    strong = f"<strong>{escape(label)}</strong><br>" if label else ""
    return f'<p style="margin:0 0 16px">{strong}{escape(text)}</p>'


def _button(url: str, label: str, colour: str) -> str:
    return (
        f'<p style="margin:8px 0 0"><a href="{escape(url)}" style="display:inline-block;padding:10px 18px;'
        f'border-radius:8px;background:{colour};color:#ffffff;text-decoration:none;font-weight:600">'
        f"{escape(label)}</a></p>"
    )
