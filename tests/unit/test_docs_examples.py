"""The examples that the README shows are taken by the code that they are for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from alerts.rules import check_book, load
from consumers.backfill import load as load_mapping
from consumers.events import Login, decode
from health.catalogue import SIGNALS
from service.cli import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def block(language: str, start: str) -> str:
    (found,) = (text for text in blocks(language) if text.startswith(start))
    return found


def test_the_event_is_an_event() -> None:
    command = block("sh", "curl")
    (body,) = re.findall(r"-d '\s*(\{.*?\})'", command, flags=re.DOTALL)
    assert isinstance(decode(body.encode()), Login)


def test_the_rule_loads_and_passes_its_own_tests(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(block("yaml", "rules:"), encoding="utf-8")
    assert [str(problem) for problem in check_book(load(tmp_path, SIGNALS))] == []


def test_the_mapping_loads(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(block("yaml", "source:"), encoding="utf-8")
    assert load_mapping(path).source == "crm"


def commands(text: str) -> set[str]:
    """Each `kizashi …` in backticks and at the start of a line of a shell block, comments left out."""
    inline = re.findall(r"`(kizashi [^`\n]+)`", text)
    shell = "".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    lines = re.findall(r"^(?:\S+/)?(kizashi [^\n#]+)", shell, flags=re.MULTILINE)
    return {line.strip() for line in [*inline, *lines]}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_and_option_exists(guide: Path) -> None:
    for line in commands(guide.read_text(encoding="utf-8")):
        command: Any = typer.main.get_command(app)
        words = line.split()[1:]
        while (
            words
            and words[0].islower()
            and not words[0].startswith("-")
            and (verbs := getattr(command, "commands", None))
        ):
            assert words[0] in verbs, f"{line}: there is no verb {words[0]}"
            command = verbs[words.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("-")} <= known, line
