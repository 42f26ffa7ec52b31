"""A YAML file with the place of everything in it, so that a fault is reported where its writer can see it.

Parsing goes through PyYAML's nodes, which carry marks, and not through its loader, which forgets them and lets a
repeated key silently replace the first. Anchors and aliases are refused: a small file could stand for a huge one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from health.yamlfile import FileError, FileProblem

MAX_FILE_CHARACTERS = 1_000_000
ALIASES = "anchors and aliases are not taken; repeat the text"
SPACES = re.compile(r"\s*")
SPACES_AND_THEIR_ESCAPES = re.compile(r"(?:\s|\\[\stnrvfNLP_])*")

Path = tuple[str | int, ...]
"""Keys and list places from the root of the file to a value."""


class RulebookError(FileError):
    """A set of files that is refused as a whole; ``problems`` has every fault, ``str()`` a line for each."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """The values of a file, and the nodes they came from by path."""

    file: str
    text: str
    values: Any
    nodes: Mapping[Path, yaml.Node]
    keys: Mapping[Path, yaml.Node] = field(default_factory=dict)

    def problem(self, path: Path, problem: str, nearest: str | None = None, *, at_key: bool = False) -> FileProblem:
        """A problem at the value of ``path``, or at its key, or at the nearest place around it that exists."""
        line, column = self.position(path, at_key=at_key)
        return FileProblem(file=self.file, line=line, column=column, problem=problem, nearest=nearest)

    def position(self, path: Path, *, at_key: bool = False) -> tuple[int, int]:
        """Line and column, counted from 1."""
        node = (self.keys.get(path) if at_key else None) or self._around(path)
        return (node.start_mark.line + 1, node.start_mark.column + 1) if node else (1, 1)

    def problem_within(self, path: Path, offset: int, problem: str, nearest: str | None = None) -> FileProblem:
        """A problem at the character ``offset`` of the text at ``path``, wherever the file's quoting put it."""
        node = self.nodes.get(path)
        if not isinstance(node, yaml.ScalarNode):
            return self.problem(path, problem, nearest)
        places = character_places(self.text, node)
        index = places[min(offset, len(places) - 1)] if places else node.start_mark.index
        before = self.text[:index]
        column = index - (before.rfind("\n") + 1)
        return FileProblem(
            file=self.file, line=before.count("\n") + 1, column=column + 1, problem=problem, nearest=nearest
        )

    def _around(self, path: Path) -> yaml.Node | None:
        while path and path not in self.nodes:
            path = path[:-1]
        return self.nodes.get(path)


def parse(file: str, text: str) -> Document:
    """Read a YAML text. Raises RulebookError for what is not YAML, a repeated key, an alias, or too much of it."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if len(text) > MAX_FILE_CHARACTERS:
        raise RulebookError([_at(file, 0, 0, f"the file is longer than {MAX_FILE_CHARACTERS} characters")])
    try:
        root = yaml.compose(text, Loader=_Composer)
    except yaml.MarkedYAMLError as error:
        raise RulebookError([_marked(file, error.problem_mark or error.context_mark, _yaml_words(error))]) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = error.position - (before.rfind("\n") + 1)
        words = f"the character U+{error.character:04X} is not allowed in YAML"
        raise RulebookError([_at(file, before.count("\n"), column, words)]) from None
    except RecursionError:
        raise RulebookError([_at(file, 0, 0, "the file is nested too deep")]) from None
    if root is None:
        raise RulebookError([_at(file, 0, 0, "the file is empty")])
    walker = _Walker(file)
    values = walker.value(root, ())
    if walker.problems:
        raise RulebookError(walker.problems)
    return Document(file=file, text=text, values=values, nodes=walker.nodes, keys=walker.keys)


class _Composer(yaml.SafeLoader):
    """Refuses aliases where they stand."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias: Any = self.get_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(problem=ALIASES, problem_mark=alias.start_mark)
        return super().compose_node(parent, index)


def _at(file: str, line: int, column: int, problem: str) -> FileProblem:
    return FileProblem(file=file, line=line + 1, column=column + 1, problem=problem)


def _marked(file: str, mark: Any, problem: str) -> FileProblem:
    return _at(file, mark.line, mark.column, problem) if mark is not None else _at(file, 0, 0, problem)


def _yaml_words(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "not YAML"
    if problem == ALIASES:
        return problem
    if "'\\t'" in problem:
        return "a tab is used for indentation; YAML wants spaces"
    return f"not YAML: {error.context + ', ' if error.context else ''}{problem}"


class _Walker:
    def __init__(self, file: str) -> None:
        self.file = file
        self.nodes: dict[Path, yaml.Node] = {}
        self.keys: dict[Path, yaml.Node] = {}
        self.problems: list[FileProblem] = []
        self._constructor = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.nodes[path] = node
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, place)) for place, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._report(key_node, "a key is one word or text")
                continue
            key = str(key_node.value)
            if key in values:
                self._report(key_node, f"{key!r} is given twice")
                continue
            self.keys[(*path, key)] = key_node
            values[key] = self.value(value_node, (*path, key))
        return values

    def _scalar(self, node: yaml.Node) -> Any:
        if node.tag == "tag:yaml.org,2002:timestamp":
            return str(node.value)  # dates stay text: what they mean is decided by the field
        try:
            return self._constructor.construct_object(node)
        except (yaml.constructor.ConstructorError, ValueError) as error:
            self._report(node, f"{str(node.value)[:40]!r} cannot be read: {getattr(error, 'problem', error)}")
            return None

    def _report(self, node: yaml.Node, problem: str) -> None:
        self.problems.append(_at(self.file, node.start_mark.line, node.start_mark.column, problem))


def character_places(text: str, node: yaml.ScalarNode) -> Sequence[int]:
    """For each character of a scalar's value, its index in the file's text, through quotes, folds and blocks."""
    index = node.start_mark.index
    if node.style in {"|", ">"}:
        index = text.index("\n", index) + 1
    elif node.style in {"'", '"'}:
        index += 1
    skipped = SPACES_AND_THEIR_ESCAPES if node.style == '"' else SPACES
    end = node.end_mark.index
    places: list[int] = []
    for character in node.value:
        if not character.isspace():
            found = skipped.match(text, index, end)
            index = found.end() if found else index
        places.append(min(index, end))
        index += _width(text, index, character, node.style)
    return places


def _width(text: str, index: int, character: str, style: str | None) -> int:
    """How many characters of the file stand for one of the value."""
    if style == "'" and character == "'":
        return 2
    if style == '"' and text[index : index + 1] == "\\":
        return {"x": 4, "u": 6, "U": 10}.get(text[index + 1 : index + 2], 2)
    if character.isspace():
        # Folding turned a line end with its indentation into this one; the next letter skips what is left.
        return 1 if text[index : index + 1].isspace() else 0
    return 1
