"""The glossary has every word that the code gives a name to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import pytest

import alerts.tables
import consumers.tables
import service.tables
from alerts.channels import base
from alerts.episodes import OUTCOMES, SEVERITIES, State, TransitionKind
from alerts.routing import ChannelName
from consumers.bad_events import Reason
from consumers.events import KINDS
from health.gaps import GapState
from health.scorecard_file import Band
from health.tables import metadata
from service.auth import SCOPES
from service.roles import ROLES

ROOT = Path(__file__).resolve().parents[2]
TABLES = {table.name for module in (alerts, consumers, service) for table in module.tables.metadata.tables.values()}
WORDS: dict[str, Iterable[str]] = {
    "tables": TABLES | set(metadata.tables),
    "event kinds": KINDS,
    "transitions": get_args(TransitionKind),
    "outcomes": OUTCOMES,
    "severities": SEVERITIES,
    "states of an episode": get_args(State),
    "bands": get_args(Band),
    "states of a gap": get_args(GapState),
    "reasons of a dead letter": get_args(Reason),
    "channels": get_args(ChannelName),
    "outcomes of an attempt": (*get_args(base.Outcome), "started", "abandoned"),
    "scopes": SCOPES,
    "roles": ROLES,
}


def glossary() -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", (ROOT / "docs/glossary.md").read_text(encoding="utf-8")))


@pytest.mark.parametrize("what", WORDS)
def test_the_glossary_has_every_word_of(what: str) -> None:
    assert set(WORDS[what]) - glossary() == set(), f"docs/glossary.md lacks {what}"


def test_the_tables_are_all_known_here() -> None:
    assert {"accounts", "stream_offsets", "episodes", "api_keys"} <= set(WORDS["tables"])


@pytest.mark.parametrize(
    ("heading", "words"),
    [("| kind |", set(KINDS)), ("| transition |", set(get_args(TransitionKind))), ("| outcome |", set(OUTCOMES))],
)
def test_a_table_of_the_glossary_has_these_rows_and_no_others(heading: str, words: set[str]) -> None:
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    table = text.split(heading, 1)[1].split("\n\n", 1)[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == words
