"""Dead letters on the board: the list, one of them with a form to mend it, and what is done with one or with many."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import Any, Self

from starlette.responses import RedirectResponse, Response

from service import queries
from service.api.common import YEARS
from service.board.forms import Parameters, link, read_date, text_of
from service.board.site import Refused, Visit
from service.board.words import Words
from service.dead_letters import Desk, Outcome, changes, shown
from service.dead_letters.desk import MOST_AT_ONCE, Action
from service.errors import FieldProblem
from service.queries import DeadLetter, DeadLetterFilter, LetterCount

ROWS = 50
MAX_ID = 2**63 - 1
MAX_NOTE = 1000
TABS: Mapping[str, str] = {"open": "To do", "retried": "Sent again", "discarded": "Discarded"}
REASONS: Mapping[str, str] = {
    "malformed": "Not readable",
    "too_large": "Too large",
    "too_deep": "Nested too deeply",
    "unknown_kind": "Unknown kind",
    "missing_field": "A field is missing",
    "bad_value": "A wrong value",
    "future": "Lies in the future",
    "storage": "The database refuses it",
    "no_account": "No account is known",
}
DONE: Mapping[str, str] = {
    "retry": "Sent. It counts as if it had been read when it first came.",
    "discard": "Discarded. It is kept for some time, and then deleted.",
}
_DONE_MANY = re.compile(r"(retry|discard)-(\d{1,6})-(\d{1,6})-(\d{1,9})-(\d{1,19})")


@dataclass(frozen=True, kw_only=True)
class LetterForm:
    """The tab and the filters of the list."""

    status: str = "open"
    reason: str = ""
    topic: str = ""
    since: str = ""
    until: str = ""
    text: str = ""
    cursor: str | None = None

    @classmethod
    def read(cls, parameters: Parameters) -> Self:
        status = parameters.get("status") or "open"
        since, until = text_of(parameters, "since"), text_of(parameters, "until")
        return cls(
            status=status if status in TABS else "open",
            reason=text_of(parameters, "reason"),
            topic=text_of(parameters, "topic"),
            since=since if _day(since) else "",
            until=until if _day(until) else "",
            text=text_of(parameters, "q"),
            cursor=parameters.get("cursor") or None,
        )

    @property
    def filtered(self) -> bool:
        return any((self.reason, self.topic, self.since, self.until, self.text))

    @property
    def where(self) -> DeadLetterFilter:
        until = _day(self.until)
        return DeadLetterFilter(
            statuses=(self.status,),
            reasons=(self.reason,) if self.reason else (),
            topic=self.topic or None,
            since=_day(self.since),
            until=None if until is None else until + timedelta(days=1),
            text=self.text or None,
        )

    def fields(self) -> list[tuple[str, str]]:
        return [
            ("reason", self.reason), ("topic", self.topic), ("since", self.since), ("until", self.until),
            ("q", self.text),
        ]  # fmt: skip

    def url(self, **changed: Any) -> str:
        form = replace(self, **changed)
        status = form.status if form.status != "open" else ""
        return link("/dead-letters", [("status", status), *form.fields(), ("cursor", form.cursor or "")])


def _day(text: str) -> datetime | None:
    """Its beginning in UTC, as the lists show times."""
    day = read_date(text)
    return None if day is None or day.year not in YEARS else datetime.combine(day, time.min, UTC)


@dataclass(frozen=True, kw_only=True)
class LetterRow:
    letter: DeadLetter
    reason: str
    fault: str


async def dead_letters(visit: Visit) -> Response:
    """GET /dead-letters"""
    words, deps = visit.words, visit.board.deps
    form = LetterForm.read(visit.request.query_params)
    async with deps.reading() as conn:
        found = await queries.dead_letters(conn, form.where, form.cursor, ROWS)
        counts = await queries.open_dead_letters(conn)
    done, after = _done(visit)
    return visit.show(
        "dead_letters.html",
        form=form,
        tabs=[(code, words(label)) for code, label in TABS.items()],
        rows=[_row(each, words) for each in found.items],
        next_cursor=found.next_cursor,
        reasons=_choices(((each.reason, each.letters) for each in counts), form.reason,
                         {code: words(label) for code, label in REASONS.items()}),
        topics=_choices(((each.topic, each.letters) for each in counts), form.topic, {}),
        matching=_matching(form, counts),
        done=done,
        after=after,
    )  # fmt: skip


def _row(letter: DeadLetter, words: Words) -> LetterRow:
    return LetterRow(letter=letter, reason=reason_name(letter.reason, words), fault=_fault(letter))


def reason_name(reason: str, words: Words) -> str:
    return words(REASONS[reason]) if reason in REASONS else reason


def _fault(letter: DeadLetter) -> str:
    first = next(iter(letter.errors), None)
    return "" if first is None else f"{first.get('field') or ''} {first.get('problem') or ''}".strip()


def _choices(counts: Any, chosen: str, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """(value, label with how many are open); what is chosen is among them."""
    sums: dict[str, int] = {chosen: 0} if chosen else {}
    for value, letters in counts:
        sums[value] = sums.get(value, 0) + letters
    return [(value, f"{names.get(value, value)} ({letters:,})") for value, letters in sums.items()]


def _matching(form: LetterForm, counts: Sequence[LetterCount]) -> int | None:
    """How many open letters the filters name, as far as that is known without counting."""
    if form.text or form.since or form.until:
        return None
    return sum(each.letters for each in counts if form.reason in {"", each.reason} and form.topic in {"", each.topic})


def _done(visit: Visit) -> tuple[str | None, int]:
    """What to say of the action just done, and behind which letter the next one of many goes on."""
    words, done = visit.words, visit.request.query_params.get("done") or ""
    if done in DONE:
        return words(DONE[done]), 0
    many = _DONE_MANY.fullmatch(done)
    if many is None:
        return None, 0
    worked, refused, left, after = (int(part) for part in many.groups()[1:])
    said = words("{n} sent again.", n=worked) if many[1] == "retry" else words("{n} discarded.", n=worked)
    if refused:
        said = f"{said} {words('{n} were refused again, or not acknowledged.', n=refused)}"
    return f"{said} {words('{n} that match are still open.', n=left)}", min(after, MAX_ID)


async def dead_letter(visit: Visit) -> Response:
    """GET /dead-letters/{dead_letter_id}"""
    done = visit.request.query_params.get("done") or ""
    return await _show(visit, done=visit.words(DONE[done]) if done in DONE else None)


async def _show(
    visit: Visit,
    *,
    status: int = 200,
    done: str | None = None,
    problem: str | None = None,
    errors: Sequence[FieldProblem] = (),
    written: str | None = None,
) -> Response:
    """One letter; after a refusal with the ``errors`` of what was ``written``."""
    async with visit.board.deps.reading() as conn:
        letter = await queries.dead_letter(conn, _number(visit))
    if letter is None:
        raise _no_letter(visit)
    value = shown(letter.value)
    sent = letter.sent_value
    editable = value.text if value.form in {"json", "text"} and not value.cut else ""
    return visit.show(
        "dead_letter.html",
        status=status,
        letter=letter,
        reason=reason_name(letter.reason, visit.words),
        tab=visit.words(TABS.get(letter.status, letter.status)),
        key=shown(letter.key),
        value=value,
        sent=None if sent is None else shown(sent),
        changes=() if sent is None else changes(letter.value, sent),
        written=editable if written is None else written,
        errors=errors,
        done=done,
        problem=problem,
    )


async def letter_action(visit: Visit) -> Response:
    """POST /dead-letters/{dead_letter_id}/{action}"""
    form = await visit.form()
    action, words = visit.request.path_params["action"], visit.words
    _may_write(visit)
    number, desk = _number(visit), _desk(visit)
    written: str | None = None
    if action == "retry":
        # Browsers send line breaks as CR LF, which is nothing that anybody wrote.
        written = str(form.get("value") or "").replace("\r\n", "\n") if form.get("mended") else None
        value = None if written is None else written.encode(errors="surrogatepass")
        outcome = await visit.board.deps.shielded(desk.retry(number, value))
    elif action == "discard":
        outcome = await visit.board.deps.shielded(desk.discard(number, _note(form)))
    else:
        raise Refused(404, words("Nothing here"), words("There is no such action."))
    if outcome.outcome in {"retried", "discarded"}:
        return RedirectResponse(f"/dead-letters/{number}?done={action}", status_code=303)
    return await _refused(visit, outcome, written)


async def _refused(visit: Visit, outcome: Outcome, written: str | None) -> Response:
    words = visit.words
    if outcome.outcome == "missing":
        raise _no_letter(visit)
    status, problem = {
        "refused": (422, words("It was not sent: the fields named below are still wrong.")),
        "not_open": (409, words("Somebody was first: here is how it stands now.")),
        "unacknowledged": (503, words("The broker did not answer in time. The letter is still open: try again.")),
    }[outcome.outcome]
    response = await _show(visit, status=status, problem=problem, errors=outcome.errors, written=written)
    response.headers["HX-Push-Url"] = f"/dead-letters/{outcome.dead_letter_id}"
    return response


async def many_action(visit: Visit) -> Response:
    """POST /dead-letters/many/{action}: all open letters that the list's filters name."""
    form = await visit.form()
    words = visit.words
    _may_write(visit)
    asked = visit.request.path_params["action"]
    action: Action | None = "retry" if asked == "retry" else "discard" if asked == "discard" else None
    filters = LetterForm.read(_Fields(form))
    if action is None or not filters.filtered:
        raise Refused(422, words("Nothing was done"), words("Choose a reason, a topic, a time or a text first."))
    after = str(form.get("after") or "0")
    bulk = await visit.board.deps.shielded(
        _desk(visit).many(
            action,
            filters.where,
            limit=MOST_AT_ONCE,
            after=int(after) if after.isdecimal() and len(after) < 19 else 0,
            note=_note(form),
        )
    )
    worked, failed = bulk.retried + bulk.discarded, bulk.refused + bulk.unacknowledged
    target = filters.url(status="open", cursor=None)
    done = f"{action}-{worked}-{failed}-{bulk.left}-{bulk.next_after or 0}"
    return RedirectResponse(f"{target}{'&' if '?' in target else '?'}done={done}", status_code=303)


@dataclass(frozen=True)
class _Fields:
    """A posted form, as a query string is read."""

    form: Mapping[str, Any]

    def get(self, key: str, /) -> str | None:
        value = self.form.get(key)
        return value if isinstance(value, str) else None

    def getlist(self, key: str, /) -> list[str]:
        value = self.get(key)
        return [] if value is None else [value]


def _note(form: Mapping[str, Any]) -> str | None:
    return str(form.get("note") or "").replace("\0", "").strip()[:MAX_NOTE] or None


def _may_write(visit: Visit) -> None:
    if not visit.session.may_write:
        words = visit.words
        raise Refused(
            403, words("Not with this key"), words("It may only read. Sign in with a key that has the scope “write”.")
        )


def _desk(visit: Visit) -> Desk:
    return Desk(deps=visit.board.deps, actor=visit.session.actor, now=visit.page.now)


def _number(visit: Visit) -> int:
    text = str(visit.request.path_params["dead_letter_id"])
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and 0 < int(text) <= MAX_ID):
        raise _no_letter(visit)
    return int(text)


def _no_letter(visit: Visit) -> Refused:
    return Refused(
        404, visit.words("No such dead letter"), visit.words("It may have been deleted since, or erased with a person.")
    )
