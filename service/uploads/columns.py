"""What the columns of an upload are called, in English and in Japanese. Pure."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from service.uploads.sheet import Sheet, SheetFault

ACCOUNT_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "account_id": ("account", "id", "customer id", "company id", "アカウントID", "アカウント", "顧客ID", "顧客コード",
                   "取引先ID", "取引先コード", "会社ID"),
    "name": ("account name", "company", "company name", "customer", "customer name", "アカウント名", "会社名", "顧客名",
             "取引先名", "企業名", "名前"),
    "plan": ("プラン", "契約プラン", "料金プラン"),
    "mrr": ("monthly recurring revenue", "monthly revenue", "月次経常収益", "月額", "月額料金", "月次売上"),
    "currency": ("通貨", "通貨コード"),
    "owner": ("csm", "csm id", "account owner", "owner id", "担当", "担当者", "担当者ID", "担当CSM", "CSM担当"),
    "renewal_on": ("renewal", "renewal date", "renews on", "contract renewal", "契約更新日", "更新日", "次回更新日"),
    "segment": ("セグメント", "区分", "顧客区分"),
    "status": ("状態", "ステータス", "契約状態", "契約ステータス"),
    "seats": ("licenses", "licences", "seat count", "席数", "シート数", "ライセンス数", "契約席数"),
    "started_at": ("start", "start date", "started on", "customer since", "契約開始日", "利用開始日", "開始日"),
    "timezone": ("time zone", "タイムゾーン", "時間帯"),
    "country": ("国", "国コード"),
    "touch_model": ("touch", "タッチモデル", "タッチ"),
    "parent_account_id": ("parent", "parent account", "親アカウントID", "親会社ID", "親取引先ID"),
    "csm_email": ("csm e-mail", "csm mail", "owner email", "CSMメール", "担当者メール", "担当者メールアドレス"),
    "sales_owner": ("sales", "sales rep", "account executive", "営業", "営業担当", "営業担当者"),
}  # fmt: skip
PEOPLE_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "person_id": ("id", "person", "owner id", "csm id", "担当者ID", "ID", "社員番号"),
    "name": ("full name", "氏名", "名前", "担当者名"),
    "email": ("e-mail", "mail", "email address", "メール", "メールアドレス", "Eメール"),
    "slack_id": ("slack", "slack user", "slack user id", "SlackID", "スラックID"),
    "language": ("lang", "言語"),
    "timezone": ("time zone", "タイムゾーン"),
    "role": ("役割", "職種", "役職"),
    "manager": ("manager id", "boss", "上司", "上司ID", "マネージャー"),
    "stand_in": ("stand in", "deputy", "backup", "代理", "代理人", "代理ID"),
}  # fmt: skip
TRAIT: Final = "trait:"
"""Before the name of a column that is a trait of one's own."""
_SPACING: Final = re.compile(r"[\s_\-]+")


@dataclass(frozen=True)
class Unused:
    """A column that means nothing here; ``nearest``: what may have been meant."""

    column: str
    nearest: str | None


@dataclass(frozen=True)
class Columns:
    """``fields``: the field of each column in its place, None for unused ones."""

    fields: tuple[str | None, ...]
    unused: tuple[Unused, ...]


def match(sheet: Sheet, known: Mapping[str, Sequence[str]], key: str) -> Columns:
    """Raises SheetFault when ``key`` is missing or a field has two columns."""
    names = {_plain(name): field for field, others in known.items() for name in (field, *others)}
    fields: list[str | None] = []
    unused: list[Unused] = []
    for place, column in enumerate(sheet.header, start=1):
        field = names.get(_plain(column))
        if field is None and column.lower().startswith(TRAIT) and key == "account_id":
            field = column[len(TRAIT) :].strip() or None
        if field is not None and field in fields:
            other = sheet.header[fields.index(field)]
            raise SheetFault(f"{other!r} and {column!r} both mean {field}", "keep one of the two columns")
        if field is None and column:
            nearest = difflib.get_close_matches(_plain(column), names, n=1, cutoff=0.75)
            unused.append(Unused(column, names[nearest[0]] if nearest else None))
        elif field is None and any(len(line.cells) >= place and line.cells[place - 1] for line in sheet.lines):
            unused.append(Unused(f"column {place}", None))
        fields.append(field)
    if key not in fields:
        examples = ", ".join(repr(name) for name in (key, *known[key][-3:-1]))
        raise SheetFault(f"no column says which row it is: {key} is missing", f"name it {examples} in the header line")
    return Columns(fields=tuple(fields), unused=tuple(unused))


def _plain(name: str) -> str:
    return _SPACING.sub("", unicodedata.normalize("NFKC", name)).lower()
