"""The compiler of conditions against PostgreSQL itself: the same text, the same rows, the same three-valued answers.

Two differences are written into the SQL side on purpose: what divides by zero is NULL (``NULLIF``), and ``%``, which
PostgreSQL has for numeric but not for double precision, goes through numeric on values that both represent exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts.rules import Compiled, compile_expression
from health.catalogue import Signal, SignalType

TYPES: dict[str, SignalType] = {
    "x": "number",
    "y": "number",
    "whole": "number",
    "small": "number",
    "yes": "boolean",
    "no": "boolean",
    "word": "text",
    "name": "text",
}
CATALOGUE = {
    name: Signal(name=name, type=type_, unit="", meaning={"en": name, "ja": name}, needs=())
    for name, type_ in TYPES.items()
}
WORDS = ["", "a", "A", "b", "ab", "Zebra", "é", "東京", "it's", 'say "so"', "back\\slash", " "]


@dataclass(frozen=True)
class Both:
    """One expression in our language and in PostgreSQL's."""

    ours: str
    theirs: str

    def bracketed(self) -> Both:
        return Both(f"({self.ours})", f"({self.theirs})")


def same(source: str) -> Both:
    return Both(source, source)


def quoted(word: str) -> Both:
    literal = "'" + word.replace("'", "''") + "'"
    return Both(literal, f'({literal} COLLATE "C")')


def literal(number: float) -> Both:
    return Both(repr(number), f"{number!r}::float8") if number >= 0 else Both(repr(number), f"({number!r}::float8)")


def join(pattern: str, *parts: Both) -> Both:
    return Both(pattern.format(*(p.ours for p in parts)), pattern.format(*(p.theirs for p in parts)))


NUMBERS = st.sampled_from([0.0, 1.0, 2.0, 3.0, 0.5, 2.5, 7.0, 14.0, 1e3, 123456.789, 1e15, 4e17])
SIGNED = st.builds(lambda number, sign: number * sign, NUMBERS, st.sampled_from([1, -1])).map(lambda n: n or 0.0)
WHOLE = st.integers(-(10**14), 10**14) | st.integers(-10, 10)

leaves = st.sampled_from([same("x"), same("y"), same("whole"), same("small")]) | NUMBERS.map(literal)
words = st.sampled_from([same("word"), same("name")]) | st.sampled_from(WORDS).map(quoted)
whole_leaves = st.sampled_from([same("whole"), same("small")]) | st.integers(0, 50).map(lambda n: literal(float(n)))


def remainder(left: Both, right: Both) -> Both:
    return Both(
        f"({left.ours} % {right.ours})",
        f"mod(({left.theirs})::numeric, NULLIF({right.theirs}, 0)::numeric)::float8",
    )


def divide(left: Both, right: Both) -> Both:
    return Both(f"({left.ours} / {right.ours})", f"({left.theirs} / NULLIF({right.theirs}, 0))")


@st.composite
def numbers(draw: st.DrawFn, depth: int) -> Both:
    if depth == 0:
        return draw(leaves)
    part = numbers(depth - 1)
    kind = draw(
        st.sampled_from(["leaf", "chain", "divide", "mod", "neg", "abs", "round", "extreme", "coalesce", "case"])
    )
    if kind == "chain":  # without brackets: the precedence of + - * is compared too
        operators = draw(st.lists(st.sampled_from(["+", "-", "*"]), min_size=1, max_size=3))
        found = draw(leaves)
        for operator in operators:
            found = join("{} " + operator + " {}", found, draw(leaves))
        return found.bracketed()
    if kind == "divide":
        return divide(draw(part).bracketed(), draw(part).bracketed())
    if kind == "mod":
        return remainder(draw(whole_leaves), draw(whole_leaves))
    if kind == "neg":
        return join("- {}", draw(part).bracketed()).bracketed()
    if kind in {"abs", "round"}:
        return join(kind + "({})", draw(part))
    if kind == "extreme":
        name = draw(st.sampled_from(["GREATEST", "least"]))
        return join(name + "({}, {}, {})", draw(part), draw(part), draw(st.just(same("NULL")) | leaves))
    if kind == "coalesce":
        return join("COALESCE({}, {})", draw(part), draw(part))
    if kind == "case":
        condition = draw(truths(depth - 1))
        return join("CASE WHEN {} THEN {} ELSE {} END", condition, draw(part), draw(part))
    return draw(leaves)


@st.composite
def truths(draw: st.DrawFn, depth: int) -> Both:
    if depth == 0:
        return draw(st.sampled_from([same("yes"), same("no"), same("TRUE"), Both("NULL", "NULL::boolean")]))
    part, number = truths(depth - 1), numbers(depth - 1)
    return draw(
        st.one_of(truths(0), comparisons(part, number), memberships(number), is_tests(part, number), chains(part))
    )


@st.composite
def comparisons(draw: st.DrawFn, part: st.SearchStrategy[Both], number: st.SearchStrategy[Both]) -> Both:
    comparison = draw(st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="]))
    operand = draw(st.sampled_from([number, words, part.map(Both.bracketed)]))
    if operand not in (number, words):
        comparison = draw(st.sampled_from(["=", "<>"]))
    return join("{} " + comparison + " {}", draw(operand), draw(operand))


@st.composite
def memberships(draw: st.DrawFn, number: st.SearchStrategy[Both]) -> Both:
    negation = draw(st.sampled_from(["", "NOT "]))
    operand = draw(st.sampled_from([number, words]))
    values = draw(st.lists(maybe_null(operand), min_size=1, max_size=3))
    if draw(st.booleans()):
        return join("{} " + negation + "BETWEEN {} AND {}", draw(operand), draw(operand), draw(maybe_null(operand)))
    listed = ", ".join(["{}"] * len(values))
    return join("{} " + negation + "IN (" + listed + ")", draw(operand), *values)


@st.composite
def is_tests(draw: st.DrawFn, part: st.SearchStrategy[Both], number: st.SearchStrategy[Both]) -> Both:
    negation = draw(st.sampled_from(["", "NOT "]))
    if draw(st.booleans()):
        return join("{} IS " + negation + "NULL", draw(number.map(Both.bracketed) | part.map(Both.bracketed) | words))
    return join("{} IS " + negation + draw(st.sampled_from(["TRUE", "FALSE"])), draw(part).bracketed())


@st.composite
def chains(draw: st.DrawFn, part: st.SearchStrategy[Both]) -> Both:
    """NOT, AND and OR without brackets, so that their precedence is compared too; or a CASE over texts."""
    if draw(st.booleans()):
        pattern = "(CASE {} WHEN {} THEN {} WHEN {} THEN {} END)"
        return join(pattern, draw(words), draw(words), draw(part), draw(words), draw(part))
    found = join(draw(st.sampled_from(["{}", "NOT {}"])), draw(part))
    for connector in draw(st.lists(st.sampled_from(["AND", "OR", "AND NOT", "or not"]), min_size=1, max_size=3)):
        found = join("{} " + connector + " {}", found, draw(part))
    return found


def maybe_null(strategy: st.SearchStrategy[Both]) -> st.SearchStrategy[Both]:
    return strategy | st.just(same("NULL"))


rows = st.lists(
    st.fixed_dictionaries(
        {
            "x": st.none() | SIGNED | st.floats(-1e6, 1e6).map(lambda n: round(n, 3) or 0.0),
            "y": st.none() | SIGNED,
            "whole": st.none() | WHOLE.map(float),
            "small": st.none() | st.integers(-4, 4).map(float),
            "yes": st.none() | st.booleans(),
            "no": st.none() | st.booleans(),
            "word": st.none() | st.sampled_from(WORDS),
            "name": st.none() | st.sampled_from(WORDS),
        }
    ),
    min_size=1,
    max_size=8,
)
POSTGRES_TYPES = {"number": "float8", "boolean": "bool", "text": "text"}


async def ask_postgres(engine: AsyncEngine, expressions: list[Both], table: list[dict[str, Any]]) -> list[list[Any]]:
    """Per row the values of every expression."""
    arrays = ", ".join(f"CAST(:{name} AS {POSTGRES_TYPES[type_]}[])" for name, type_ in TYPES.items())
    columns = ", ".join(f'{name} COLLATE "C" AS {name}' if TYPES[name] == "text" else name for name in TYPES)
    wanted = ", ".join(f"({expression.theirs})".replace(":", "\\:") for expression in expressions)
    statement = (
        f"SELECT {wanted} FROM (SELECT {columns}, place FROM unnest({arrays}) WITH ORDINALITY "
        f"AS given({', '.join(TYPES)}, place)) AS given ORDER BY place"
    )
    parameters = {name: [row[name] for row in table] for name in TYPES}
    async with engine.connect() as connection:
        return [list(row) for row in await connection.execute(text(statement), parameters)]


def columns_of(table: list[dict[str, Any]]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, type_ in TYPES.items():
        values = [row[name] for row in table]
        if type_ == "text":
            columns[name] = np.array(values, dtype=object)
        else:
            columns[name] = np.array([math.nan if value is None else float(value) for value in values])
    return columns


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(expressions=st.lists(truths(3), min_size=5, max_size=20), table=rows)
async def test_every_expression_means_what_it_means_in_postgres(
    engine: AsyncEngine, expressions: list[Both], table: list[dict[str, Any]]
) -> None:
    theirs = await ask_postgres(engine, expressions, table)
    for place, expression in enumerate(expressions):
        compiled = compile_expression(expression.ours, CATALOGUE)
        assert isinstance(compiled, Compiled), (expression.ours, compiled)
        values = compiled.evaluate(columns_of(table))
        ours = [None if math.isnan(value) else bool(value) for value in values]
        assert ours == [row[place] for row in theirs], expression


@pytest.mark.parametrize(
    ("source", "postgres"),
    [
        ("1 + 7 % 4 * 2 = 7", "1 + mod(7, 4) * 2 = 7"),
        ("-7 % 4 = -3", "mod(-7, 4) = -3"),
        ("7 / 2 = 3.5", "7::float8 / 2 = 3.5"),
        ("2 - 3 - 4 = -5", "2 - 3 - 4 = -5"),
        ("ROUND(2.5) = 2 AND ROUND(-3.5) = -4", "round(2.5::float8) = 2 AND round(-3.5::float8) = -4"),
        ("NOT 1 = 2 AND 1 = 2", "NOT 1 = 2 AND 1 = 2"),
        ("TRUE OR TRUE AND FALSE", "TRUE OR TRUE AND FALSE"),
        ("1 BETWEEN 0 AND 2 AND FALSE", "1 BETWEEN 0 AND 2 AND FALSE"),
        ("NOT 1 IS NULL", "NOT 1 IS NULL"),
        ("NOT 1 IN (2)", "NOT 1 IN (2)"),
        ("TRUE = FALSE IS NULL", "TRUE = FALSE IS NULL"),
        ("'B' < 'a'", "'B' < 'a' COLLATE \"C\""),
        ("1 / 0 IS NULL", "1::float8 / NULLIF(0, 0) IS NULL"),
        ("(1 / 0 > 1) IS NULL", "(1::float8 / NULLIF(0, 0) > 1) IS NULL"),
        ("1 % 0 IS NULL", "mod(1, NULLIF(0, 0)) IS NULL"),
    ],
)
async def test_a_constant_means_what_it_means_in_postgres(engine: AsyncEngine, source: str, postgres: str) -> None:
    compiled = compile_expression(source, CATALOGUE)
    assert isinstance(compiled, Compiled), compiled
    async with engine.connect() as connection:
        theirs = (await connection.execute(text(f"SELECT {postgres.replace(':', chr(92) + ':')}"))).scalar_one()
    assert compiled.evaluate({"x": np.zeros(3)}).tolist() == [float(theirs)] * 3
