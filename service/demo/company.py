"""The sample company: its customers, who looks after them, and what kind of story each of them is. Pure.

Everything follows from (seed, anchor, number of accounts): the anchor is the instant of the demo's first start, and all
dates are laid around it. What happens on a day is in ``service/demo/plans.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final, Literal, TypeVar

from service.demo import names

T = TypeVar("T")

ACCOUNTS: Final = 300
HISTORY_DAYS: Final = 180

Archetype = Literal[
    "healthy", "expanding", "fading", "silent", "champion_gone", "onboarding_stalled", "payment_failing", "seasonal",
    "ended",
]  # fmt: skip
SHARES: Final[Mapping[Archetype, int]] = {
    "healthy": 150, "expanding": 30, "fading": 28, "silent": 20, "champion_gone": 20, "onboarding_stalled": 16,
    "payment_failing": 10, "seasonal": 16, "ended": 10,
}  # fmt: skip
"""Of 300."""

PLANS: Final = {  # plan: (share, lowest MRR in USD, highest, seats from, to, users)
    "starter": (0.30, 90, 250, 3, 8, 3),
    "team": (0.38, 300, 900, 8, 30, 5),
    "business": (0.24, 1_000, 4_500, 25, 90, 7),
    "enterprise": (0.08, 5_000, 18_000, 80, 400, 8),
}
SEGMENTS: Final = {"starter": "small", "team": "small", "business": "mid-market", "enterprise": "enterprise"}
TOUCH: Final = {"starter": "tech-touch", "team": "low-touch", "business": "high-touch", "enterprise": "high-touch"}
PLACES: Final = (  # country, time zone, currency, share
    ("JP", "Asia/Tokyo", "JPY", 0.45),
    ("US", "America/New_York", "USD", 0.14),
    ("US", "America/Los_Angeles", "USD", 0.10),
    ("GB", "Europe/London", "EUR", 0.07),
    ("DE", "Europe/Berlin", "EUR", 0.10),
    ("FR", "Europe/Paris", "EUR", 0.05),
    ("NL", "Europe/Amsterdam", "EUR", 0.03),
    ("SG", "Asia/Singapore", "USD", 0.03),
    ("AU", "Australia/Sydney", "USD", 0.03),
)
RATES: Final = {"USD": 1.0, "EUR": 0.9, "JPY": 150.0}
OWNERS_JA: Final = ("aiko", "ren", "mei")
OWNERS_EN: Final = ("tom", "sofia", "daniel")
UNOWNED_SHARE: Final = 0.01
BRANCHES: Final = {"JP": ("大阪支社", "福岡支社"), "US": ("Chicago branch", "Boston branch")}


@dataclass(frozen=True, kw_only=True)
class Account:
    """One customer. ``turn``: days before the anchor at which its story turned (it fell silent, its champion left).
    ``parent_id``: the customer that it is a branch of."""

    account_id: str
    name: str
    archetype: Archetype
    owner: str | None
    plan: str
    mrr: int
    currency: str
    seats: int
    users: tuple[str, ...]
    country: str
    timezone: str
    started_on: date
    renewal_on: date
    billing_day: int
    turn: int
    parent_id: str | None = None

    @property
    def japanese(self) -> bool:
        return self.country == "JP"

    @property
    def segment(self) -> str:
        return SEGMENTS[self.plan]

    @property
    def touch_model(self) -> str:
        return TOUCH[self.plan]


@dataclass(frozen=True, kw_only=True)
class Company:
    """The customers in one fixed order. ``anchor``: the instant of the first start; history ends there."""

    seed: int
    anchor: datetime
    history_days: int
    accounts: tuple[Account, ...]

    @property
    def history_from(self) -> date:
        return self.anchor.date() - timedelta(days=self.history_days)


class Draw:
    """Numbers that depend on their name alone, so that no draw moves another."""

    def __init__(self, *name: object) -> None:
        self._name = "/".join(map(str, name))

    def unit(self, *what: object) -> float:
        """In [0, 1)."""
        name = "/".join((self._name, *map(str, what)))
        return int.from_bytes(blake2b(name.encode(), digest_size=7).digest(), "big") / 2**56

    def between(self, low: int, high: int, *what: object) -> int:
        """Both ends included."""
        return low + int(self.unit(*what) * (high - low + 1))

    def pick(self, options: tuple[T, ...], *what: object) -> T:
        return options[int(self.unit(*what) * len(options))]


def make_company(seed: int, anchor: datetime, *, accounts: int = ACCOUNTS, history_days: int = HISTORY_DAYS) -> Company:
    """The same company for the same arguments. ``anchor`` must be aware."""
    if anchor.tzinfo is None:
        raise ValueError("the anchor has no time zone: give an aware instant")
    kinds = _kinds(accounts)
    named = _names(seed, accounts)
    made = tuple(_account(seed, anchor, number, kinds[number], named) for number in range(accounts))
    return Company(seed=seed, anchor=anchor, history_days=history_days, accounts=_with_branches(made))


def _with_branches(accounts: tuple[Account, ...]) -> tuple[Account, ...]:
    """In each language one healthy customer has two branches of its country, one that does well and one that fades."""
    branches: dict[str, Account] = {}
    for country, cities in BRANCHES.items():
        here = [account for account in reversed(accounts) if account.country == country]
        healthy = [account for account in here if account.archetype == "healthy"]
        fading = [account for account in here if account.archetype == "fading"]
        if len(healthy) < 2 or not fading:
            continue
        # Not of the first half: about those, stories are told.
        *_, smaller, parent = sorted(healthy[: max(2, len(healthy) // 2)], key=lambda account: account.mrr)
        for city, child in zip(cities, (smaller, fading[0]), strict=True):
            joint = " " if country == "JP" else ", "
            branches[child.account_id] = replace(
                child, name=f"{parent.name}{joint}{city}", owner=parent.owner, parent_id=parent.account_id
            )
    return tuple(branches.get(account.account_id, account) for account in accounts)


def _kinds(accounts: int) -> list[Archetype]:
    """Spread evenly, so that the first dozens are as mixed as the whole."""
    total = sum(SHARES.values())
    places = [
        ((nth + 0.5) / share, kind)
        for kind, share in SHARES.items()
        for nth in range(max(1, round(share * accounts / total)))
    ]
    places += [(2.0, "healthy")] * accounts
    return [kind for _, kind in sorted(places)[:accounts]]


def _names(seed: int, accounts: int) -> tuple[list[str], list[str]]:
    """Names in English and Japanese, each once, in a shuffled order."""
    draw = Draw(seed, "names")
    english = [f"{coined} {trade}" for coined in names.COINED for trade in names.TRADES]
    japanese = [f"{coined}{trade}" for coined in names.COINED_JA for trade in names.TRADES_JA]
    if accounts > min(len(english), len(japanese)):
        raise ValueError(f"there are names for {min(len(english), len(japanese))} accounts: ask for fewer")
    return sorted(english, key=draw.unit), sorted(japanese, key=draw.unit)


def _account(
    seed: int, anchor: datetime, number: int, archetype: Archetype, named: tuple[list[str], list[str]]
) -> Account:
    draw = Draw(seed, "account", number)
    plan, (_, low, high, seats_from, seats_to, users) = _weighted(
        [(item, item[1][0]) for item in PLANS.items()], draw.unit("plan")
    )
    country, timezone, currency, _ = _weighted([(place, place[3]) for place in PLACES], draw.unit("place"))
    mrr = (low + draw.unit("mrr") * (high - low)) * RATES[currency]
    step = 1000 if currency == "JPY" else 10
    japanese = country == "JP"
    owners = OWNERS_JA if japanese else OWNERS_EN
    people = sorted(names.USERS_JA if japanese else names.USERS, key=lambda name: draw.unit("user", name))
    return Account(
        account_id=f"acct-{number + 1:03d}",
        name=_company_name(draw, number, country, named),
        archetype=archetype,
        owner=None if draw.unit("unowned") < UNOWNED_SHARE else draw.pick(owners, "owner"),
        plan=plan,
        mrr=max(step, round(mrr / step) * step),
        currency=currency,
        seats=draw.between(seats_from, seats_to, "seats"),
        users=tuple(people[:users]),
        country=country,
        timezone=timezone,
        started_on=anchor.date() - timedelta(days=_age(draw, archetype)),
        renewal_on=anchor.date() + timedelta(days=draw.between(4, 364, "renewal")),
        billing_day=draw.between(1, 28, "billing"),
        turn=_turn(draw, archetype),
    )


def _company_name(draw: Draw, number: int, country: str, named: tuple[list[str], list[str]]) -> str:
    english, japanese = named
    if country == "JP":
        return f"株式会社{japanese[number]}" if draw.unit("form") < 0.5 else f"{japanese[number]}株式会社"
    return f"{english[number]} {draw.pick(names.FORMS[country], 'form')}".strip()


def _age(draw: Draw, archetype: Archetype) -> int:
    """Days that the account has been a customer."""
    if archetype == "onboarding_stalled":
        return draw.between(36, 75, "age")
    return draw.between(100, 1_400, "age")


def _turn(draw: Draw, archetype: Archetype) -> int:
    match archetype:
        case "silent":
            # Not within the two weeks that make a live alert: those stories are told on purpose.
            return draw.between(17, 80, "turn")
        case "champion_gone":
            return draw.between(18, 50, "turn")
        case "ended":
            return draw.between(20, 120, "turn")
        case _:
            return draw.between(30, 60, "turn")


def _weighted(options: list[tuple[Any, float]], unit: float) -> Any:
    for option, share in options:
        unit -= share
        if unit < 0:
            return option
    return options[-1][0]
