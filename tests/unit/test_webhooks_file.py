"""``webhooks.yaml``: what it may say, what it is told when it is wrong, and what a mapping of one's own makes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from consumers.events import encode
from consumers.formats.canonical import Limits
from consumers.formats.items import UNPLACED, Item
from consumers.webhooks import file
from consumers.webhooks.presets import PRESETS
from consumers.webhooks.translate import translate
from health.yamlfile import FileError
from tests.webhook_calls import AT, NOW, raw

ROOT = Path(__file__).resolve().parents[2]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "webhooks.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(FileError) as raised:
        file.load(written(tmp_path, text))
    return [str(problem) for problem in raised.value.problems]


OWN = """
webhooks:
  desk:
    signature: {scheme: hmac, header: X-Signature, prefix: "sha256="}
    secret_env: [DESK_SECRET, DESK_SECRET_OLD]
    account: customer.key
    user: customer.user
    mapping:
      - when: kind == 'ticket' && !draft
        event: ticket
        fields:
          event_id: id
          timestamp: {path: at, cast: epoch_s}
          ticket_id: ticket.number
          status: {path: ticket.state, values: {Fresh: open, Done: solved}}
          priority: {path: ticket.weight, default: normal}
          subject: ticket.text
      - when: kind == 'profile'
        event: group
        fields:
          event_id: id
          timestamp: {path: at, cast: epoch_s}
          traits.plan: plan
          traits.mrr: {path: yearly, cast: number}
          traits.renewal_on: {path: until, cast: epoch_s}
          traits.tier: tier
      - when: item.seen
        for_each: visits
        event: usage
        fields:
          event_id: join(':', [call.id, to_string(item.id)])
          timestamp: item.at
          account_id: item.account
          user_id: item.user
          feature: "'reports'"
          quantity: item.times
"""


def answers(tmp_path: Path, document: Any) -> list[Item]:
    hook = file.load(written(tmp_path, OWN))["desk"]
    return [part.item for part in translate(hook, raw(document), now=NOW, limits=Limits())]


def events(item: Item) -> list[dict[str, Any]]:
    return [msgspec.json.decode(encode(event)) for event in item.events]


def test_a_mapping_of_ones_own(tmp_path: Path) -> None:
    ticket = {"number": 12, "state": "Done", "text": "It  is\n<b>slow</b>"}
    call = {"id": 7, "kind": "ticket", "at": AT, "customer": {"key": "acme"}, "ticket": ticket}
    (item,) = answers(tmp_path, call)
    assert events(item) == [
        {
            "kind": "ticket", "event_id": "7", "account_id": "acme", "timestamp": "2026-05-01T11:59:00Z",
            "source": "desk", "ticket_id": "12", "status": "solved", "priority": "normal", "subject": "It is slow",
        }
    ]  # fmt: skip


def test_traits_one_by_one(tmp_path: Path) -> None:
    call = {
        "id": "a", "kind": "profile", "at": AT, "customer": {"key": 9}, "plan": "Pro", "yearly": "490.5",
        "until": AT, "tier": True,
    }  # fmt: skip
    (item,) = answers(tmp_path, call)
    (event,) = events(item)
    assert event["account_id"] == "9"
    assert event["traits"] == {"plan": "Pro", "mrr": 490.5, "renewal_on": "2026-05-01", "tier": True}


def test_one_event_for_each_of_a_list(tmp_path: Path) -> None:
    visits = [
        {"id": 1, "seen": True, "at": "2026-05-01T11:00:00Z", "account": "acme", "user": "u-1", "times": 2.5},
        {"id": 2, "seen": False, "at": "2026-05-01T11:00:00Z", "account": "acme"},
        {"id": 3, "seen": 1, "at": "2026-05-01T11:00:00Z", "user": "u-2", "times": None},
    ]
    (item,) = answers(tmp_path, {"id": "v", "visits": visits})
    made = [(e["event_id"], e["account_id"], e["user_id"], e.get("quantity")) for e in events(item)]
    assert made == [("v:1", "acme", "u-1", 2.5), ("v:3", UNPLACED, "u-2", None)]


def test_what_no_rule_is_for(tmp_path: Path) -> None:
    (item,) = answers(tmp_path, {"kind": "ticket", "draft": True})
    assert item.ignored == "no rule is for it"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"at": "soon"}, "timestamp"),
        ({"ticket": {"number": 1, "state": "Lost"}}, "status"),
        ({"ticket": {"state": "Done"}}, "ticket_id"),
        ({"customer": {"key": {"a": 1}}}, "account_id"),
        ({"customer": None}, "account_id"),
        ({"id": ["x"]}, "event_id"),
        ({"visits": 3}, ""),
    ],
)
def test_what_does_not_fit_is_told_by_field(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    call = {
        "id": 7, "kind": "ticket", "at": AT, "customer": {"key": "acme"}, "ticket": {"number": 1, "state": "Done"},
    }  # fmt: skip
    (item,) = answers(tmp_path, {**call, **change})
    assert item.error is not None
    assert item.error.problems[0].field == field
    assert item.error.problems[0].remedy


def test_no_file_no_webhooks(tmp_path: Path) -> None:
    assert file.load(tmp_path / "webhooks.yaml") == {}


PRESET = "webhooks:\n  s:\n    preset: stripe\n"
RULE = "webhooks:\n  s:\n    signature: none\n    account: a\n    mapping:\n      - event: {}\n        fields:\n"
FIELDS = "          event_id: a\n          timestamp: b\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("webhooks:\n  a b: {preset: stripe, secret_env: S}\n", 2, "webhooks"),
        ("webhooks:\n  s:\n    preset: strip\n    secret_env: S\n", 3, "did you mean stripe?"),
        (PRESET, 2, "name the environment variable that holds the secret"),
        (f"{PRESET}    secret: whsec_x\n", 4, "did you mean secret_env?"),
        (f"{PRESET}    secret_env: whsec-x\n", 4, "secret_env"),
        (f"{PRESET}    secret_env: S\n    signature: strpe\n", 5, "did you mean stripe?"),
        (f"{PRESET}    secret_env: S\n    account: '[a'\n", 5, "is not JMESPath"),
        (f"{PRESET}    secret_env: S\n    options: {{nps: a}}\n", 5, "there is no such key"),
        (f"{PRESET}    signature: none\n    secret_env: S\n", 5, "remove secret_env"),
        (f"{PRESET}    secret_env: S\n    signature: {{scheme: hmac}}\n", 5, "needs header"),
        (PRESET.replace("stripe", "typeform") + "    secret_env: S\n    options:\n      nsp: a\n", 6, "mean nps?"),
        ("webhooks:\n  s:\n    signature: none\n", 2, "give either preset or mapping"),
        ("webhooks:\n  s:\n    secret_env: S\n    mapping: [{event: login, fields: {}}]\n", 2, "signature is missing"),
        (RULE.format("login").replace("    account: a\n", "") + FIELDS, 5, "whose event it is"),
        (RULE.format("ticket") + FIELDS + "          ticket: c\n", 10, "did you mean ticket_id?"),
        (RULE.format("login") + "          event_id: a\n", 7, "login needs timestamp"),
        (RULE.format("login\n        when: a ==") + FIELDS, 7, "when is not JMESPath"),
        ("hooks: {}\n", 1, "did you mean webhooks?"),
    ],
)
def test_a_fault_is_told_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    found = faults(tmp_path, text)
    assert any(problem.startswith(f"webhooks.yaml:{line}:") and words in problem for problem in found), found


def test_the_schema_is_that_of_the_code() -> None:
    written_ = json.loads((ROOT / "rules/webhooks.schema.json").read_text(encoding="utf-8"))
    assert written_ == file.json_schema()


def test_the_schema_takes_what_the_code_takes() -> None:
    validator = jsonschema.Draft202012Validator(file.json_schema())
    validator.check_schema(file.json_schema())
    assert list(validator.iter_errors(yaml.safe_load(OWN))) == []
    for name in PRESETS:
        given = {"webhooks": {name: {"preset": name, "secret_env": "S", "options": {}}}}
        assert list(validator.iter_errors(given)) == []
        given["webhooks"][name]["options"] = {"x": 1}
        assert list(validator.iter_errors(given)) != []
    unsigned = {"webhooks": {"x": {"signature": "none", "mapping": [{"event": "login", "fields": {}}]}}}
    assert list(validator.iter_errors(unsigned)) == []
    assert list(validator.iter_errors({"webhooks": {"x": {"signature": "stripe"}}})) != []


def test_the_examples_of_the_guide_are_one_good_file(tmp_path: Path) -> None:
    page = (ROOT / "docs/webhooks.md").read_text(encoding="utf-8")
    text = "".join(re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL))
    assert set(file.load(written(tmp_path, text))) == {
        "stripe", "zendesk", "typeform", "surveymonkey", "hubspot", "desk",
    }  # fmt: skip


def test_the_guide_names_every_preset_and_scheme() -> None:
    page = (ROOT / "docs/webhooks.md").read_text(encoding="utf-8")
    schemes = file.json_schema()["$defs"]["SchemeName"]["enum"]
    assert [name for name in schemes if f"| `{name}` |" not in page] == []
    assert [name for name in PRESETS if f"## {name}" not in page.lower()] == []
