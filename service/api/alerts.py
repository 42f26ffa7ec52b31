"""Alerts and what a person does with them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from alerts import actions
from alerts.episodes import Outcome
from service import queries
from service.api.common import (
    Cursor,
    DepsDep,
    Instant,
    Limit,
    ReadKey,
    Sentence,
    Strict,
    Word,
    WriteKey,
    answer,
    body,
)
from service.api.schemas import answers, body_of
from service.deps import Deps
from service.errors import FieldProblem, Problem, not_found
from service.queries import AlertDetail, AlertFilter, AlertPage

router = APIRouter(prefix="/api/v1/alerts", tags=["alerts"])

AlertId = Annotated[UUID, Path(description="Its `episode_id`")]


class AlertQuery(Strict):
    """Filters are joined by AND; a repeated one by OR."""

    state: list[Literal["open", "resolved", "withdrawn"]] = Field(default=[], max_length=3)
    severity: list[Literal["info", "warning", "critical"]] = Field(default=[], max_length=3)
    rule: list[Word] = Field(default=[], max_length=50, description="Rule id")
    owner: list[Word] = Field(
        default=[], max_length=50, description="The owner when it opened: person id or e-mail address"
    )
    outcome: list[Outcome] = Field(default=[], max_length=5)
    account_id: Word | None = None
    acknowledged: bool | None = None
    snoozed: bool | None = None
    pre_existing: bool | None = Field(
        default=None, description="True before the rule was switched on or the history imported: listed, not delivered"
    )
    limit: Limit = 50
    cursor: Cursor = None


class Acknowledge(Strict):
    """Somebody has seen it and is on it."""

    version: int = Field(ge=1, lt=2**31, description="The alert's version that this refers to")
    reason: Sentence = Field(default="", description="Free words for the record")


class Snooze(Acknowledge):
    """Quiet until an instant; then it is told again, if it still holds."""

    until: Instant = Field(description="When it should come back")


class Resolve(Acknowledge):
    """Closed by a person, with what became of it."""

    outcome: Outcome


class Reopen(Acknowledge):
    """Closed too early."""


@router.get("", summary="Alerts", responses=answers(AlertPage, "A page of alerts, newest first"))
async def list_alerts(deps: DepsDep, _: ReadKey, query: Annotated[AlertQuery, Query()]) -> Response:
    """Episodes of rules: each one uninterrupted time for which a rule held for an account."""
    where = AlertFilter(
        states=tuple(query.state),
        severities=tuple(query.severity),
        rules=tuple(query.rule),
        owners=tuple(query.owner),
        outcomes=tuple(query.outcome),
        account_id=query.account_id,
        acknowledged=query.acknowledged,
        snoozed=query.snoozed,
        pre_existing=query.pre_existing,
    )
    async with deps.reading() as conn:
        return answer(await queries.alerts(conn, where, query.cursor, query.limit))


@router.get("/{alert_id}", summary="One alert", responses=answers(AlertDetail, "With all that explains it", 404))
async def show_alert(deps: DepsDep, _: ReadKey, alert_id: AlertId) -> Response:
    """With the signals and contributions at firing, every transition with reason and actor, and every delivery."""
    async with deps.reading() as conn:
        return answer(await _found(conn, alert_id))


async def _found(conn: AsyncConnection, alert_id: UUID) -> AlertDetail:
    detail = await queries.alert(conn, alert_id)
    if detail is None:
        raise not_found("alert", alert_id)
    return detail


def _documented(model: type[Strict], **more: Any) -> dict[str, Any]:
    return {
        "responses": answers(AlertDetail, "The alert after it", 404, 408, 409, 413, 415),
        "openapi_extra": body_of(model, {"version": 1, "reason": "Called, they are on holiday", **more}),
    }


@router.post("/{alert_id}/acknowledge", summary="Acknowledge", **_documented(Acknowledge))
async def acknowledge(
    deps: DepsDep, key: WriteKey, alert_id: AlertId, wish: Annotated[Acknowledge, Depends(body(Acknowledge))]
) -> Response:
    """Says that somebody is on it: reminders stop."""
    return await _act(deps, alert_id, "acknowledge", wish, key.name)


@router.post("/{alert_id}/snooze", summary="Snooze", **_documented(Snooze, until="2026-12-01T09:00:00Z"))
async def snooze(
    deps: DepsDep, key: WriteKey, alert_id: AlertId, wish: Annotated[Snooze, Depends(body(Snooze))]
) -> Response:
    """Keeps it quiet until the given instant."""
    return await _act(deps, alert_id, "snooze", wish, key.name, until=wish.until)


@router.post("/{alert_id}/resolve", summary="Resolve", **_documented(Resolve, outcome="saved"))
async def resolve(
    deps: DepsDep, key: WriteKey, alert_id: AlertId, wish: Annotated[Resolve, Depends(body(Resolve))]
) -> Response:
    """Closes it and records what became of it: this is how the rules are judged later."""
    return await _act(deps, alert_id, "resolve", wish, key.name, outcome=wish.outcome)


@router.post("/{alert_id}/reopen", summary="Reopen", **_documented(Reopen))
async def reopen(
    deps: DepsDep, key: WriteKey, alert_id: AlertId, wish: Annotated[Reopen, Depends(body(Reopen))]
) -> Response:
    """Takes a closing back."""
    return await _act(deps, alert_id, "reopen", wish, key.name)


async def _act(
    deps: Deps,
    alert_id: UUID,
    action: actions.Action,
    wish: Acknowledge,
    name: str,
    *,
    until: datetime | None = None,
    outcome: Outcome | None = None,
) -> Response:
    async def write() -> AlertDetail:
        async with deps.writing() as conn:
            await actions.act(
                conn,
                alert_id,
                action,
                expected_version=wish.version,
                actor=f"key:{name}",
                reason=wish.reason,
                until=until,
                outcome=outcome,
                now=deps.clock(),
            )
            return await _found(conn, alert_id)

    try:
        return answer(await deps.shielded(write()))
    except actions.NotFound:
        raise not_found("alert", alert_id) from None
    except actions.Conflict as conflict:
        remedy = f"read the alert again: it is at version {conflict.current}"
        raise Problem(
            409,
            "changed-meanwhile",
            str(conflict),
            errors=[FieldProblem(field="version", problem="is not the current one", remedy=remedy)],
            extra={"current_version": conflict.current},
        ) from None
    except actions.NotAllowed as refusal:
        raise Problem(409, "not-allowed", str(refusal)) from None
