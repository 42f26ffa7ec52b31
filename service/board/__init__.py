"""The board: server-rendered pages of the accounts at risk and their alerts, for people.

It reads by ``service/queries``, acts by ``alerts/actions``, and works without JavaScript; htmx and uPlot improve it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from service.board import actions, contacts, explaining, gaps, letters, operations, pages, signin, uploads
from service.board.site import READING, Board, View, endpoint
from service.deps import Deps

__all__ = ["router"]

ONE_YEAR = "public, max-age=31536000, immutable"


def router(deps: Deps) -> APIRouter:
    """All of the board's routes, its static files included."""
    board = Board(deps)
    made = APIRouter(include_in_schema=False)

    def add(path: str, view: View, *, methods: Sequence[str] = READING, public: bool = False) -> None:
        made.add_api_route(path, endpoint(board, view, public=public), methods=list(methods), response_model=None)

    async def static(request: Request) -> Response:
        asset = board.by_served_name.get(request.path_params["name"])
        if asset is None:
            return PlainTextResponse("not found", status_code=404)
        headers = {"Cache-Control": ONE_YEAR, "X-Content-Type-Options": "nosniff"}
        return Response(asset.body, media_type=asset.media_type, headers=headers)

    made.add_api_route("/static/{name}", static, methods=list(READING), response_model=None)
    add("/", pages.accounts)
    # Account ids are the customer's own and may contain slashes.
    add("/accounts/{account_id:path}", pages.account)
    add("/accounts/{account_id:path}/contacts", contacts.log, methods=["POST"])
    add("/live/accounts/{account_id:path}", pages.account_live)
    add("/explain/accounts/{account_id:path}", explaining.show)
    add("/what-if", explaining.ask)
    add("/what-if", explaining.answer, methods=["POST"])
    add("/accounts/{account_id:path}/override", actions.override, methods=["POST"])
    add("/alerts", pages.alerts)
    add("/alerts/{episode_id}", pages.alert)
    add("/alerts/{episode_id}/{action}", actions.alert_action, methods=["POST"])
    add("/dead-letters", letters.dead_letters)
    add("/dead-letters/many/{action}", letters.many_action, methods=["POST"])
    add("/dead-letters/{dead_letter_id}", letters.dead_letter)
    add("/dead-letters/{dead_letter_id}/{action}", letters.letter_action, methods=["POST"])
    add("/partitions", operations.show_partitions)
    add("/partitions/release", operations.release_partition, methods=["POST"])
    add("/gaps", gaps.show)
    add("/gaps", gaps.note, methods=["POST"])
    add("/gaps/{gap_id}/{action}", gaps.change, methods=["POST"])
    add("/uploads", uploads.show)
    add("/uploads/preview", uploads.look, methods=["POST"])
    add("/uploads/apply", uploads.confirm, methods=["POST"])
    add("/signin", signin.show_signin, public=True)
    add("/signin", signin.signin, methods=["POST"], public=True)
    add("/signout", signin.signout, methods=["POST"])
    add("/language/{language}", signin.choose_language, public=True)
    return made
