"""Risk list, portfolio and account: reads of `health`, the row per account that the evaluator keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, and_, case, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.tables import episodes, rule_activations
from consumers import progress
from health import observed, overrides
from health.gaps import Observed
from health.scorecards import explain
from health.source_bits import ANY
from health.tables import account_attributes, accounts, health, people
from service.queries import cursors
from service.queries.alerts import open_alerts
from service.queries.hierarchy import parent_of, rollup_of
from service.queries.owners import by_id_first, named, owned_by, owner_id, owner_name
from service.queries.types import (
    MAX_LIMIT,
    AccountDetail,
    Attribute,
    Choices,
    CurrencyTotal,
    Freshness,
    OpenAlert,
    OwnerChoice,
    Person,
    Portfolio,
    RiskFilter,
    RiskItem,
    RiskPage,
    RiskSort,
    RuleChoice,
    ScoreOverride,
    Stream,
)

ALERTS_PER_ITEM = 3
NOT_ENDED = func.coalesce(health.c.status, "active") != "ended"


class _Order(NamedTuple):
    column: ColumnElement[Any]
    kind: type
    descending: bool


ORDERS: Mapping[RiskSort, _Order] = {
    "score": _Order(health.c.score, float, False),
    "mrr_at_risk": _Order(health.c.mrr_at_risk, Decimal, True),
    "last_seen": _Order(health.c.last_seen_at, datetime, False),
    "renewal": _Order(health.c.renewal_on, date, False),
}


async def risk_list(
    conn: AsyncConnection,
    where: RiskFilter,
    sort: RiskSort,
    cursor: str | None,
    limit: int,
    now: datetime,
    *,
    stream: Stream,
) -> RiskPage:
    """A page of accounts, most pressing first. Raises BadCursorError."""
    order = ORDERS[sort]
    limit = min(limit, MAX_LIMIT)
    after = None if cursor is None else cursors.decode(cursor, f"accounts:{sort}", order.kind)
    query = _risk_query(where)
    if where.owners:
        query = query.where(await owned_by(conn, health.c.owner, where.owners))
    rows = await _keyset(conn, query, order, after, limit + 1)
    page = rows[:limit]
    open_by_account = await _open_alerts(conn, [row.account_id for row in page])
    fresh, seen = await _watched(conn, now, stream)
    seen_by = await _seen_by(conn, [row.account_id for row in page], seen)
    return RiskPage(
        items=tuple(
            _risk_item(row, open_by_account.get(row.account_id, ()), seen_by[row.account_id], now) for row in page
        ),
        next_cursor=(
            cursors.encode(f"accounts:{sort}", getattr(page[-1], order.column.key or ""), page[-1].account_id)
            if len(rows) > limit
            else None
        ),
        as_of=fresh.as_of,
        held_since=fresh.held_since,
        held_sources=fresh.held_sources,
    )


async def _keyset(
    conn: AsyncConnection, query: Select[Any], order: _Order, after: tuple[Any, str] | None, limit: int
) -> list[Row[Any]]:
    """Rows after (value, id): first those with a value, then those without. Two statements, because each of the two
    conditions alone is a range of the index, and their OR is not."""
    column, key = order.column, health.c.account_id
    rows: list[Row[Any]] = []
    if after is None or after[0] is not None:
        valued = query.where(column.is_not(None))
        if after is not None:
            value, last = after
            edge, beyond = (column <= value, column < value) if order.descending else (column >= value, column > value)
            valued = valued.where(edge, or_(beyond, key > last))
        ordered = valued.order_by(column.desc().nulls_last() if order.descending else column.asc(), key)
        rows += (await conn.execute(ordered.limit(limit))).all()
    if len(rows) < limit:
        unvalued = query.where(column.is_(None))
        if after is not None and after[0] is None:
            unvalued = unvalued.where(key > after[1])
        rows += (await conn.execute(unvalued.order_by(key).limit(limit - len(rows)))).all()
    return rows


def _risk_query(where: RiskFilter) -> Select[Any]:
    query = select(
        health,
        health.c.signals["score_change_28d"].as_float().label("score_change_28d"),
        owner_name(health.c.owner),
    )
    return query.where(*_conditions(where))


def _conditions(where: RiskFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if not where.include_ended:
        conditions.append(NOT_ENDED)
    if where.bands:
        conditions.append(health.c.band.in_(where.bands))
    if where.plans:
        conditions.append(health.c.plan.in_(where.plans))
    if where.min_mrr is not None:
        conditions.append(health.c.mrr >= where.min_mrr)
    if where.renews_before is not None:
        conditions.append(health.c.renewal_on < where.renews_before)
    if where.parent:
        conditions += [health.c.parent_id == where.parent, health.c.parent_problem.is_(None)]
    if where.text:
        conditions.append(
            or_(
                health.c.name.icontains(where.text, autoescape=True),
                health.c.account_id.icontains(where.text, autoescape=True),
            )
        )
    if where.rules:
        conditions.append(
            exists().where(
                episodes.c.state == "open",
                episodes.c.rule_id.in_(where.rules),
                episodes.c.account_id == health.c.account_id,
            )
        )
    return conditions


def _risk_item(row: Row[Any], alerts: Sequence[OpenAlert], seen: Observed, now: datetime) -> RiskItem:
    return RiskItem(
        account_id=row.account_id,
        name=row.name,
        plan=row.plan,
        owner=row.owner,
        owner_name=row.owner_name,
        segment=row.segment,
        status=row.status,
        mrr=row.mrr,
        currency=row.currency,
        renewal_on=row.renewal_on,
        score=row.score,
        score_change_28d=row.score_change_28d,
        explanation=_explanation(row.contributions),
        band=row.band,
        mrr_at_risk=row.mrr_at_risk,
        open_alerts=row.open_alerts,
        alerts=tuple(alerts),
        last_seen_at=row.last_seen_at,
        last_login_at=row.last_login_at,
        incomplete_since=seen.held_since(now),
        incomplete_sources=seen.silent_sources,
        evaluated_at=row.evaluated_at,
    )


SEVERITY_RANK = case({"critical": 0, "warning": 1, "info": 2}, value=episodes.c.severity, else_=3)


async def _open_alerts(conn: AsyncConnection, account_ids: Sequence[str]) -> dict[str, list[OpenAlert]]:
    """The worst open ones of each account, at most ALERTS_PER_ITEM."""
    place = (
        func.row_number()
        .over(partition_by=episodes.c.account_id, order_by=(SEVERITY_RANK, episodes.c.since, episodes.c.episode_id))
        .label("place")
    )
    ranked = (
        select(
            *(episodes.c[name] for name in (*OpenAlert.__struct_fields__, "account_id")),
            place,
        )
        .where(episodes.c.state == "open", episodes.c.account_id.in_(account_ids))
        .subquery()
    )
    found: dict[str, list[OpenAlert]] = {}
    query = select(ranked).where(ranked.c.place <= ALERTS_PER_ITEM).order_by(ranked.c.account_id, ranked.c.place)
    for row in (await conn.execute(query)).mappings():
        alert = OpenAlert(**{name: row[name] for name in OpenAlert.__struct_fields__})
        found.setdefault(row["account_id"], []).append(alert)
    return found


async def freshness(conn: AsyncConnection, now: datetime, *, stream: Stream) -> Freshness:
    """How complete the facts are at `now`, by the same judgement that holds the alerts."""
    return (await _watched(conn, now, stream))[0]


async def _watched(conn: AsyncConnection, now: datetime, stream: Stream) -> tuple[Freshness, Observed]:
    position = await progress.read(conn, stream.group, stream.topics)
    seen = await observed.read(conn, position.complete_through, now)
    fresh = Freshness(
        as_of=position.complete_through,
        held_since=seen.held_since(now),
        held_sources=seen.silent_sources,
        heard_at=position.heard_at,
        stopped=tuple(f"{topic}/{partition}: {reason}" for topic, partition, reason in position.stopped),
    )
    return fresh, seen


async def _seen_by(conn: AsyncConnection, account_ids: Sequence[str], seen: Observed) -> dict[str, Observed]:
    """What was observed of each account: a gap counts for those that its source has sent events of."""
    if not seen.bits:
        return dict.fromkeys(account_ids, seen)
    query = select(accounts.c.account_id, accounts.c.sources).where(accounts.c.account_id.in_(account_ids))
    masks = {row.account_id: row.sources for row in await conn.execute(query)}
    return {account_id: seen.seen_from(masks.get(account_id, ANY)) for account_id in account_ids}


async def portfolio(conn: AsyncConnection) -> Portfolio:
    """Counts by band and money by currency of all accounts that have not ended."""
    by = select(
        health.c.currency,
        health.c.band,
        func.count().label("accounts"),
        func.coalesce(func.sum(health.c.mrr), 0).label("mrr"),
        func.coalesce(func.sum(health.c.mrr_at_risk), 0).label("mrr_at_risk"),
        func.sum(health.c.open_alerts).label("open_alerts"),
    ).where(NOT_ENDED)
    rows = (await conn.execute(by.group_by(health.c.currency, health.c.band))).all()
    bands = {"green": 0, "yellow": 0, "red": 0, None: 0}
    totals: dict[str | None, CurrencyTotal] = {}
    for row in rows:
        bands[row.band] += row.accounts
        before = totals.get(row.currency)
        totals[row.currency] = CurrencyTotal(
            currency=row.currency,
            accounts=row.accounts + (before.accounts if before else 0),
            mrr=row.mrr + (before.mrr if before else 0),
            mrr_at_risk=row.mrr_at_risk + (before.mrr_at_risk if before else 0),
        )
    return Portfolio(
        accounts=sum(bands.values()),
        green=bands["green"],
        yellow=bands["yellow"],
        red=bands["red"],
        unknown=bands[None],
        open_alerts=sum(row.open_alerts for row in rows),
        totals=tuple(sorted(totals.values(), key=lambda total: (-total.accounts, total.currency or ""))),
    )


async def account(conn: AsyncConnection, account_id: str, now: datetime, *, stream: Stream) -> AccountDetail | None:
    """Everything on the account page but its courses over time; None: no such account.

    An account whose first event was stored but not evaluated yet is shown with what the facts say.
    """
    facts = (
        await conn.execute(
            select(accounts, account_attributes.c.fields)
            .select_from(
                accounts.outerjoin(account_attributes, account_attributes.c.account_id == accounts.c.account_id)
            )
            .where(accounts.c.account_id == account_id)
        )
    ).one_or_none()
    row = (await conn.execute(select(health).where(health.c.account_id == account_id))).one_or_none()
    if facts is None and row is None:
        return None
    fresh, watched = await _watched(conn, now, stream)
    seen = watched.seen_from(ANY if facts is None else facts.sources)
    attributes = {
        name: _attribute(register)
        for name, register in sorted((facts.fields if facts and facts.fields else {}).items())
    }
    owner = row.owner if row is not None else _text(attributes, "owner")
    return AccountDetail(
        account_id=account_id,
        name=row.name if row is not None else _text(attributes, "name"),
        plan=row.plan if row is not None else _text(attributes, "plan"),
        owner=owner,
        owner_person=None if owner is None else await find_owner(conn, owner),
        segment=row.segment if row is not None else _text(attributes, "segment"),
        status=row.status if row is not None else _text(attributes, "status"),
        mrr=row.mrr if row is not None else None,
        currency=row.currency if row is not None else _text(attributes, "currency"),
        renewal_on=row.renewal_on if row is not None else None,
        score=row.score if row is not None else None,
        band=row.band if row is not None else None,
        mrr_at_risk=row.mrr_at_risk if row is not None else None,
        scorecard=row.scorecard if row is not None else None,
        signals=(row.signals or {}) if row is not None else {},
        contributions=(row.contributions or []) if row is not None else [],
        explanation=_explanation(row.contributions) if row is not None else None,
        override=await _override(conn, account_id, now),
        parent=await parent_of(conn, row),
        rollup=None if row is None else rollup_of(row.rollup),
        attributes=attributes,
        alerts=await open_alerts(conn, account_id),
        first_event_at=facts.first_event_at if facts is not None else None,
        started_at=facts.started_at if facts is not None else None,
        last_seen_at=facts.last_activity_at if facts is not None else row.last_seen_at if row is not None else None,
        last_login_at=facts.last_login_at if facts is not None else row.last_login_at if row is not None else None,
        last_contact_at=facts.last_contact_at if facts is not None else None,
        logins=facts.logins if facts is not None else 0,
        events=facts.events if facts is not None else 0,
        incomplete_since=seen.held_since(now),
        incomplete_sources=seen.silent_sources,
        problem=row.problem if row is not None else None,
        evaluated_at=row.evaluated_at if row is not None else None,
        as_of=fresh.as_of,
        held_since=fresh.held_since,
        held_sources=fresh.held_sources,
    )


async def account_exists(conn: AsyncConnection, account_id: str) -> bool:
    """Whether anything is known of it."""
    known = select(accounts.c.account_id).where(accounts.c.account_id == account_id)
    listed = select(health.c.account_id).where(health.c.account_id == account_id)
    return bool(await conn.scalar(select(or_(exists(known), exists(listed)))))


def _explanation(contributions: Sequence[Mapping[str, Any]] | None) -> dict[str, str] | None:
    if contributions is None:
        return None
    said = [dict(line) for line in contributions]
    return {"en": explain(said, "en"), "ja": explain(said, "ja")}


async def _override(conn: AsyncConnection, account_id: str, now: datetime) -> ScoreOverride | None:
    standing = (await overrides.read(conn, [account_id], now))[0]
    if standing is None:
        return None
    return ScoreOverride(**{name: getattr(standing, name) for name in ScoreOverride.__struct_fields__})


def _attribute(register: Mapping[str, Any]) -> Attribute:
    return Attribute(value=register["v"], since=datetime.fromtimestamp(register["t"] / 1_000_000, UTC))


def _text(attributes: Mapping[str, Attribute], name: str) -> str | None:
    value = attributes[name].value if name in attributes else None
    return value if isinstance(value, str) else None


async def person(conn: AsyncConnection, person_id: str) -> Person | None:
    return await _person(conn, select(people).where(people.c.person_id == person_id))


async def find_owner(conn: AsyncConnection, owner: str) -> Person | None:
    """The person whom an account's owner names."""
    return await _person(conn, select(people).where(named(owner)).order_by(*by_id_first(owner)).limit(1))


async def _person(conn: AsyncConnection, query: Select[Any]) -> Person | None:
    row = (await conn.execute(query)).one_or_none()
    if row is None:
        return None
    values = {name: getattr(row, name) for name in Person.__struct_fields__ if name != "has_slack_webhook"}
    return Person(**values, has_slack_webhook=row.slack_webhook is not None)


async def filters(conn: AsyncConnection) -> Choices:
    """What there is to filter by: owners and plans of accounts that have not ended, rules that are active or still have
    open episodes."""
    counted_owners = (
        select(health.c.owner, func.count().label("accounts"))
        .where(NOT_ENDED, health.c.owner.is_not(None))
        .group_by(health.c.owner)
        .subquery()
    )
    owner = counted_owners.c.owner
    owners = select(owner, counted_owners.c.accounts, owner_name(owner), owner_id(owner))
    plans = select(health.c.plan).distinct().where(NOT_ENDED, health.c.plan.is_not(None)).order_by(health.c.plan)
    counted = (
        select(episodes.c.rule_id, func.count().label("open_episodes"))
        .where(episodes.c.state == "open")
        .group_by(episodes.c.rule_id)
        .subquery()
    )
    active = select(rule_activations.c.rule_id).where(rule_activations.c.retired_at.is_(None)).subquery()
    rule_id = func.coalesce(active.c.rule_id, counted.c.rule_id).label("rule_id")
    rules = (
        select(rule_id, func.coalesce(counted.c.open_episodes, 0).label("open_episodes"))
        .select_from(active.outerjoin(counted, and_(active.c.rule_id == counted.c.rule_id), full=True))
        .order_by(rule_id)
    )
    return Choices(
        owners=_owner_choices((await conn.execute(owners)).all()),
        plans=tuple((await conn.execute(plans)).scalars()),
        rules=tuple(
            RuleChoice(rule_id=row.rule_id, open_episodes=row.open_episodes)
            for row in (await conn.execute(rules)).all()
        ),
    )


def _owner_choices(rows: Sequence[Row[Any]]) -> tuple[OwnerChoice, ...]:
    """By name; one per person, whether the accounts name them by id or by address."""
    made: dict[str, OwnerChoice] = {}
    for row in rows:
        owner = row.owner_id or row.owner
        before = made[owner].accounts if owner in made else 0
        made[owner] = OwnerChoice(owner=owner, name=row.owner_name, accounts=before + row.accounts)
    return tuple(sorted(made.values(), key=lambda choice: (choice.name or choice.owner, choice.owner)))
