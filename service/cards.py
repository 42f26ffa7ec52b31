"""The scorecards in force, for those who ask about scores, and scorecards that somebody sends to ask about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from health import custom, scorecards
from health.custom import CustomSignal
from health.scorecard_file import parse_card
from health.scorecards import CardInForce, Scorecards
from health.yamlfile import FileError, FileProblem
from service.errors import FieldProblem, Problem, unavailable

MOST_BYTES: Final = 32 * 1024
"""Of the text of one card; ours have 4 KiB."""
MOST_CARDS: Final = 8
SHOWN_PROBLEMS: Final = 20
SHOWN_CHARACTERS: Final = 300
FOLDER: Final = "scorecards"

Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class InForce:
    """What scores are made by."""

    cards: Scorecards
    custom: Mapping[str, CustomSignal]


def running(rules_dir: Path) -> InForce:
    """As the files stand; read anew only after they changed. Raises FileError."""
    files = [rules_dir / custom.FILE, *sorted((rules_dir / FOLDER).glob("*.yaml"))]
    stats = [(str(path), path.stat()) for path in files if path.is_file()]
    return _load(rules_dir, tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


@lru_cache(maxsize=2)
def _load(rules_dir: Path, _: Signature) -> InForce:
    declared = custom.load(rules_dir)
    return InForce(cards=scorecards.load(rules_dir / FOLDER, declared), custom=declared)


def running_or_problem(rules_dir: Path) -> InForce:
    """Raises Problem 503 when the files are not fit to use: the evaluator keeps the last that were."""
    try:
        return running(rules_dir)
    except FileError as error:
        raise unavailable(f"the scorecards in force cannot be read: {error.problems[0]}", seconds=30) from None


def of_path(path: Path, in_force: Scorecards, declared: Mapping[str, CustomSignal] = custom.NONE) -> Scorecards:
    """A folder is all cards; a file takes its place among those in force. Raises FileError."""
    if path.is_dir():
        return scorecards.load(path, declared)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError([FileProblem(file=path.name, line=1, column=1, problem=f"cannot be read: {error}")]) from None
    return of_text(text, path.name, in_force, declared)


def of_text(
    text: str, name: str, in_force: Scorecards, declared: Mapping[str, CustomSignal] = custom.NONE
) -> Scorecards:
    """One card in its place among those in force. Raises FileError."""
    if len(text.encode()) > MOST_BYTES:
        words = f"a scorecard has at most {MOST_BYTES} bytes"
        raise FileError([FileProblem(file=name, line=1, column=1, problem=words)])
    card = CardInForce(*parse_card(text, name, declared), declared)
    try:
        return scorecards.replaced(in_force, card)
    except ValueError as error:
        raise FileError([FileProblem(file=name, line=1, column=1, problem=str(error))]) from None


def refused(error: FileError) -> Problem:
    """422 with the faults of a card that was sent, by line."""
    shown = [_field(problem) for problem in error.problems[:SHOWN_PROBLEMS]]
    left = len(error.problems) - len(shown)
    more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
    if left:
        shown.append(FieldProblem(field="", problem=f"{left} more problems", remedy="mend the first ones first"))
    return Problem(422, "invalid", f"{shown[0].field}: {shown[0].problem}{more}", errors=shown)


def _field(problem: FileProblem) -> FieldProblem:
    words = problem.problem
    return FieldProblem(
        field=f"{problem.file}:{problem.line}:{problem.column}",
        problem=words if len(words) <= SHOWN_CHARACTERS else words[:SHOWN_CHARACTERS] + "…",
        remedy=f"did you mean {problem.nearest}?" if problem.nearest else "correct this line of the scorecard",
    )
