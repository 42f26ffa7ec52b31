"""Messages to people: what went out, what did not, and what to do about it."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import Field
from sqlalchemy import select, update
from starlette.responses import Response

from alerts.tables import deliveries as deliveries_table
from service import queries
from service.api.common import Cursor, DepsDep, Limit, ReadKey, Strict, Word, WriteKey, answer
from service.api.schemas import answers
from service.errors import Problem, not_found
from service.queries import DeliveryFilter, DeliveryItem, DeliveryPage

router = APIRouter(prefix="/api/v1")


class DeliveryQuery(Strict):
    """Filters are joined by AND; a repeated one by OR."""

    status: list[Literal["pending", "leased", "sent", "dead", "cancelled"]] = Field(default=[], max_length=5)
    channel: list[Word] = Field(default=[], max_length=10, description="slack, email, webhook")
    account_id: Word | None = None
    alert_id: UUID | None = None
    limit: Limit = 50
    cursor: Cursor = None


@router.get(
    "/deliveries",
    tags=["deliveries"],
    summary="Messages and their attempts",
    responses=answers(DeliveryPage, "A page, newest first"),
)
async def list_deliveries(deps: DepsDep, _: ReadKey, query: Annotated[DeliveryQuery, Query()]) -> Response:
    """One message to one target of one channel for one transition of an alert."""
    where = DeliveryFilter(
        statuses=tuple(query.status),
        channels=tuple(query.channel),
        account_id=query.account_id,
        episode_id=query.alert_id,
    )
    async with deps.reading() as conn:
        return answer(await queries.deliveries(conn, where, query.cursor, query.limit))


@router.post(
    "/deliveries/{delivery_id}/retry",
    tags=["deliveries"],
    summary="Send a dead message again",
    responses=answers(DeliveryItem, "Waiting to be sent", 404, 409),
)
async def retry_delivery(
    deps: DepsDep, _: WriteKey, delivery_id: Annotated[UUID, Path(description="Its `delivery_id`")]
) -> Response:
    """Only a dead one: what is waiting will be sent anyway. It keeps its id, so that its receiver can tell."""
    table = deliveries_table.c

    async def write() -> DeliveryItem:
        async with deps.writing() as conn:
            status = await conn.scalar(select(table.status).where(table.delivery_id == delivery_id).with_for_update())
            if status is None:
                raise not_found("delivery", delivery_id)
            if status != "dead":
                raise Problem(409, "not-allowed", f"only a dead delivery can be retried, this one is {status}")
            await conn.execute(
                update(deliveries_table)
                .where(table.delivery_id == delivery_id)
                .values(status="pending", next_attempt_at=deps.clock(), leased_until=None)
            )
            found = await queries.delivery(conn, delivery_id)
        assert found is not None
        return found

    return answer(await deps.shielded(write()))
