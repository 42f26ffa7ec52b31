"""A condition as the rest of the service uses it: a SQL boolean expression over signals, checked and ready to run.

The results are those of PostgreSQL on double precision, with one deliberate difference: what has no finite result
(``x / 0``, ``x % 0``, an overflow) is NULL instead of an error, so that one odd account cannot abort a batch.
``tests/integration/test_rules_against_postgres.py`` holds the two side by side; ``compiler.py`` decides what a
node means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError
from sqlglot.tokenizer_core import Token, TokenType

from alerts.rules.compiler import MAX_DEPTH, Compiler, Refused, cast_to, start_of
from alerts.rules.logic import Columns, Truth, Type
from health.catalogue import Signal, SignalRef

MAX_CHARACTERS = 4000
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with an expression. ``line`` and ``column`` count from 1 within the expression's text."""

    line: int
    column: int
    problem: str
    nearest: str | None = None


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A checked expression. ``canonical`` is the same for texts that differ in spaces, comments or keyword case."""

    source: str
    canonical: str
    refs: frozenset[SignalRef]
    types: Mapping[str, Type]
    run: Callable[[Columns], Truth]

    def evaluate(self, columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
        """1.0 where it holds, 0.0 where it does not, NaN where that is unknown; in the shape of the columns.

        ``columns`` are keyed by ``str(ref)``: float64 with NaN for NULL (booleans as 1.0 and 0.0), text as an object
        array with None. All have one shape. KeyError names a column that the expression needs and does not get.
        """
        return evaluate_all([self], columns)[0]

    def holds(self, row: Mapping[str, Any]) -> bool | None:
        """The same for one account's values; None is unknown, and so is a value that ``row`` does not have."""
        value = self.evaluate({name: _single(row.get(name), type_) for name, type_ in self.types.items()}).item()
        return None if math.isnan(value) else bool(value)


def evaluate_all(
    expressions: Sequence[Compiled], columns: Mapping[str, npt.NDArray[Any]]
) -> list[npt.NDArray[np.float64]]:
    """Evaluate several expressions over the same columns at once, which are made ready once."""
    types = {name: type_ for expression in expressions for name, type_ in expression.types.items()}
    if missing := sorted(types.keys() - columns.keys()):
        raise KeyError(f"no column for {', '.join(missing)}")
    shape = next((np.shape(column) for column in columns.values()), (1,))
    values = np.full((len(expressions), *shape), np.nan)
    ready = Columns(columns, types)
    with np.errstate(all="ignore"):  # what comes of it is NULL
        for place, expression in enumerate(expressions):
            found = expression.run(ready)
            np.copyto(values[place], 0.0, where=found.false)
            np.copyto(values[place], 1.0, where=found.true)
    return list(values)


def _single(value: Any, type_: Type) -> npt.NDArray[Any]:
    if type_ == "text":
        return np.array([value], dtype=object)
    return np.array([math.nan if value is None else float(value)])


def compile_expression(source: str, catalogue: Mapping[str, Signal]) -> Compiled | Problem:
    """Check and compile ``source``; a problem is returned as a value, naming its place and the nearest valid name."""
    if len(source) > MAX_CHARACTERS:
        return _problem(source, 0, f"the condition is longer than {MAX_CHARACTERS} characters")
    if not source.strip():
        return _problem(source, 0, "the condition is empty")
    if control := CONTROL.search(source):
        return _problem(source, control.start(), f"the character U+{ord(control[0]):04X} is not allowed")
    compiler = Compiler(catalogue)
    try:
        tokens = sqlglot.tokenize(source, dialect="postgres")
        if (place := _too_deep(tokens)) is not None:
            return _problem(source, place, f"the condition is nested deeper than {MAX_DEPTH} levels")
        tree = sqlglot.parse_one(source, dialect="postgres", into=exp.Condition)
        value = compiler.compile(tree)
        if value.type not in {"boolean", "null"}:
            return _problem(source, start_of(tree), f"the condition is a {value.type}; compare it with something")
    except Refused as refused:
        return _problem(source, start_of(refused.node), refused.problem, refused.nearest)
    except TokenError:
        return _problem(source, max(source.rfind("'"), source.rfind('"'), 0), "a quoted text is not closed")
    except ParseError as error:
        return _parse_problem(error)
    except RecursionError:
        return _problem(source, 0, f"the condition is nested deeper than {MAX_DEPTH} levels")
    return Compiled(
        source=source,
        canonical=_canonical(tokens),
        refs=frozenset(compiler.types),
        types={str(ref): type_ for ref, type_ in compiler.types.items()},
        run=cast_to(value, "boolean"),
    )


def _problem(source: str, offset: int, problem: str, nearest: str | None = None) -> Problem:
    before = source[:offset]
    line_start = before.rfind("\n") + 1
    return Problem(line=before.count("\n") + 1, column=offset - line_start + 1, problem=problem, nearest=nearest)


def _parse_problem(error: ParseError) -> Problem:
    details: dict[str, Any] = error.errors[0] if error.errors else {}
    at = str(details.get("highlight") or "")
    line, end_column = int(details.get("line") or 1), int(details.get("col") or 1)
    words = f"unexpected {at!r}" if "Unexpected" in str(details.get("description")) else f"incomplete near {at!r}"
    if not at:
        words = "not a complete condition"
    # sqlglot's column is that of the token's last character.
    return Problem(line=line, column=max(1, end_column - len(at) + 1), problem=f"{words}: this is not SQL")


def _too_deep(tokens: Sequence[Token]) -> int | None:
    """Offset of the bracket that goes too deep. The parser recurses, so depth is checked before it runs."""
    depth = 0
    for token in tokens:
        if token.token_type in {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.CASE}:
            depth += 1
            if depth > MAX_DEPTH:
                return int(token.start)
        elif token.token_type in {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END}:
            depth -= 1
    return None


def _canonical(tokens: Sequence[Token]) -> str:
    words = []
    for token in tokens:
        if token.token_type in {TokenType.STRING, TokenType.IDENTIFIER}:
            words.append(repr(token.text))
        elif token.token_type == TokenType.VAR:
            words.append(token.text.lower())
        else:
            words.append(token.text.upper())
    return " ".join(words)
