"""The words of messages in English and Japanese, and how numbers, money, days and instants read in each.

A table instead of gettext catalogues: small, typed, and a missing translation fails a test instead of falling back.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from babel.dates import format_date, format_datetime
from babel.numbers import format_currency, format_decimal

from alerts.render.view import Kind, Language

LOCALES: dict[Language, str] = {"en": "en", "ja": "ja_JP"}

KIND_TITLES: dict[Language, dict[Kind, str]] = {
    "en": {
        "opened": "{title}: {who}",
        "reopened": "Again: {title}: {who}",
        "renotified": "Still open: {title}: {who}",
        "escalated": "Now {severity}: {title}: {who}",
        "resolved": "Resolved: {title}: {who}",
        "withdrawn": "Taken back: {title}: {who}",
    },
    "ja": {
        "opened": "{title}：{who}",
        "reopened": "再発：{title}：{who}",
        "renotified": "継続中：{title}：{who}",
        "escalated": "重大度が「{severity}」に上昇：{title}：{who}",
        "resolved": "解消：{title}：{who}",
        "withdrawn": "取り消し：{title}：{who}",
    },
}

LEADS: dict[Language, dict[Kind, str]] = {
    "en": {
        "opened": "",
        "reopened": "This has come back after it was resolved.",
        "renotified": "A reminder: this alert is still open.",
        "escalated": "This alert has become more serious.",
        "resolved": "This alert is resolved. You need do nothing more for it.",
        "withdrawn": "Sorry, we were wrong: a late event shows that this alert should not have been sent. "
        "Please disregard it.",
    },
    "ja": {
        "opened": "",
        "reopened": "一度解消したアラートが再び発生しました。",
        "renotified": "リマインダー：このアラートはまだ対応中です。",
        "escalated": "このアラートの重大度が上がりました。",
        "resolved": "このアラートは解消しました。追加の対応は不要です。",
        "withdrawn": "お詫びと訂正：遅れて届いたイベントにより、先ほどのアラートは誤りだったことが分かりました。"
        "このアラートは無視してください。",
    },
}

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "mrr": "MRR",
        "plan": "Plan",
        "renewal": "Renewal",
        "why": "Why",
        "why_then": "What the alert said",
        "since": "Since",
        "last_seen": "Last seen",
        "last_login": "Last login",
        "never": "never",
        "owner": "Owner",
        "nobody": "nobody",
        "health": "Health",
        "score": "{score} of 100, {band}",
        "contributions": "What weighs on the score",
        "next": "Suggested next step",
        "open": "Open in Kizashi",
        "ago_0": "less than a day ago",
        "ago_1": "1 day ago",
        "ago_n": "{n} days ago",
        "in_0": "today",
        "in_1": "in 1 day",
        "in_n": "in {n} days",
        "past_1": "1 day ago",
        "past_n": "{n} days ago",
        "pair": "{a} ({b})",
        "line": "{a}: {b}",
        "sentences": "{a}. {b}",
        "footer": "Sent by Kizashi because you look after this account.",
        "info": "info",
        "warning": "warning",
        "critical": "critical",
        "green": "green",
        "yellow": "yellow",
        "red": "red",
    },
    "ja": {
        "mrr": "MRR",
        "plan": "プラン",
        "renewal": "更新日",
        "why": "理由",
        "why_then": "アラートの内容",
        "since": "発生日時",
        "last_seen": "最終利用",
        "last_login": "最終ログイン",
        "never": "なし",
        "owner": "担当者",
        "nobody": "未設定",
        "health": "ヘルススコア",
        "score": "{score}点（100点満点）・{band}",
        "contributions": "スコアの主な要因",
        "next": "推奨アクション",
        "open": "Kizashiで開く",
        "ago_0": "24時間以内",
        "ago_1": "1日前",
        "ago_n": "{n}日前",
        "in_0": "本日",
        "in_1": "1日後",
        "in_n": "{n}日後",
        "past_1": "1日前",
        "past_n": "{n}日前",
        "pair": "{a}（{b}）",
        "line": "{a}：{b}",
        "sentences": "{a}。{b}",
        "footer": "このアカウントの担当者としてKizashiからお送りしています。",
        "info": "情報",
        "warning": "警告",
        "critical": "緊急",
        "green": "緑",
        "yellow": "黄",
        "red": "赤",
    },
}


def word(key: str, language: Language, **values: object) -> str:
    return WORDS[language][key].format(**values)


def money(amount: Decimal, currency: str | None, language: Language) -> str:
    """``¥150,000``, ``€1,200.50``; the bare number when the currency is not known; no empty decimals."""
    whole = amount == amount.to_integral_value()
    if not currency or len(currency) != 3 or not currency.isascii() or not currency.isalpha():
        return format_decimal(amount, locale=LOCALES[language])
    shown = amount.to_integral_value() if whole else amount
    pattern = "¤#,##0" if whole else None
    return format_currency(shown, currency.upper(), format=pattern, locale=LOCALES[language], currency_digits=not whole)


def points(value: float, language: Language) -> str:
    """Signed, with a real minus: ``+4``, ``−22.5``."""
    sign = "+" if value >= 0 else "−"
    return sign + number(abs(value), language)


def number(value: float, language: Language) -> str:
    return format_decimal(Decimal(repr(value)), format="#,##0.#", locale=LOCALES[language])


def zone(name: str) -> ZoneInfo:
    """The reader's zone; UTC when the name is unknown: a message with UTC times beats none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


def instant(at: datetime, now: datetime, zone_name: str, language: Language) -> str:
    """``16 Feb 2026, 18:30 JST (14 days ago)``: in the reader's zone, its age in whole elapsed days.

    Not babel's timedelta, which would say "2 weeks" where the rule says 14 days.
    """
    pattern = "d MMM y, HH:mm" if language == "en" else "y年M月d日 H:mm"
    there = at.astimezone(zone(zone_name))
    shown = f"{format_datetime(there, pattern, locale=LOCALES[language])} {there.tzname()}"
    days = max((now - at).days, 0)
    return word("pair", language, a=shown, b=_counted("ago", days, language))


def day(on: date, now: datetime, zone_name: str, language: Language) -> str:
    """``1 May 2026 (in 60 days)``, counted from the reader's today."""
    days = (on - now.astimezone(zone(zone_name)).date()).days
    shown = format_date(on, "d MMM y" if language == "en" else "y年M月d日", locale=LOCALES[language])
    return word("pair", language, a=shown, b=_counted("in" if days >= 0 else "past", abs(days), language))


def _counted(stem: str, n: int, language: Language) -> str:
    return word(f"{stem}_{n if n < 2 else 'n'}", language, n=format_decimal(n, locale=LOCALES[language]))
