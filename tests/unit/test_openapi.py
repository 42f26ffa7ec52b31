"""The committed description of the API is the one that is served, and says what a client needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from service.openapi import document, text

DOCUMENT = document()
OPERATIONS = [
    pytest.param(operation, id=f"{method} {path}")
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def test_the_committed_document_is_what_is_served(root: Path) -> None:
    committed = (root / "docs" / "openapi.json").read_text(encoding="utf-8")
    assert committed == text(), "run: python -m service.openapi docs/openapi.json"


def test_it_is_openapi_3_1_without_loose_ends() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', text()))
    assert references <= set(DOCUMENT["components"]["schemas"])
    assert "#/$defs" not in text()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_says_what_it_does_and_how_it_fails(operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert len(operation["description"]) > 3
    assert operation["tags"]
    guarded = "security" in operation
    assert guarded == ("operations" not in operation["tags"])
    if guarded:
        assert {"401", "403", "422", "500", "503"} <= set(operation["responses"])


def test_operation_ids_are_unique() -> None:
    ids = [parameter.values[0]["operationId"] for parameter in OPERATIONS]  # type: ignore[index]
    assert len(set(ids)) == len(ids)


def test_every_endpoint_is_in_the_guide(root: Path) -> None:
    guide = (root / "docs" / "api.md").read_text(encoding="utf-8")
    missing = [path for path in DOCUMENT["paths"] if path not in guide]
    assert not missing
    named = set(re.findall(r"`(?:GET|POST|PUT|DELETE) (/[^`]*)`", guide))
    assert named <= set(DOCUMENT["paths"])
