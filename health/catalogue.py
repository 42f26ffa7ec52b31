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
DayBorder = Literal["", "utc", "zone"]

WINDOWS = (7, 14, 28, 90)
"""Lengths in days of the windows in which activity is counted."""

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

    ``needs`` names what it is computed from: tables of ``health/tables.py``, kinds of records, or the scorecard; only
    what the signals in use need is read. ``absence``: its value may only mean that we did not look, so it is to be
    believed for observed time alone. ``day_border``: whose days it counts in, UTC's or the account's own; empty where
    days play no part. ``parameter`` names the argument the signal must be given in brackets, or None. ``valid``: from
    when on its values are right, for signals of configuration.
    """

    name: str
    type: SignalType
    unit: str
    meaning: Mapping[str, str]
    needs: tuple[str, ...]
    absence: bool = False
    day_border: DayBorder = ""
    parameter: str | None = None
    valid: Mapping[str, str] | None = None


def _signal(
    name: str,
    type_: SignalType,
    unit: str,
    needs: str,
    en: str,
    ja: str,
    *,
    absence: bool = False,
    day_border: DayBorder = "",
    parameter: str | None = None,
) -> Signal:
    return Signal(
        name=name,
        type=type_,
        unit=unit,
        meaning=MappingProxyType({"en": en, "ja": ja}),
        needs=tuple(needs.split()),
        absence=absence,
        day_border=day_border,
        parameter=parameter,
    )


def _windows(name: str, unit: str, needs: str, en: str, ja: str) -> tuple[Signal, ...]:
    """One signal per length of window; ``{}`` in the words stands for the days."""
    return tuple(
        _signal(
            f"{name}_{days}d", "number", unit, needs, en.format(days), ja.format(days), absence=True, day_border="utc"
        )
        for days in WINDOWS
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
        "business_days_since_login",
        "number",
        "days",
        "accounts account_attributes gaps",
        "Business days of the account's country that have ended since the day of the last login, by its time zone; "
        "days not wholly observed do not count; since the start when nobody ever logged in",
        "最後のログインの日の後に過ぎた営業日数(顧客の国とタイムゾーンによる。観測が欠けた日は数えない)。"
        "一度もログインがなければ利用開始から",
        absence=True,
        day_border="zone",
    ),
    _signal(
        "business_days_since_activity",
        "number",
        "days",
        "accounts account_attributes gaps",
        "Business days of the account's country that have ended since the day anybody last did anything, by its time "
        "zone; days not wholly observed do not count; since the start when nobody ever did",
        "最後の利用の日の後に過ぎた営業日数(顧客の国とタイムゾーンによる。観測が欠けた日は数えない)。"
        "一度も利用がなければ利用開始から",
        absence=True,
        day_border="zone",
    ),
    *_windows("logins", "logins", "account_months gaps", "Logins in the last {} days", "直近{}日間のログイン回数"),
    *_windows(
        "events",
        "events",
        "account_months gaps",
        "Logins, uses and other activity in the last {} days",
        "直近{}日間の利用イベント数",
    ),
    *_windows(
        "active_days",
        "days",
        "account_months gaps",
        "Days with any activity among the last {}",
        "直近{}日間のうち利用のあった日数",
    ),
    _signal(
        "usage_change_28d",
        "number",
        "change",
        "account_months gaps",
        "Events of the last 28 days against the 28 before, as a fraction: -0.5 is half; unknown without earlier ones",
        "直近28日間の利用イベント数の、その前の28日間に対する増減率(-0.5は半減)。以前の利用がなければ不明",
        absence=True,
        day_border="utc",
    ),
    _signal(
        "usage_change_7d_28d",
        "number",
        "change",
        "account_months gaps",
        "Events of the last 7 days against the mean week of the four before, as a fraction; unknown without any",
        "直近7日間の利用イベント数の、その前の4週間の週平均に対する増減率。以前の利用がなければ不明",
        absence=True,
        day_border="utc",
    ),
    _signal(
        "usage_change_28d_year",
        "number",
        "change",
        "account_months gaps",
        "Events of the last 28 days against the same four weeks a year (364 days) before, as a fraction; unknown "
        "without any then",
        "直近28日間の利用イベント数の、前年同期(364日前)の28日間に対する増減率。当時の利用がなければ不明",
        absence=True,
        day_border="utc",
    ),
    # Adoption
    *_windows(
        "active_users",
        "users",
        "user_months gaps",
        "Different users active in the last {} days",
        "直近{}日間に利用したユーザー数",
    ),
    _signal(
        "weekly_active_share",
        "number",
        "fraction",
        "user_months gaps",
        "Of the users active in the last 28 days, the share active in the last 7; unknown without any",
        "直近28日間に利用したユーザーのうち、直近7日間にも利用した割合。利用者がいなければ不明",
        absence=True,
        day_border="utc",
    ),
    _signal(
        "champion_silent_days",
        "number",
        "days",
        "user_months gaps",
        "Whole UTC days that have ended since the champion, the user with the most active days of the last 90, was "
        "last active; observed days only; unknown without any user",
        "チャンピオン(直近90日間で利用日数が最多のユーザー)が最後に利用した日の後に終わった日数"
        "(UTC、観測できた日のみ)。利用者がいなければ不明",
        absence=True,
        day_border="utc",
    ),
    _signal(
        "champion_gone",
        "boolean",
        "",
        "user_months gaps",
        "Whether the champion was not active in the last 28 days although other users were",
        "他のユーザーは利用しているのに、チャンピオンが直近28日間利用していないか",
        absence=True,
        day_border="utc",
    ),
    _signal(
        "seat_utilisation",
        "number",
        "fraction",
        "user_months account_attributes gaps",
        "Users active in the last 28 days per seat; unknown without seats",
        "契約シート数に対する直近28日間の利用ユーザー数の割合。シート数がなければ不明",
        absence=True,
        day_border="utc",
    ),
    _signal(
        "seat_utilisation_change_28d",
        "number",
        "change",
        "user_months account_attributes account_history gaps",
        "Seat utilisation minus what it was 28 days before, with the seats of then: -0.2 is a fifth of the seats; "
        "unknown when the seats of then are",
        "シート利用率の28日前からの変化(当時のシート数による。-0.2はシートの2割の減少)。当時のシート数がなければ不明",
        absence=True,
        day_border="utc",
    ),
    *_windows(
        "features_used",
        "features",
        "feature_months gaps",
        "Different features used in the last {} days",
        "直近{}日間に使われた機能の数",
    ),
    _signal(
        "feature_breadth_90d",
        "number",
        "fraction",
        "feature_months fleets gaps",
        "Share of the product's features (those in use at 5 % of the accounts or more) used in the last 90 days",
        "製品の機能(顧客の5%以上が利用しているもの)のうち、直近90日間に使われた割合",
        absence=True,
        day_border="utc",
    ),
    _signal(
        "features_never_used",
        "number",
        "features",
        "features fleets",
        "How many of the product's features (those in use at 5 % of the accounts or more) were never used",
        "製品の機能(顧客の5%以上が利用しているもの)のうち、一度も使われていないものの数",
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
        day_border="utc",
    ),
    _signal(
        "usual_pause",
        "number",
        "days",
        "account_months fleets gaps",
        "Days between two days of activity as this account usually has them, with others of its kind while it is new",
        "この顧客の通常の利用間隔(日数)。新しい顧客では似た顧客の値で補う",
        absence=True,
        day_border="utc",
    ),
    _signal(
        "pause_tail",
        "number",
        "fraction",
        "account_months fleets gaps",
        "Share of the pauses of this account and of accounts of a similar rhythm that lasted longer than this silence",
        "同社および似たリズムの顧客の利用間隔のうち、現在の無利用期間より長かったものの割合",
        absence=True,
        day_border="utc",
    ),
    _signal(
        "churn_odds",
        "number",
        "times",
        "account_months fleets gaps",
        "Odds of leaving within 28 days against those of the average account, by rhythm alone",
        "28日以内に解約するオッズの平均比(利用リズムのみによる)",
        absence=True,
        day_border="utc",
    ),
    # Commercial
    _signal(
        "days_to_renewal",
        "number",
        "days",
        "account_attributes",
        "Days from today's date in the account's time zone to the renewal date; 0 on that day, negative after it",
        "契約更新日までの日数(顧客のタイムゾーンの日付による)。当日は0、過ぎると負の値",
        day_border="zone",
    ),
    _signal(
        "business_days_to_renewal",
        "number",
        "days",
        "account_attributes",
        "Business days of the account's country from today until before the renewal date, by its time zone; negative "
        "after it; unknown more than five years away",
        "契約更新日の前日までの営業日数(今日を含む。顧客の国とタイムゾーンによる)。過ぎると負の値。5年より先は不明",
        day_border="zone",
    ),
    _signal("mrr", "number", "money", "account_attributes", "Monthly recurring revenue", "月次経常収益(MRR)"),
    _signal(
        "mrr_change_28d",
        "number",
        "change",
        "account_attributes account_history",
        "MRR against that of 28 days before, as a fraction: -0.1 is a tenth less; unknown without any then",
        "MRRの28日前に対する増減率(-0.1は1割減)。当時のMRRがなければ不明",
    ),
    _signal(
        "mrr_change_90d",
        "number",
        "change",
        "account_attributes account_history",
        "MRR against that of 90 days before, as a fraction; unknown without any then",
        "MRRの90日前に対する増減率。当時のMRRがなければ不明",
    ),
    _signal("seats", "number", "seats", "account_attributes", "Seats under contract", "契約シート数"),
    _signal(
        "failed_payments",
        "number",
        "payments",
        "payments",
        "Payments that stand failed or overdue",
        "失敗または延滞のままの支払い件数",
    ),
    _signal(
        "failed_payments_30d",
        "number",
        "payments",
        "payments",
        "Payments that failed or fell overdue in the last 30 days and are not paid since",
        "直近30日間に失敗または延滞し、まだ支払われていない件数",
    ),
    _signal(
        "payment_days_overdue",
        "number",
        "days",
        "payments account_attributes",
        "Days since the due date (without one, since the day it failed) of the oldest payment that stands failed or "
        "overdue, by the account's time zone; 0 when none does",
        "失敗または延滞のままの支払いのうち最も古いものの、支払期日(なければ失敗した日)からの日数"
        "(顧客のタイムゾーンによる)。なければ0",
        day_border="zone",
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
        "lifecycle_stage",
        "text",
        "",
        "accounts account_attributes",
        "Stage of life by the account's time zone: paused, ended or trial as its status says, else onboarding for the "
        "first 90 days, renewal for the last 90 up to the renewal date and past it, adoption in between",
        "ライフサイクル段階(顧客のタイムゾーンによる)。契約状態がpaused・ended・trialならその値、開始から90日間は"
        "onboarding、契約更新の90日前以降はrenewal、その間はadoption",
        day_border="zone",
    ),
    _signal(
        "touch_model",
        "text",
        "",
        "account_attributes",
        "How the account is looked after: high, low or tech touch",
        "対応モデル(ハイタッチ、ロータッチ、テックタッチ)",
    ),
    _signal("country", "text", "", "account_attributes", "Country of the account", "顧客の国"),
    _signal("timezone", "text", "", "account_attributes", "Time zone of the account", "顧客のタイムゾーン"),
    _signal("owner", "text", "", "account_attributes", "Person in charge", "担当者"),
    # Support
    _signal(
        "open_tickets",
        "number",
        "tickets",
        "tickets",
        "Tickets open or pending",
        "未解決(対応中・保留)のチケット数",
    ),
    _signal(
        "tickets_opened_7d",
        "number",
        "tickets",
        "tickets",
        "Tickets first heard of in the last 7 days",
        "直近7日間に作成されたチケット数",
    ),
    _signal(
        "tickets_opened_28d",
        "number",
        "tickets",
        "tickets",
        "Tickets first heard of in the last 28 days",
        "直近28日間に作成されたチケット数",
    ),
    _signal(
        "ticket_spike",
        "number",
        "times",
        "tickets",
        "Tickets of the last 7 days against the mean week of the four before, which count at least one",
        "直近7日間のチケット数の、その前の4週間の週平均(4週間で最低1件とみなす)に対する倍率",
    ),
    _signal(
        "hours_to_resolve_90d",
        "number",
        "hours",
        "tickets",
        "Mean hours from first hearing of a ticket to its solution, for those solved in the last 90 days; unknown "
        "without any",
        "直近90日間に解決したチケットの、作成から解決までの平均時間。なければ不明",
    ),
    _signal(
        "nps_last",
        "number",
        "score",
        "surveys",
        "Score of the latest NPS answer, 0 to 10; unknown without one",
        "最新のNPS回答の点数(0〜10)。回答がなければ不明",
    ),
    _signal(
        "nps_detractor",
        "boolean",
        "",
        "surveys",
        "Whether the latest NPS answer is 6 or less; unknown without one",
        "最新のNPS回答が6点以下(批判者)か。回答がなければ不明",
    ),
    _signal(
        "csat_last",
        "number",
        "score",
        "surveys",
        "Score of the latest CSAT answer, on the scale of its survey; unknown without one",
        "最新のCSAT回答の点数(そのアンケートの尺度による)。回答がなければ不明",
    ),
    _signal(
        "days_since_survey",
        "number",
        "days",
        "surveys accounts gaps",
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
    _signal(
        "business_days_since_contact",
        "number",
        "days",
        "accounts account_attributes gaps",
        "Business days of the account's country that have ended since the day of our last contact, by its time zone; "
        "days not wholly observed do not count; since the start when there was none",
        "最後の接触の日の後に過ぎた営業日数(顧客の国とタイムゾーンによる。観測が欠けた日は数えない)。"
        "なければ利用開始から",
        absence=True,
        day_border="zone",
    ),
    _signal(
        "sessions_attended_28d",
        "number",
        "sessions",
        "sessions gaps",
        "Different webinars, trainings and community events first attended in the last 28 days",
        "直近28日間に初めて参加したウェビナー・研修・コミュニティイベントの数",
        absence=True,
    ),
    _signal(
        "sessions_attended_90d",
        "number",
        "sessions",
        "sessions gaps",
        "Different webinars, trainings and community events first attended in the last 90 days",
        "直近90日間に初めて参加したウェビナー・研修・コミュニティイベントの数",
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
    _signal(
        "onboarding_day",
        "number",
        "days",
        "accounts account_attributes",
        "Which day of the first 90 it is, by the account's time zone: 1 on the day of the start; unknown after them",
        "利用開始から90日間の何日目か(顧客のタイムゾーンによる。開始日が1)。90日を過ぎると不明",
        day_border="zone",
    ),
    _signal("milestones_done", "number", "milestones", "milestones", "Milestones reached", "達成済みマイルストーン数"),
    _signal(
        "onboarding_overdue_milestones",
        "number",
        "milestones",
        "milestones account_attributes",
        "Planned milestones past their due date (by the account's time zone) and not reached; unknown without any "
        "milestone",
        "期日(顧客のタイムゾーンによる)を過ぎて未達成のマイルストーン数。マイルストーンがなければ不明",
        day_border="zone",
    ),
    _signal(
        "goals_reached",
        "number",
        "goals",
        "goals",
        "Goals of the customer that are reached; unknown when none was ever set",
        "達成済みの顧客目標数。目標が設定されていなければ不明",
    ),
    _signal(
        "goals_reached_share",
        "number",
        "fraction",
        "goals",
        "Share of the customer's goals that are reached, dropped ones left out; unknown when none stands",
        "顧客目標のうち達成済みの割合(取り下げを除く)。目標がなければ不明",
    ),
    _signal(
        "goals_progress",
        "number",
        "fraction",
        "goals gaps",
        "Mean progress of the customer's goals, dropped ones left out: 1 if reached or at the target of its signal, "
        "else the part of the target that its signal has come to, 0 without one; unknown when none stands",
        "顧客目標の平均進捗(取り下げを除く)。達成済みまたは目標値に到達していれば1、途中なら目標値に対する現在値の割合、"
        "指標がなければ0。目標がなければ不明",
        absence=True,
    ),
    _signal(
        "goals_on_track",
        "number",
        "fraction",
        "goals account_attributes gaps",
        "Share of the customer's goals, dropped ones left out, that are reached, at their target, or not past their "
        "due date and less than a tenth of the way behind an even pace to it; unknown when none stands",
        "顧客目標のうち、達成済み、目標値に到達、または期日前で進捗の遅れが1割未満のものの割合(取り下げを除く)。"
        "目標がなければ不明",
        absence=True,
        day_border="zone",
    ),
    _signal(
        "goals_behind",
        "number",
        "goals",
        "goals account_attributes gaps",
        "Goals not past their due date whose signal is a tenth of the way or more behind an even pace to its target",
        "期日前の顧客目標のうち、指標の進捗が目標値への均等な進み方より1割以上遅れているものの数",
        absence=True,
        day_border="zone",
    ),
    _signal(
        "goals_overdue",
        "number",
        "goals",
        "goals account_attributes gaps",
        "Goals past their due date (by the account's time zone), neither reached nor at their target",
        "期日(顧客のタイムゾーンによる)を過ぎて、達成も目標値への到達もしていない顧客目標の数",
        absence=True,
        day_border="zone",
    ),
    _signal(
        "goal_most_behind",
        "text",
        "",
        "goals account_attributes gaps",
        "The goal that is furthest behind its pace, with its signal as it stands and its target; — when none is",
        "予定の進捗から最も遅れている顧客目標と、その指標の現在値・目標値。遅れがなければ —",
        absence=True,
        day_border="zone",
    ),
    # Hierarchy
    _signal(
        "parent_account_id",
        "text",
        "",
        "account_attributes",
        "Id of the account's parent",
        "親アカウントのID",
    ),
    _signal(
        "children",
        "number",
        "accounts",
        "health",
        "Accounts below it at any depth; those ended or paused, and umbrellas, which only hold others, do not count",
        "配下のアカウント数(全階層。終了・停止中のもの、および束ねるだけのアカウントを除く)",
    ),
    _signal(
        "children_score",
        "number",
        "score",
        "health",
        "Mean score of its children, weighted by the MRR of each and all below it; an unknown MRR counts as the mean "
        "of the others; equal weights without any MRR or in several currencies; unknown without a scored child",
        "子アカウントのスコアの、配下を含むMRRによる加重平均。MRRが不明な子は他の平均とみなし、"
        "MRRがまったくない場合や通貨が異なる場合は単純平均。スコアのある子がなければ不明",
        absence=True,
    ),
    _signal(
        "children_red",
        "number",
        "accounts",
        "health",
        "Accounts below it, at any depth, that are red; unknown without any account below it",
        "配下のアカウント(全階層)のうち赤のものの数。配下がなければ不明",
        absence=True,
    ),
    _signal(
        "children_mrr",
        "number",
        "money",
        "health",
        "MRR of all accounts below it; unknown without any, or in several currencies",
        "配下の全アカウントのMRRの合計。MRRがない場合や通貨が異なる場合は不明",
    ),
    _signal(
        "children_mrr_at_risk",
        "number",
        "money",
        "health",
        "MRR at risk of all accounts below it; unknown without MRR, or in several currencies",
        "配下の全アカウントの、リスクのあるMRRの合計。MRRがない場合や通貨が異なる場合は不明",
        absence=True,
    ),
    _signal(
        "worst_child",
        "text",
        "",
        "health",
        "Name and id of the account below it, at any depth, with the lowest score; of equals the one with the most MRR",
        "配下のアカウント(全階層)のうち最もスコアの低いものの名称とID。同点ならMRRの大きいもの",
        absence=True,
    ),
    _signal(
        "worst_child_score",
        "number",
        "score",
        "health",
        "Score of the worst account below it",
        "配下で最もスコアの低いアカウントのスコア",
        absence=True,
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
        "Score now minus the score 28 days ago; unknown if another scorecard or a person made either",
        "28日前からのスコアの変化。どちらかが別のスコアカードまたは手動設定によるものなら不明",
        absence=True,
    ),
    _signal(
        "score_change_7d",
        "number",
        "score",
        "scorecard score_history",
        "Score now minus the score 7 days ago; unknown if another scorecard or a person made either",
        "7日前からのスコアの変化。どちらかが別のスコアカードまたは手動設定によるものなら不明",
        absence=True,
    ),
    _signal(
        "score_trend",
        "number",
        "score",
        "scorecard score_history",
        "Points a week by which the score rises or falls: the line through the days of the last 28 that the same "
        "scorecard made; unknown with fewer than 5 days or less than a week of them",
        "週あたりのスコアの増減(直近28日間のうち同じスコアカードによる日の回帰直線)。5日分または1週間分に満たなければ不明",
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

GOAL_TARGET_SIGNALS = frozenset(
    {"goals_progress", "goals_on_track", "goals_behind", "goals_overdue", "goal_most_behind"}
)
"""Those that look at the signals which goals are measured by, whichever these are."""

GOAL_SIGNALS = frozenset({"goals_reached", "goals_reached_share"}) | GOAL_TARGET_SIGNALS
"""All that come of goals: no goal is measured by them."""

SCORE_COURSE = frozenset({"score_change_7d", "score_change_28d", "score_trend"})
"""Those that compare the score with its past: they have a step at every day border."""

OF_CHILDREN = frozenset(signal.name for signal in _ALL if signal.needs == ("health",))
"""Made from what other accounts' evaluations found. Like a score they have no past that facts alone could tell."""

SCORE_SIGNALS = frozenset({"score", "band"}) | SCORE_COURSE
"""Known only after scoring: the evaluator fills them in, a scorecard may not use them."""


def check(ref: SignalRef, catalogue: Mapping[str, Signal] = SIGNALS) -> Signal:
    """The catalogue's entry for ``ref``. Raises ValueError with problem and remedy for an unknown or misused one."""
    signal = catalogue.get(ref.name)
    if signal is None:
        raise ValueError(f"there is no signal called {ref.name!r}")
    if signal.parameter is None and ref.argument is not None:
        raise ValueError(f"{ref.name} takes no argument; write {ref.name}")
    if signal.parameter is not None and ref.argument is None:
        raise ValueError(f"{ref.name} needs a {signal.parameter}; write {ref.name}['…']")
    return signal
