"""What is running: the rulebook, the signals it may speak of, and how far the data has come."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from health.catalogue import Signal
from health.custom import kept, with_catalogue
from service import metrics, queries
from service.api.common import DepsDep, ReadKey, answer
from service.api.schemas import answers
from service.queries import RulebookView, StatusView

router = APIRouter(prefix="/api/v1", tags=["rules and status"])


class SignalView(msgspec.Struct, frozen=True, kw_only=True):
    """One signal: a named measure of an account that rules and scorecards may use. `valid`: from when on its values are
    right, said of each that `signals.yaml` declares; null for those that ship."""

    name: str
    type: str
    unit: str
    meaning: dict[str, str]
    needs: tuple[str, ...]
    absence: bool
    day_border: str
    parameter: str | None
    valid: dict[str, str] | None


class Signals(msgspec.Struct, frozen=True, kw_only=True):
    """The catalogue."""

    items: list[SignalView]


@router.get("/rules", summary="The running rulebook", responses=answers(RulebookView, "As the evaluator runs it"))
async def show_rules(deps: DepsDep, _: ReadKey) -> Response:
    """With the version of each rule and when its condition went live: what began before that is pre-existing."""
    async with deps.reading() as conn:
        return answer(await queries.rulebook(conn))


@router.get("/signals", summary="The signals", responses=answers(Signals, "The catalogue"))
async def show_signals(deps: DepsDep, _: ReadKey) -> Response:
    """What rules and scorecards may speak of, at the end those that `signals.yaml` declares, as the evaluator runs
    them. `absence`: it is only believed for time that was observed."""
    async with deps.reading() as conn:
        running = await queries.rulebook(conn)
    known = with_catalogue(kept(running.content.get("signals", [])))
    return answer(Signals(items=[_signal(signal) for signal in known.values()]))


def _signal(signal: Signal) -> SignalView:
    values = {name: getattr(signal, name) for name in SignalView.__struct_fields__}
    valid = None if signal.valid is None else dict(signal.valid)
    return SignalView(**{**values, "meaning": dict(signal.meaning), "valid": valid})


@router.get("/status", summary="How far the data has come", responses=answers(StatusView, "Progress and backlogs"))
async def show_status(deps: DepsDep, _: ReadKey) -> Response:
    """Partitions, sources, gaps and imports; what waits for evaluation and for delivery; whether absence is held."""
    async with deps.reading() as conn:
        status = await queries.status(conn, deps.clock(), stream=deps.stream)
    metrics.DATA_HELD.set(status.held_since is not None)
    return answer(status)
