"""One visit to the board: who it is, in which language, and how an answer leaves."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from alerts.rules import RulebookError, RuleWatcher
from health.catalogue import SIGNALS, Signal
from health.custom import with_catalogue
from service import auth
from service.board import assets
from service.board.measures import localised
from service.board.render import Page, environment
from service.board.session import COOKIE, LIFETIME, Session, Signer, new_session
from service.board.words import LANGUAGES, Words, choose
from service.deps import Deps
from service.errors import as_problem

log = logging.getLogger(__name__)

LANGUAGE_COOKIE = "kizashi_language"
LANGUAGE_COOKIE_SECONDS = 365 * 24 * 3600
RECHECK_SECONDS = 5.0
"""How long a signed-in key is believed before it is looked up again, and how often rule files are looked at."""
FORM_FIELDS = 20
FORM_PART_BYTES = 1024 * 1024
READING = ("GET", "HEAD")


class Refused(Exception):
    """A page instead of the one asked for: a heading and a sentence, in the reader's language."""

    def __init__(self, status: int, heading: str, text: str) -> None:
        super().__init__(heading)
        self.status = status
        self.heading = heading
        self.text = text


class RuleTexts:
    """Titles and suggestions of the rules, from the rule files as they stand."""

    def __init__(self, rules_dir: Path) -> None:
        self._rules_dir = rules_dir
        self._watcher: RuleWatcher | None = None
        self._texts: dict[str, tuple[Mapping[str, str], Mapping[str, str]]] = {}
        self._catalogue: Mapping[str, Signal] = SIGNALS
        self._looked_at = float("-inf")

    def title(self, rule_id: str, words: Words) -> str:
        """Without a rule of that id any more: the id, made readable."""
        self._look()
        return (
            localised(self._texts[rule_id][0], words)
            if rule_id in self._texts
            else rule_id.replace("-", " ").capitalize()
        )

    def suggestion(self, rule_id: str, words: Words) -> str:
        self._look()
        return localised(self._texts[rule_id][1], words) if rule_id in self._texts else ""

    @property
    def catalogue(self) -> Mapping[str, Signal]:
        """The signals, with those of configuration."""
        self._look()
        return self._catalogue

    def _look(self) -> None:
        if time.monotonic() - self._looked_at < RECHECK_SECONDS:
            return
        self._looked_at = time.monotonic()
        try:
            if self._watcher is None:
                self._watcher = RuleWatcher(self._rules_dir, SIGNALS)
            elif not self._watcher.poll():
                return
        except (RulebookError, OSError) as error:
            # The evaluator refuses bad rules loudly; the board only loses its titles.
            log.warning("rule titles are not available: %s", error)
            return
        self._texts = {rule.id: (rule.title, rule.suggestion) for rule in self._watcher.book.rules}
        self._catalogue = with_catalogue(self._watcher.book.custom)


class Board:
    """What all views share."""

    def __init__(self, deps: Deps) -> None:
        settings = deps.settings
        self.deps = deps
        self.open = settings.board_open
        self.secure = settings.public_url.startswith("https://")
        self.signer = Signer.from_secret(settings.secret_key.get_secret_value() if settings.secret_key else None)
        self.assets = assets.load()
        self.by_served_name = {asset.served_as: asset for asset in self.assets.values()}
        self.templates = environment()
        self.rules = RuleTexts(settings.rules_dir)
        self._keys: dict[str, auth.Key] = {}
        self._keys_read_at = float("-inf")

    async def session_of(self, request: Request, now: datetime) -> Session | None:
        """The reader's session. On an open board everybody has one, so that forms have a token there, too."""
        session = self.signer.open(request.cookies.get(COOKIE), now=now)
        if session is not None and session.key_id is not None:
            key = await self._key(session.key_id)
            if key is not None and key.live(now):
                return session
            session = None
        if not self.open:
            return None
        return session or new_session(name="board", key_id=None, scopes=("read", "write"), now=now)

    async def _key(self, key_id: str) -> auth.Key | None:
        if time.monotonic() - self._keys_read_at > RECHECK_SECONDS:
            async with self.deps.reading() as conn:
                self._keys = {key.key_id: key for key in await auth.list_keys(conn)}
            self._keys_read_at = time.monotonic()
        return self._keys.get(key_id)

    def remember(self, key: auth.Key) -> None:
        """Of a key that has just been checked, so that its session works at once."""
        self._keys[key.key_id] = key

    def page(self, request: Request, session: Session | None, now: datetime) -> Page:
        words = Words(choose(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language")))
        kept = [(name, value) for name, value in request.query_params.multi_items() if name not in {"done", "seen"}]
        # Quoted again: what an id holds (?, #, %) is no part of the address's own grammar.
        path = quote(request.scope["path"]) if request.method in READING else "/"
        return Page(
            words=words,
            now=now,
            session=session,
            form_token=self.signer.form_token(session) if session else "",
            here=f"{path}?{urlencode(kept)}" if kept else path,
            assets=self.assets,
            languages=LANGUAGES,
        )


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One request of one reader."""

    board: Board
    request: Request
    page: Page

    @property
    def words(self) -> Words:
        return self.page.words

    @property
    def session(self) -> Session:
        """Only views that anybody may see do without one, and they do not ask."""
        assert self.page.session is not None
        return self.page.session

    def html(self, template: str, **values: Any) -> str:
        made = self.board.templates.get_template(template)
        return made.render(page=self.page, _=self.words, say=self.page.say, **values)

    def show(self, template: str, *, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(self.html(template, **values), status_code=status)

    def message(self, status: int, heading: str, text: str) -> Response:
        return self.show("message.html", status=status, heading=heading, text=text)

    async def form(self, *, files: int = 0, part_bytes: int = FORM_PART_BYTES) -> FormData:
        """A posted form whose token is this session's. ``part_bytes``: the largest field that is no file."""
        form = await self.request.form(max_files=files, max_fields=FORM_FIELDS, max_part_size=part_bytes)
        if not self.board.signer.is_form_token(self.session, str(form.get("csrf") or "")):
            await form.close()
            raise Refused(
                403,
                self.words("This form is out of date"),
                self.words("Nothing was changed. Go back, reload the page, and try again."),
            )
        return form


View = Callable[[Visit], Awaitable[Response]]


def endpoint(board: Board, view: View, *, public: bool = False) -> Callable[[Request], Awaitable[Response]]:
    """``view`` behind the door: a session (unless ``public``), errors as pages, nothing kept by caches."""

    async def handle(request: Request) -> Response:
        now = board.deps.clock()
        page = board.page(request, None, now)
        try:
            session = await board.session_of(request, now)
            page = board.page(request, session, now)
            visit = Visit(board=board, request=request, page=page)
            response = await view(visit) if session or public else _turn_away(visit)
        except Refused as refused:
            visit = Visit(board=board, request=request, page=page)
            response = visit.message(refused.status, refused.heading, refused.text)
        except Exception as error:  # noqa: BLE001 - the edge: every fault becomes a page
            visit = Visit(board=board, request=request, page=page)
            response = _failed(visit, error)
        return _finish(board, request, page, response)

    return handle


def _turn_away(visit: Visit) -> Response:
    """To the sign-in page; a poll makes its page reload, which then goes there.

    The session cookie is SameSite=Strict, so a link in a mail or a chat arrives without it. Such a visit is answered by
    a page that opens the same address once more, now from our own site, and the cookie comes along.
    """
    request = visit.request
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"HX-Refresh": "true"})
    if request.method in READING and request.headers.get("sec-fetch-site") == "cross-site":
        return visit.show("again.html")
    here = visit.page.here
    return RedirectResponse(f"/signin?{urlencode({'next': here})}" if here != "/" else "/signin", status_code=303)


def _failed(visit: Visit, error: Exception) -> Response:
    problem = as_problem(error)
    words = visit.words
    if problem.status_code == 503:
        heading, text = words("Not available right now"), words("The database does not answer. Try again in a moment.")
    elif problem.status_code == 422:
        heading, text = (
            words("This address cannot be read"),
            words("Go back to the list and start from its first page."),
        )
    else:
        log.error("the board failed at %s", visit.request.scope["path"], exc_info=error)
        heading, text = words("Something went wrong"), words("The fault is ours, and it has been logged.")
    return visit.message(problem.status_code, heading, text)


def _finish(board: Board, request: Request, page: Page, response: Response) -> Response:
    response.headers.setdefault("Cache-Control", "no-store")
    if response.status_code >= 400 and request.scope["path"].startswith("/live/"):
        response.headers["HX-Reswap"] = "none"  # htmx shows error pages too; a poll must not replace its page by one
    _keep_visitor(board, request, page, response)
    return response


def _keep_visitor(board: Board, request: Request, page: Page, response: Response) -> None:
    """A visitor's new session takes the place of any cookie that opened none: else their forms would never fit."""
    session = page.session
    chosen = any(cookie.startswith(f"{COOKIE}=") for cookie in response.headers.getlist("set-cookie"))
    if session is None or session.key_id is not None or chosen:
        return
    if board.signer.open(request.cookies.get(COOKIE), now=page.now) != session:
        set_session(board, response, session)


def set_session(board: Board, response: Response, session: Session) -> None:
    response.set_cookie(
        COOKIE,
        board.signer.seal(session),
        max_age=int(LIFETIME.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=board.secure,
    )
