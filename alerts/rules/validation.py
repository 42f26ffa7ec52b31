"""From a document to a pydantic model, with pydantic's findings put where they stand in the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from alerts.rules.document import Document, Path, RulebookError
from health.yamlfile import FileProblem

M = TypeVar("M", bound=BaseModel)

DURATION_HINT = "write a whole number with d, h or m: 7d, 12h, 30m"
HINTS: Mapping[str, str] = {
    "id": "an id is lower-case words joined by hyphens: no-login",
    "for": DURATION_HINT,
    "cooldown": DURATION_HINT,
    "renotify": DURATION_HINT + ", or null for never",
    "default_recipient": "write one e-mail address, or null",
    "operations_recipient": "write one e-mail address, or null",
    "operations_after_minutes": "write whole minutes, from 1 to 1440",
}


def validate(document: Document, model: type[M], key_names: Mapping[str, Iterable[str]]) -> M:
    """The file's model. Raises RulebookError with every fault; ``key_names`` are the keys allowed under each key."""
    if not isinstance(document.values, dict):
        raise RulebookError([document.problem((), f"a file is a mapping with {', '.join(key_names[''])}")])
    try:
        return model.model_validate(document.values)
    except ValidationError as error:
        found: dict[tuple[int, int], FileProblem] = {}
        for detail in error.errors(include_url=False):
            problem = _file_problem(document, detail, key_names)
            found.setdefault(
                (problem.line, problem.column) if detail["type"] != "missing" else (-len(found), 0), problem
            )
        raise RulebookError(found.values()) from None


def _file_problem(document: Document, detail: ErrorDetails, key_names: Mapping[str, Iterable[str]]) -> FileProblem:
    path = _path(document, detail)
    name = _dotted(path)
    if detail["type"] == "extra_forbidden":
        allowed = list(key_names.get(_last_key(path[:-1]), ()))
        nearest = difflib.get_close_matches(str(path[-1]), allowed, n=1)
        problem = f"unknown key {path[-1]!r}; there are {', '.join(allowed)}"
        return document.problem(path, problem, next(iter(nearest), None), at_key=True)
    if detail["type"] == "missing":
        return document.problem(path[:-1], f"{name} is missing")
    if "[key]" in detail["loc"]:
        return document.problem(path, f"{name}: {_plain(detail['msg'])}", at_key=True)
    if detail["type"] == "literal_error":
        options = re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
        nearest = difflib.get_close_matches(str(detail["input"]), options, n=1)
        return document.problem(path, f"{name} is one of {', '.join(options)}", next(iter(nearest), None))
    if detail["type"] == "string_pattern_mismatch" and {"lists", "for_each"} & set(path):
        return document.problem(path, f"{name}: an item has no quotes, braces, backslash or dollar sign")
    return document.problem(path, f"{name}: {HINTS.get(_last_key(path)) or _plain(detail['msg'])}")


def _path(document: Document, detail: ErrorDetails) -> Path:
    """pydantic's location without the names of union members, which the file does not have."""
    path: Path = ()
    last = len(detail["loc"]) - 1
    for place, part in enumerate(detail["loc"]):
        longer = (*path, part)
        if longer in document.nodes or (place == last and detail["type"] == "missing"):
            path = longer
    return path


def _dotted(path: Path) -> str:
    """``severity.level`` of rules[3].severity[0].level: the line says which rule it is."""
    words = [str(part) for part in path if isinstance(part, str)]
    return ".".join(words[1:] if len(words) > 1 and words[0] == "rules" else words) or "the file"


def _last_key(path: Path) -> str:
    return next((part for part in reversed(path) if isinstance(part, str)), "")


def _plain(message: str) -> str:
    message = message.replace("Input should be a valid string", "write a text (in quotes if it looks like a number)")
    message = message.replace("Input should be", "should be").replace("String should", "the text should")
    return message[:1].lower() + message[1:]


def keys_of(model: type[BaseModel]) -> tuple[str, ...]:
    """A model's keys as the file writes them."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


def without_leading_space(values: Any, path: Path) -> int:
    """How many characters of the text at ``path`` the model stripped from its front."""
    for part in path:
        values = values[part]
    text = str(values)
    return len(text) - len(text.lstrip())
