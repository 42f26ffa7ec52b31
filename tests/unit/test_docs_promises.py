"""Each promise of the reliability page, and each decision, names what holds it; that must exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
PROMISES = re.findall(r"^\| (.+?) \| (.+?) \|$", PAGE, flags=re.MULTILINE)
DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))


@pytest.mark.parametrize("holder", [held for what, held in PROMISES if what != "promise" and not what.startswith("-")])
def test_a_promise_names_a_test_that_exists(holder: str) -> None:
    found = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", holder)
    assert found, f"name one test as `tests/….py::test_…`, not {holder}"
    source = (ROOT / found[1]).read_text(encoding="utf-8")
    assert re.search(rf"^(?:async )?def {found[2]}\(", source, flags=re.MULTILINE), f"{found[1]} has no {found[2]}"


def test_there_are_promises() -> None:
    assert len(PROMISES) > 20


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_its_parts_and_stands_in_the_list(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    number = page.name[:4]
    assert re.match(rf"# {number}: \S", text)
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert f"[{number}]({page.name})" in (ROOT / "docs/decisions/README.md").read_text(encoding="utf-8")
    for name, path in re.findall(r"`(test_\w+)` in `(tests/[\w/]+\.py)`", text):
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_decisions_are_numbered_without_a_hole() -> None:
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))
