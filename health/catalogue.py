"""The catalogue of signals: the one place that names what rules and scorecards may speak of.

A signal is a named measure of one account at one instant. Rules, scorecards, the evaluator, the API and
``docs/signals.md`` all read names, types, units and meanings from here; ``health/signals/`` computes exactly these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

SignalType = Literal["number", "boolean", "text", "date"]

_REFERENCE = re.compile(r"""\A([a-z][a-z0-9_]*)(?:\[(?:'((?:[^']|'')+)'|"((?:[^"]|"")+)")\])?\Z""")


@dataclass(frozen=True, slots=True, order=True)
class SignalRef:
    """A signal as a rule mentions it: ``days_since_login`` or ``days_since_feature['export']``."""

    name: str
    argument: str | None = None

    def __str__(self) -> str:
        if self.argument is None:
            return self.name
        quoted = self.argument.replace("'", "''")
        return f"{self.name}['{quoted}']"

    @classmethod
    def parse(cls, text: str) -> SignalRef:
        """The inverse of ``str``; double quotes are taken too. A quote inside the argument is doubled, as in SQL.

        Raises ValueError for what is not written like a reference; whether the signal exists is ``check``'s matter.
        """
        match = _REFERENCE.match(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a signal; write name or name['argument']")
        name, single, double = match.groups()
        if single is not None:
            return cls(name, single.replace("''", "'"))
        if double is not None:
            return cls(name, double.replace('""', '"'))
        return cls(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One entry of the catalogue.

    ``needs`` names what it is computed from (tables of ``health/tables.py``, or the scorecard). ``absence``: its value
    may only mean that we did not look, so it is to be believed for observed time alone. ``parameter`` names the
    argument the signal must be given in brackets, or None.
    """

    name: str
    type: SignalType
    unit: str
    meaning: Mapping[str, str]
    needs: tuple[str, ...]
    absence: bool = False
    parameter: str | None = None


def _signal(
    name: str,
    type_: SignalType,
    unit: str,
    needs: str,
    en: str,
    ja: str,
    *,
    absence: bool = False,
    parameter: str | None = None,
) -> Signal:
    return Signal(
        name=name,
        type=type_,
        unit=unit,
        meaning=MappingProxyType({"en": en, "ja": ja}),
        needs=tuple(needs.split()),
        absence=absence,
        parameter=parameter,
    )


_ALL = (
    # Activity
    _signal(
        "days_since_login",
        "number",
        "days",
        "accounts gaps",
        "Whole days of observed time since the last login; since the start when nobody ever logged in",
        "最後のログインからの経過日数(観測できた時間のみ)。一度もログインがなければ利用開始から",
        absence=True,
    ),
    _signal(
        "days_since_activity",
        "number",
        "days",
        "accounts gaps",
        "Whole days of observed time since anybody last did anything; since the start when nobody ever did",
        "最後の利用からの経過日数(観測できた時間のみ)。一度も利用がなければ利用開始から",
        absence=True,
    ),
    _signal(
        "logins_7d",
        "number",
        "logins",
        "account_months gaps",
        "Logins in the last 7 days",
        "直近7日間のログイン回数",
        absence=True,
    ),
    _signal(
        "logins_28d",
        "number",
        "logins",
        "account_months gaps",
        "Logins in the last 28 days",
        "直近28日間のログイン回数",
        absence=True,
    ),
    _signal(
        "events_28d",
        "number",
        "events",
        "account_months gaps",
        "Logins, uses and other activity in the last 28 days",
        "直近28日間の利用イベント数",
        absence=True,
    ),
    _signal(
        "active_days_28d",
        "number",
        "days",
        "account_months gaps",
        "Days with any activity among the last 28",
        "直近28日間のうち利用のあった日数",
        absence=True,
    ),
    _signal(
        "usage_change_28d",
        "number",
        "change",
        "account_months gaps",
        "Events of the last 28 days against the 28 before, as a fraction: -0.5 is half; unknown without earlier ones",
        "直近28日間の利用イベント数の、その前の28日間に対する増減率(-0.5は半減)。以前の利用がなければ不明",
        absence=True,
    ),
    _signal(
        "usage_change_7d_28d",
        "number",
        "change",
        "account_months gaps",
        "Events of the last 7 days against the mean week of the four before, as a fraction; unknown without any",
        "直近7日間の利用イベント数の、その前の4週間の週平均に対する増減率。以前の利用がなければ不明",
        absence=True,
    ),
    # Adoption
    _signal(
        "active_users_28d",
        "number",
        "users",
        "user_months gaps",
        "Different users active in the last 28 days",
        "直近28日間に利用したユーザー数",
        absence=True,
    ),
    _signal(
        "seat_utilisation",
        "number",
        "fraction",
        "user_months account_attributes gaps",
        "Users active in the last 28 days per seat; unknown without seats",
        "契約シート数に対する直近28日間の利用ユーザー数の割合。シート数がなければ不明",
        absence=True,
    ),
    _signal(
        "features_used_28d",
        "number",
        "features",
        "features gaps",
        "Different features used in the last 28 days",
        "直近28日間に使われた機能の数",
        absence=True,
    ),
    _signal(
        "feature_used",
        "boolean",
        "",
        "features accounts",
        "Whether the feature was ever used",
        "その機能が一度でも使われたか",
        absence=True,
        parameter="feature",
    ),
    _signal(
        "days_since_feature",
        "number",
        "days",
        "features accounts gaps",
        "Whole days of observed time since the feature was last used; since the start when it never was",
        "その機能を最後に使ってからの経過日数(観測できた時間のみ)。未使用なら利用開始から",
        absence=True,
        parameter="feature",
    ),
    # Rhythm
    _signal(
        "silence_ratio",
        "number",
        "times",
        "account_months fleets gaps",
        "Days of silence per usual pause of this account; on days on which everybody is quiet little time passes",
        "通常の利用間隔に対する現在の無利用期間の倍率。全体の利用が少ない日は短く数える",
        absence=True,
    ),
    _signal(
        "pause_tail",
        "number",
        "fraction",
        "account_months fleets gaps",
        "Share of the pauses of this account and of accounts of a similar rhythm that lasted longer than this silence",
        "同社および似たリズムの顧客の利用間隔のうち、現在の無利用期間より長かったものの割合",
        absence=True,
    ),
    _signal(
        "churn_odds",
        "number",
        "times",
        "account_months fleets gaps",
        "Odds of leaving within 28 days against those of the average account, by rhythm alone",
        "28日以内に解約するオッズの平均比(利用リズムのみによる)",
        absence=True,
    ),
    # Commercial
    _signal(
        "days_to_renewal",
        "number",
        "days",
        "account_attributes",
        "Days from today's date (UTC) to the renewal date; 0 on that day, negative after it",
        "契約更新日までの日数(UTC)。当日は0、過ぎると負の値",
    ),
    _signal("mrr", "number", "money", "account_attributes", "Monthly recurring revenue", "月次経常収益(MRR)"),
    _signal("seats", "number", "seats", "account_attributes", "Seats under contract", "契約シート数"),
    _signal(
        "failed_payments",
        "number",
        "payments",
        "records",
        "Payments that stand failed or overdue",
        "失敗または延滞のままの支払い件数",
    ),
    _signal(
        "failed_payments_30d",
        "number",
        "payments",
        "records",
        "Payments that failed or fell overdue in the last 30 days and are not paid since",
        "直近30日間に失敗または延滞し、まだ支払われていない件数",
    ),
    _signal("plan", "text", "", "account_attributes", "Plan", "プラン"),
    _signal(
        "status",
        "text",
        "",
        "account_attributes",
        "active, trial, paused or ended; ended and paused accounts leave every rule that does not name it",
        "契約状態(active、trial、paused、ended)。終了・停止中の顧客は、この項目を使わないルールの対象外",
    ),
    _signal("segment", "text", "", "account_attributes", "Segment", "セグメント"),
    _signal(
        "touch_model",
        "text",
        "",
        "account_attributes",
        "How the account is looked after: high, low or tech touch",
        "対応モデル(ハイタッチ、ロータッチ、テックタッチ)",
    ),
    _signal("owner", "text", "", "account_attributes", "Person in charge", "担当者"),
    # Support
    _signal(
        "open_tickets",
        "number",
        "tickets",
        "records",
        "Tickets open or pending",
        "未解決(対応中・保留)のチケット数",
    ),
    _signal(
        "nps_last",
        "number",
        "score",
        "records",
        "Score of the latest NPS answer, 0 to 10; unknown without one",
        "最新のNPS回答の点数(0〜10)。回答がなければ不明",
    ),
    _signal(
        "days_since_survey",
        "number",
        "days",
        "records accounts gaps",
        "Whole days of observed time since the last survey answer; since the start when there is none",
        "最後のアンケート回答からの経過日数(観測できた時間のみ)。回答がなければ利用開始から",
        absence=True,
    ),
    _signal(
        "days_since_contact",
        "number",
        "days",
        "accounts gaps",
        "Whole days of observed time since we last called, wrote or met; since the start when we never did",
        "最後の接触(電話・メール・面談)からの経過日数(観測できた時間のみ)。なければ利用開始から",
        absence=True,
    ),
    # Onboarding
    _signal(
        "days_since_start",
        "number",
        "days",
        "accounts",
        "Whole days since the account started (its contract or trial, else its first event)",
        "利用開始(契約・トライアル開始、なければ最初のイベント)からの経過日数",
    ),
    _signal("milestones_done", "number", "milestones", "records", "Milestones reached", "達成済みマイルストーン数"),
    _signal(
        "onboarding_overdue_milestones",
        "number",
        "milestones",
        "records",
        "Planned milestones past their due date and not reached; unknown without any milestone",
        "期日を過ぎて未達成のマイルストーン数。マイルストーンがなければ不明",
    ),
    _signal(
        "goals_reached",
        "number",
        "goals",
        "records",
        "Goals of the customer that are reached; unknown when none was ever set",
        "達成済みの顧客目標数。目標が設定されていなければ不明",
    ),
    # Score, filled in after scoring
    _signal(
        "score",
        "number",
        "score",
        "scorecard",
        "Health score, 0 to 100; unknown below the scorecard's minimum confidence",
        "ヘルススコア(0〜100)。情報が不足していれば不明",
        absence=True,
    ),
    _signal(
        "score_change_28d",
        "number",
        "score",
        "scorecard score_history",
        "Score now minus the score 28 days ago",
        "28日前からのスコアの変化",
        absence=True,
    ),
    _signal(
        "band",
        "text",
        "",
        "scorecard",
        "green, yellow or red, by the scorecard's borders",
        "スコアの色(green、yellow、red)",
        absence=True,
    ),
)

SIGNALS: Mapping[str, Signal] = MappingProxyType({signal.name: signal for signal in _ALL})
"""Every signal by name, in the order of the docs page."""

SCORE_SIGNALS = frozenset({"score", "score_change_28d", "band"})
"""Known only after scoring: the evaluator fills them in, a scorecard may not use them."""


def check(ref: SignalRef) -> Signal:
    """The catalogue's entry for ``ref``. Raises ValueError with problem and remedy for an unknown or misused one."""
    signal = SIGNALS.get(ref.name)
    if signal is None:
        raise ValueError(f"there is no signal called {ref.name!r}")
    if signal.parameter is None and ref.argument is not None:
        raise ValueError(f"{ref.name} takes no argument; write {ref.name}")
    if signal.parameter is not None and ref.argument is None:
        raise ValueError(f"{ref.name} needs a {signal.parameter}; write {ref.name}['…']")
    return signal
