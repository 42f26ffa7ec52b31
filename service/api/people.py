"""People: who owns accounts, who stands in, and how each is reached."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import available_timezones

import msgspec
from fastapi import APIRouter, Depends, Path, Query
from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator
from sqlalchemy.dialects.postgresql import insert
from starlette.responses import Response

from health.tables import people
from service import queries
from service.api.common import CLEAN, Cursor, DepsDep, Instant, Limit, ReadKey, Strict, Word, WriteKey, answer, body
from service.api.schemas import answers, body_of
from service.errors import Problem, bad_field, not_found
from service.queries import Person
from service.secrets import SecretsError, Vault

router = APIRouter(prefix="/api/v1/people", tags=["people"])

PersonId = Annotated[str, Path(min_length=1, max_length=200, pattern=CLEAN, description="As accounts name their owner")]
MAIL_PATTERN = r"^[^\s@<>,;:\u0000-\u001f\u007f]{1,64}@[^\s@<>,;:\u0000-\u001f\u007f]{1,190}$"


def _zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("not a time zone: give an IANA name such as Asia/Tokyo")
    return name


def _webhook(secret: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(secret.get_secret_value())
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ValueError("not a web address: give the incoming webhook as Slack shows it, https://hooks.slack.com/…")
    return secret


class PersonBody(Strict):
    """A person as a whole: what is left out is emptied, but for `slack_webhook`, which is then kept."""

    name: Word
    email: Annotated[str, StringConstraints(pattern=MAIL_PATTERN)] | None = None
    slack_id: Annotated[str, StringConstraints(pattern=r"^[UW][A-Z0-9]{1,30}$")] | None = Field(
        default=None, description="For mentions, such as U012AB3CD"
    )
    slack_webhook: Annotated[SecretStr, Field(min_length=1, max_length=1000), AfterValidator(_webhook)] | None = Field(
        default=None, description="Their own incoming webhook: stored encrypted, never shown; null removes it"
    )
    language: Literal["en", "ja"] = "en"
    timezone: Annotated[str, StringConstraints(max_length=64), AfterValidator(_zone)] = Field(
        default="UTC", description="IANA name"
    )
    role: Literal["csm", "manager", "sales"] = "csm"
    manager: Word | None = Field(default=None, description="Person id")
    stand_in: Word | None = Field(default=None, description="Person id of who gets their alerts while they are away")
    away_from: Instant | None = None
    away_until: Instant | None = None

    @model_validator(mode="after")
    def _away_in_order(self) -> Self:
        if self.away_from and self.away_until and self.away_until <= self.away_from:
            raise ValueError("away_until is not after away_from: give a later instant")
        return self


class People(msgspec.Struct, frozen=True, kw_only=True):
    """A page of people, by id."""

    items: tuple[Person, ...]
    next_cursor: str | None


class PeopleQuery(Strict):
    limit: Limit = 50
    cursor: Cursor = None


@router.get("", summary="People", responses=answers(People, "A page of people"))
async def list_people(deps: DepsDep, _: ReadKey, query: Annotated[PeopleQuery, Query()]) -> Response:
    """By id."""
    async with deps.reading() as conn:
        items, following = await queries.people_list(conn, query.cursor, query.limit)
    return answer(People(items=items, next_cursor=following))


@router.get("/{person_id:path}", summary="One person", responses=answers(Person, "The person", 404))
async def show_person(deps: DepsDep, _: ReadKey, person_id: PersonId) -> Response:
    """`has_slack_webhook` says whether a webhook is stored; the address itself is never shown."""
    async with deps.reading() as conn:
        found = await queries.person(conn, person_id)
    if found is None:
        raise not_found("person", person_id)
    return answer(found)


EXAMPLE = {"name": "Aiko Tanaka", "email": "aiko@example.com", "language": "ja", "timezone": "Asia/Tokyo"}


@router.put(
    "/{person_id:path}",
    summary="Make or replace a person",
    responses=answers(Person, "As stored", 404, 408, 409, 413, 415),
    openapi_extra=body_of(PersonBody, EXAMPLE),
)
async def put_person(
    deps: DepsDep, _: WriteKey, person_id: PersonId, wish: Annotated[PersonBody, Depends(body(PersonBody))]
) -> Response:
    """The owner of an account is found by this id."""
    if person_id in {wish.stand_in, wish.manager}:
        raise bad_field("stand_in" if wish.stand_in == person_id else "manager", "is the person", "name somebody else")
    values = {name: getattr(wish, name) for name in PersonBody.model_fields if name != "slack_webhook"}
    values["updated_at"] = deps.clock()
    if "slack_webhook" in wish.model_fields_set:
        values["slack_webhook"] = _sealed(deps.settings.secret_key, wish.slack_webhook)

    async def write() -> Person:
        statement = insert(people).values(person_id=person_id, **values)
        async with deps.writing() as conn:
            await conn.execute(statement.on_conflict_do_update(index_elements=["person_id"], set_=values))
            found = await queries.person(conn, person_id)
        assert found is not None
        return found

    return answer(await deps.shielded(write()))


def _sealed(secret_key: SecretStr | None, webhook: SecretStr | None) -> str | None:
    if webhook is None:
        return None
    try:
        return Vault(secret_key).seal(webhook.get_secret_value())
    except SecretsError as error:
        raise Problem(409, "not-allowed", str(error)) from None
