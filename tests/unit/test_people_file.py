"""People from a file: what is taken, and what its writer is told."""

from __future__ import annotations

import pytest

from service.people_file import PeopleFileError, parse

GOOD = """
people:
  mina: {name: Mina Sato, email: mina@example.com, language: ja, timezone: Asia/Tokyo, stand_in: tom}
  tom:
    name: Tom Baker
    slack_webhook: env:TOM_SLACK
    away_until: 2026-03-09T00:00:00Z
"""


def test_people_with_a_webhook_from_the_environment() -> None:
    people = parse(GOOD, {"TOM_SLACK": "https://hooks.example.com/T0/secret"})
    assert people["mina"].timezone == "Asia/Tokyo" and people["mina"].stand_in == "tom"
    assert people["tom"].slack_webhook is not None
    assert "secret" not in repr(people)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("people: {mina: {nam: Mina}}", "people.mina.name: Field required"),
        ("people: {mina: {nam: Mina}}", "people.mina.nam: Extra inputs"),
        ("people: {mina: {name: Mina, timezone: Tokyo}}", "people.mina.timezone"),
        ("people: {mina: {name: Mina, stand_in: zoe}}", "people.mina.stand_in: there is no person 'zoe'"),
        ("people: {mina: {name: Mina, slack_webhook: env:NOPE}}", "environment variable 'NOPE' is not set"),
        ("mina: {name: Mina}", "no mapping `people:`"),
        ("people: [", "not YAML"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(PeopleFileError, match=r".*") as caught:
        parse(text, {})
    assert said in str(caught.value)


def test_a_wrong_webhook_is_not_shown() -> None:
    with pytest.raises(PeopleFileError) as caught:
        parse("people: {mina: {name: Mina, slack_webhook: 'ftp://secret-token'}}", {})
    assert "slack_webhook" in str(caught.value) and "secret-token" not in str(caught.value)
