"""From a directory of rules files to a RuleBook, or to the list of everything that is wrong with them.

Pure but for reading the files. One fault anywhere refuses the whole set: half a rulebook would look like a quiet day.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alerts.rules.document import Document, RulebookError, parse
from alerts.rules.document import Path as YamlPath
from alerts.rules.expression import Compiled, Problem, compile_expression
from alerts.rules.model import (
    CaseSpec,
    Level,
    LevelSpec,
    Place,
    Rule,
    RuleBook,
    RuleCase,
    RulesFile,
    RuleSpec,
    Words,
    content_hash,
    duration,
)
from alerts.rules.reasons import Template, TemplateProblem, parse_template
from alerts.rules.routes import Routes, RoutesFile, SeverityChannels, routes_of
from alerts.rules.validation import keys_of, validate, without_leading_space
from health import custom
from health.catalogue import Signal, SignalRef
from health.yamlfile import FileError, FileProblem

ROUTES_FILE = "routes.yaml"
OTHER_FILES = frozenset({"sources.yaml", "webhooks.yaml"})
"""What else lies beside the rules: agreements with senders and tools, read by the doors (``consumers/``)."""

RULES_KEYS = {
    "": keys_of(RulesFile),
    "rules": keys_of(RuleSpec),
    "title": keys_of(Words),
    "reason": keys_of(Words),
    "suggestion": keys_of(Words),
    "severity": keys_of(LevelSpec),
    "tests": keys_of(CaseSpec),
}
ROUTES_KEYS = {"": keys_of(RoutesFile), "channels": keys_of(SeverityChannels)}


def load(rules_dir: Path, catalogue: Mapping[str, Signal]) -> RuleBook:
    """Every rule and the routes of a directory, whose rules may speak of the ``catalogue`` and of its signals.yaml.
    Raises RulebookError that lists every problem of every file."""
    problems: list[FileProblem] = []
    declared = custom.NONE
    try:
        declared = custom.load(rules_dir)
    except FileError as error:
        problems += error.problems
    catalogue = {**catalogue, **{name: each.signal for name, each in declared.items()}}
    rules: list[_Loaded] = []
    routes = routes_of(RoutesFile())
    paths = rules_files(rules_dir)
    if not any(path.name not in {ROUTES_FILE, custom.FILE} for path in paths):
        problems.append(
            FileProblem(file=str(rules_dir), line=1, column=1, problem="there is no rules file (*.yaml) here")
        )
    for path in paths:
        if path.name == custom.FILE:
            continue
        try:
            document = parse(str(path), _read(path))
            if path.name == ROUTES_FILE:
                routes = routes_of(validate(document, RoutesFile, ROUTES_KEYS))
            else:
                rules += _FileLoader(document, catalogue, declared).load()
        except RulebookError as error:
            problems += error.problems
    problems += _duplicates(rules)
    if problems:
        raise RulebookError(problems)
    return _rulebook(rules, routes, declared)


def rules_files(rules_dir: Path) -> list[Path]:
    """The files that make a rulebook, in the order of their names."""
    paths = (path for suffix in ("*.yaml", "*.yml") for path in rules_dir.glob(suffix) if path.is_file())
    return sorted(path for path in paths if path.name not in OTHER_FILES)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8; save the file as UTF-8"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    raise RulebookError([FileProblem(file=str(path), line=1, column=1, problem=problem)])


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    rule: Rule
    enabled: bool
    content: Mapping[str, Any]


def _duplicates(rules: list[_Loaded]) -> Iterator[FileProblem]:
    first: dict[str, Place] = {}
    for loaded in rules:
        place = loaded.rule.place
        other = first.setdefault(loaded.rule.id, place)
        if other is not place:
            problem = f"rule id {loaded.rule.id!r} is taken by {other.file}:{other.line}"
            yield FileProblem(file=place.file, line=place.line, column=place.column, problem=problem)


def _rulebook(rules: list[_Loaded], routes: Routes, declared: Mapping[str, custom.CustomSignal]) -> RuleBook:
    enabled = sorted((loaded for loaded in rules if loaded.enabled), key=lambda loaded: loaded.rule.id)
    content = {
        "rules": [loaded.content for loaded in enabled],
        "routes": {
            "channels": {severity: list(channels) for severity, channels in routes.channels.items()},
            "default_recipient": routes.default_recipient,
            "operations_recipient": routes.operations_recipient,
            "operations_after_minutes": routes.operations_after_minutes,
            "default_language": routes.default_language,
        },
    }
    if declared:
        content["signals"] = [declared[name].content for name in sorted(declared)]
    return RuleBook(
        version=content_hash(content),
        rules=tuple(loaded.rule for loaded in enabled),
        routes=routes,
        content=content,
        custom=declared,
    )


@dataclass(frozen=True, kw_only=True)
class _Item:
    """What for_each puts in place of ``${name}``; a rule without for_each has neither."""

    name: str | None = None
    value: str = ""

    def put_into(self, text: str) -> str:
        return text if self.name is None else text.replace(f"${{{self.name}}}", self.value)

    def offset_in(self, text: str, offset: int) -> int:
        """The offset in the text as written of an offset in the text as put together."""
        if self.name is None:
            return offset
        written = f"${{{self.name}}}"
        start = text.find(written)
        shift = 0
        while start != -1 and start + shift <= offset:
            if offset < start + shift + len(self.value):
                return start
            shift += len(self.value) - len(written)
            start = text.find(written, start + len(written))
        return offset - shift


class _FileLoader:
    """Checks one file; collects problems instead of stopping at the first."""

    def __init__(
        self, document: Document, catalogue: Mapping[str, Signal], declared: Mapping[str, custom.CustomSignal]
    ) -> None:
        self.document = document
        self.catalogue = catalogue
        self.declared = declared
        self.problems: list[FileProblem] = []

    def load(self) -> list[_Loaded]:
        try:
            file = validate(self.document, RulesFile, RULES_KEYS)
        except RulebookError as error:
            self._check_conditions()
            raise RulebookError([*error.problems, *self.problems]) from None
        loaded: list[_Loaded] = []
        for number, spec in enumerate(file.rules):
            place: YamlPath = ("rules", number)
            for item in self._items(file, spec, place):
                before = len(self.problems)
                rule = self._rule(spec, item, place)
                if rule is not None and len(self.problems) == before:
                    loaded.append(self._loaded(spec, rule, item))
                elif len(self.problems) > before:
                    break  # the same fault in every item of for_each is one fault
        if self.problems:
            raise RulebookError(self.problems)
        return loaded

    def _check_conditions(self) -> None:
        """In a file of the wrong shape, so that its writer sees the faults of the conditions in the same go."""
        rules = self.document.values.get("rules") if isinstance(self.document.values, dict) else None
        for number, rule in enumerate(rules if isinstance(rules, list) else ()):
            if isinstance(rule, dict) and isinstance(rule.get("when"), str):
                self._condition(("rules", number, "when"), rule["when"], _Item())

    def _loaded(self, spec: RuleSpec, rule: Rule, item: _Item) -> _Loaded:
        content = spec.model_dump(by_alias=True, mode="json", exclude={"tests", "for_each", "enabled"})
        content = _put_into_all(content, item)
        content["id"] = rule.id
        content["when"] = rule.when.canonical
        return _Loaded(rule=rule, enabled=spec.enabled, content=content)

    def _items(self, file: RulesFile, spec: RuleSpec, place: YamlPath) -> list[_Item]:
        if spec.for_each is None:
            return [_Item()]
        ((name, items),) = spec.for_each.items()
        if isinstance(items, str):
            path = (*place, "for_each", name)
            if items not in file.lists:
                nearest = difflib.get_close_matches(items, file.lists, n=1)
                self._report(path, f"this file has no list called {items!r}", next(iter(nearest), None))
                return []
            items = file.lists[items]
        return [_Item(name=name, value=value) for value in dict.fromkeys(items)]

    def _rule(self, spec: RuleSpec, item: _Item, place: YamlPath) -> Rule | None:
        when = self._condition((*place, "when"), spec.when, item)
        levels = self._levels(spec, item, place)
        reason = {
            language: self._template((*place, "reason", language), text, item)
            for language, text in spec.reason.model_dump().items()
        }
        if when is None or levels is None:
            return None
        if not when.refs:
            self._report((*place, "when"), "the condition names no signal")
        templates = {language: template for language, template in reason.items() if template is not None}
        conditions = [when, *(level.when for level in levels if level.when is not None)]
        refs = frozenset[SignalRef]().union(
            *(condition.refs for condition in conditions), *(template.refs for template in templates.values())
        )
        rule_id = spec.id if item.name is None else f"{spec.id}:{item.value}"
        return Rule(
            id=rule_id,
            title=_put_into_all(spec.title.model_dump(), item),
            when=when,
            levels=levels,
            for_=duration(spec.for_),
            cooldown=duration(spec.cooldown),
            renotify=None if spec.renotify is None else duration(spec.renotify),
            notify_resolved=spec.notify_resolved,
            reason=templates,
            suggestion=_put_into_all(spec.suggestion.model_dump(), item),
            tags=tuple(spec.tags),
            version=self._version({"when": when.canonical, "for": duration(spec.for_).total_seconds()}, when.refs),
            levels_version=self._version(
                {"levels": [[each.level, each.when and each.when.canonical] for each in levels]},
                frozenset[SignalRef]().union(*(each.when.refs for each in levels if each.when is not None)),
            ),
            refs=refs,
            absence=any(self.catalogue[ref.name].absence for ref in when.refs),
            names_status=any(ref.name == "status" for ref in when.refs),
            place=self._place((*place, "id")),
            tests=tuple(self._cases(spec, item, place, refs)),
        )

    def _version(self, content: dict[str, Any], refs: frozenset[SignalRef]) -> str:
        """Another definition of a signal of one's own makes another condition; another wording of it does not."""
        own = sorted({ref.name for ref in refs} & set(self.declared))
        if own:
            content["signals"] = [self.declared[name].counted for name in own]
        return content_hash(content)[:16]

    def _condition(self, path: YamlPath, written: str, item: _Item) -> Compiled | None:
        source = item.put_into(written)
        result = compile_expression(source, self.catalogue)
        if isinstance(result, Compiled):
            return result
        offset = item.offset_in(written, _offset(source, result))
        self.problems.append(self.document.problem_within(path, offset, result.problem, result.nearest))
        return None

    def _levels(self, spec: RuleSpec, item: _Item, place: YamlPath) -> tuple[Level, ...] | None:
        if isinstance(spec.severity, str):
            return (Level(level=spec.severity, when=None),)
        levels = []
        last = len(spec.severity) - 1
        for number, line in enumerate(spec.severity):
            path = (*place, "severity", number)
            if (line.when is None) != (number == last):
                self._report(path, "every line of severity has a condition (when), and only the last has none")
                return None
            when = None if line.when is None else self._condition((*path, "when"), line.when, item)
            if line.when is not None and when is None:
                return None
            levels.append(Level(level=line.level, when=when))
        return tuple(levels)

    def _template(self, path: YamlPath, written: str, item: _Item) -> Template | None:
        result = parse_template(item.put_into(written), self.catalogue)
        if isinstance(result, TemplateProblem):
            offset = item.offset_in(written, result.offset) + without_leading_space(self.document.values, path)
            self.problems.append(self.document.problem_within(path, offset, result.problem, result.nearest))
            return None
        return result

    def _cases(self, spec: RuleSpec, item: _Item, place: YamlPath, refs: frozenset[SignalRef]) -> Iterator[RuleCase]:
        names = {str(ref): self.catalogue[ref.name] for ref in refs}
        for number, case in enumerate(spec.tests):
            path = (*place, "tests", number)
            given = {}
            for written, value in case.given.items():
                name = item.put_into(written)
                key_path = (*path, "given", written)
                if name not in names:
                    nearest = difflib.get_close_matches(name, names, n=1)
                    self._report(
                        key_path, f"the rule does not use a signal {name!r}", next(iter(nearest), None), at_key=True
                    )
                elif value is not None and not _fits(names[name], value):
                    self._report(key_path, f"signal {name} is a {names[name].type}")
                given[name] = value
            yield RuleCase(
                given=given,
                expect=case.expect,
                severity=case.severity,
                reason={language: item.put_into(text) for language, text in (case.reason or {}).items()},
                place=self._place(path),
            )

    def _place(self, path: YamlPath) -> Place:
        line, column = self.document.position(path)
        return Place(file=self.document.file, line=line, column=column)

    def _report(self, path: YamlPath, problem: str, nearest: str | None = None, *, at_key: bool = False) -> None:
        self.problems.append(self.document.problem(path, problem, nearest, at_key=at_key))


def _put_into_all(value: Any, item: _Item) -> Any:
    if isinstance(value, str):
        return item.put_into(value)
    if isinstance(value, dict):
        return {key: _put_into_all(part, item) for key, part in value.items()}
    if isinstance(value, list):
        return [_put_into_all(part, item) for part in value]
    return value


def _offset(source: str, problem: Problem) -> int:
    lines = source.split("\n")
    return sum(len(line) + 1 for line in lines[: problem.line - 1]) + problem.column - 1


def _fits(signal: Signal, value: float | bool | str) -> bool:
    if signal.type == "number":
        return not isinstance(value, bool | str)
    return isinstance(value, bool) if signal.type == "boolean" else isinstance(value, str)
