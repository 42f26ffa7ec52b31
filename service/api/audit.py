"""The audit over the API: who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from service import audit
from service.api.common import Cursor, DepsDep, Instant, Limit, Strict, Word, WriteKey, answer
from service.api.schemas import answers
from service.audit import AuditFilter, AuditPage

router = APIRouter(prefix="/api/v1/audit", tags=["privacy"])


class AuditQuery(Strict):
    """Filters are joined by AND; a repeated one by OR."""

    actor: list[Word] = Field(default=[], max_length=20, description="key:<name>, board:<name>, command, evaluator")
    action: list[Word] = Field(default=[], max_length=20, description="key.created, erasure.requested, …")
    subject: Word | None = None
    since: Instant | None = Field(default=None, description="Not before this")
    until: Instant | None = Field(default=None, description="Before this")
    limit: Limit = 50
    cursor: Cursor = None


@router.get("", summary="Who did what", responses=answers(AuditPage, "A page, newest first"))
async def list_audit(deps: DepsDep, _: WriteKey, query: Annotated[AuditQuery, Query()]) -> Response:
    """Keys made and revoked, rules changed, erasures, replays. What people did with alerts is in each alert's
    transitions. Accounts and users appear as hashes only; nothing here can be changed."""
    where = AuditFilter(
        actors=tuple(query.actor),
        actions=tuple(query.action),
        subject=query.subject,
        since=query.since,
        until=query.until,
    )
    async with deps.reading() as conn:
        return answer(await audit.entries(conn, where, query.cursor, query.limit))
