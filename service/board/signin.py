"""Signing in and out with an API key, and choosing the language."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from service.board.forms import own_path
from service.board.session import COOKIE, new_session
from service.board.site import LANGUAGE_COOKIE, LANGUAGE_COOKIE_SECONDS, Visit, set_session
from service.board.words import LANGUAGES


async def show_signin(visit: Visit) -> Response:
    following = own_path(visit.request.query_params.get("next"))
    if visit.page.session is not None:
        return RedirectResponse(following, status_code=303)
    return visit.show("signin.html", next=following, problem=None)


async def signin(visit: Visit) -> Response:
    """No form token here: there is no session yet, and the key itself proves who asks."""
    form = await visit.request.form(max_files=0, max_fields=5)
    following = own_path(str(form.get("next") or ""))
    board, words = visit.board, visit.words
    key = await board.deps.keys.verify(str(form.get("key") or "").strip())
    if key is None:
        problem = words("This key is not known here, or it has expired or been revoked. Ask for another one.")
        return visit.show("signin.html", status=403, next=following, problem=problem)
    if "read" not in key.scopes:
        problem = words("This key may not read: it needs the scope “read”. Ask for one that has it.")
        return visit.show("signin.html", status=403, next=following, problem=problem)
    response = RedirectResponse(following, status_code=303)
    session = new_session(name=key.name, key_id=key.key_id, scopes=key.scopes, now=visit.page.now)
    board.remember(key)
    set_session(board, response, session)
    return response


async def signout(visit: Visit) -> Response:
    await visit.form()
    response = RedirectResponse("/signin", status_code=303)
    response.delete_cookie(COOKIE)
    return response


async def choose_language(visit: Visit) -> Response:
    response = RedirectResponse(own_path(visit.request.query_params.get("next")), status_code=303)
    language = visit.request.path_params["language"]
    if language in LANGUAGES:
        response.set_cookie(
            LANGUAGE_COOKIE, language, max_age=LANGUAGE_COOKIE_SECONDS, samesite="lax", secure=visit.board.secure
        )
    return response
