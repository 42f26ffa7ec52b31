"""YAML files with the place of everything in them: a fault is reported by file, line and column. Pure but for reading.

PyYAML's loader forgets marks and lets a repeated key replace the first without a word, so the nodes are walked here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Place = tuple[str | int, ...]
"""Keys and list places from the root to a value."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, kw_only=True, order=True)
class FileProblem:
    """One fault of one file; lines and columns count from 1."""

    file: str
    line: int
    column: int
    problem: str
    nearest: str | None = None

    def __str__(self) -> str:
        hint = f" (did you mean {self.nearest}?)" if self.nearest else ""
        return f"{self.file}:{self.line}:{self.column}: {self.problem}{hint}"


class FileError(Exception):
    """A file that is refused; ``problems`` has every fault found, ``str()`` a line for each."""

    def __init__(self, problems: Iterable[FileProblem]) -> None:
        self.problems: tuple[FileProblem, ...] = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, kw_only=True)
class YamlFile:
    """The values of a file and where they stand."""

    name: str
    values: Any
    marks: Mapping[Place, tuple[int, int]]

    def problem(self, place: Place, problem: str, nearest: str | None = None) -> FileProblem:
        """A problem at ``place``, or at the closest place around it that is in the file."""
        while place and place not in self.marks:
            place = place[:-1]
        line, column = self.marks.get(place, (1, 1))
        return FileProblem(file=self.name, line=line, column=column, problem=problem, nearest=nearest)

    def validate(self, model: type[M], keys: Collection[str]) -> M:
        """The values as ``model``, whose keys anywhere are ``keys``. Raises FileError with every fault."""
        try:
            return model.model_validate(self.values)
        except ValidationError as error:
            raise FileError(self._from_pydantic(detail, keys) for detail in error.errors(include_url=False)) from None

    def _from_pydantic(self, detail: ErrorDetails, keys: Collection[str]) -> FileProblem:
        place: Place = tuple(detail["loc"])
        name = ".".join(str(part) for part in place) or "the file"
        if detail["type"] == "extra_forbidden":
            close = difflib.get_close_matches(str(place[-1]), keys, n=1)
            words = f"{name}: there is no such key; remove it or correct its name"
            return self.problem(place, words, next(iter(close), None))
        if detail["type"] == "missing":
            return self.problem(place[:-1], f"{name} is missing")
        if detail["type"] == "literal_error":
            options = re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
            nearest = difflib.get_close_matches(str(detail["input"]), options, n=1)
            return self.problem(place, f"{name} is one of {', '.join(options)}", next(iter(nearest), None))
        return self.problem(place, f"{name}: {detail['msg'].removeprefix('Value error, ')}")


def read(path: Path) -> YamlFile:
    """Raises FileError for what is not one YAML mapping, and for repeated keys and aliases."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError([FileProblem(file=path.name, line=1, column=1, problem=f"cannot be read: {error}")]) from None
    return parse(text, path.name)


def parse(text: str, name: str) -> YamlFile:
    """A text that ``name`` stands for in what is said of it. Raises FileError as ``read`` does."""

    def refused(problem: str, line: int = 1, column: int = 1) -> FileError:
        return FileError([FileProblem(file=name, line=line, column=column, problem=problem)])

    walker = _Walker(name)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = walker.value(root, ()) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise refused(f"not YAML: {error.problem}", *place) from None
    except yaml.YAMLError as error:
        raise refused(f"not YAML: {error}") from None
    except RecursionError:
        raise refused("brackets too deep") from None
    if not isinstance(values, dict):
        walker.problems.append(FileProblem(file=name, line=1, column=1, problem="a file is a mapping of keys"))
    if walker.problems:
        raise FileError(walker.problems)
    return YamlFile(name=name, values=values, marks=walker.marks)


class _Walker:
    def __init__(self, file: str) -> None:
        self.file = file
        self.marks: dict[Place, tuple[int, int]] = {}
        self.problems: list[FileProblem] = []
        self._constructor = yaml.constructor.SafeConstructor()
        self._seen: set[int] = set()

    def value(self, node: yaml.Node, place: Place) -> Any:
        self.marks.setdefault(place, (node.start_mark.line + 1, node.start_mark.column + 1))
        # A node met twice came in by an alias: a small file could stand for a huge one.
        if id(node) in self._seen:
            self._fault(node, "aliases are not taken; repeat the text")
            return None
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*place, index)) for index, item in enumerate(node.value)]
        try:
            return self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError, ArithmeticError) as error:
            self._fault(node, f"not a value: {error}")
            return None

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in values:
                self._fault(key_node, f"{key} is given twice")
                continue
            self.marks[(*place, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            values[key] = self.value(value_node, (*place, key))
        return values

    def _fault(self, node: yaml.Node, problem: str) -> None:
        mark = node.start_mark
        self.problems.append(FileProblem(file=self.file, line=mark.line + 1, column=mark.column + 1, problem=problem))
