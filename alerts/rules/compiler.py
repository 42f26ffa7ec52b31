"""What each node of a condition means: a typed compiler from sqlglot's tree to Polars, over a closed set of nodes.

Three types (number, boolean, text) are checked before anything runs; anything not named here is refused. Numbers are
double precision, a literal ``3`` too. NULL follows SQL's three-valued logic.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from sqlglot import exp

from health.catalogue import Signal, SignalRef

MAX_DEPTH = 20
"""Of brackets and CASE. The parser needs about 20 Python frames for each."""
MAX_COMPILE_DEPTH = 80
MAX_COST = 2000
"""Most Polars nodes: IN and a simple CASE repeat their operand, so that nesting them multiplies."""

Type = Literal["number", "boolean", "text", "null"]
"""``null`` is the literal NULL alone, which takes the type that its place asks for."""

DTYPES: Mapping[Type, Any] = {"number": pl.Float64, "boolean": pl.Boolean, "text": pl.String, "null": pl.Null}
FUNCTIONS = ("ABS", "COALESCE", "GREATEST", "LEAST", "ROUND")
FLAT = " "
"""A column without meaning that gives every frame its height; no signal is called so."""
NOT_FINITE = [math.inf, -math.inf, math.nan]


@dataclass(frozen=True, kw_only=True)
class Value:
    """A compiled part. ``cost`` counts its Polars nodes."""

    polars: pl.Expr
    type: Type
    cost: int = 1


class Refused(Exception):
    """A node that cannot be compiled, with the reason for its writer."""

    def __init__(self, node: exp.Expr, problem: str, nearest: str | None = None) -> None:
        super().__init__(problem)
        self.node = node
        self.problem = problem
        self.nearest = nearest


def start_of(node: exp.Expr) -> int:
    """Offset of a node in the source: only names, literals and functions carry one, so look inside, then around."""
    around: exp.Expr | None = node
    while around is not None:
        offsets = [part.meta["start"] for part in around.walk() if "start" in part.meta]
        if offsets:
            return int(min(offsets))
        around = around.parent
    return 0


def cast_to(value: Value, type_: Type) -> pl.Expr:
    """The expression with the type its place asks for, which only changes a bare NULL."""
    return value.polars.cast(DTYPES[type_]) if value.type == "null" else value.polars


def _full(expression: pl.Expr, type_: Type) -> pl.Expr:
    """The expression at the height of the frame. Where COALESCE or CASE comes down to one literal for all rows, Polars
    answers with that alone, one row long, and a comparison with another literal then fails.
    """
    if type_ == "number":
        return expression + pl.col(FLAT)
    if type_ == "boolean":
        return expression & (pl.col(FLAT) == 0)
    if type_ == "text":
        return pl.concat_str([expression, pl.col(FLAT).cast(pl.String).str.slice(0, 0)])
    return expression


def _finite(expression: pl.Expr) -> pl.Expr:
    # Names its operand once: `when(is_finite(x)).then(x)` would double the tree at every level.
    return expression.replace(NOT_FINITE, None)


def _remainder(columns: Sequence[pl.Series]) -> pl.Series:
    # Polars' own % floors and loses digits of large numbers; SQL's takes the sign of the dividend and is exact.
    left, right, height = columns
    with np.errstate(all="ignore"):
        values = np.fmod(left.to_numpy(), right.to_numpy())
    return pl.Series(np.broadcast_to(values, height.len()), nan_to_null=True)


ARITHMETIC: Mapping[type[exp.Expr], Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    exp.Add: lambda left, right: _finite(left + right),
    exp.Sub: lambda left, right: _finite(left - right),
    exp.Mul: lambda left, right: _finite(left * right),
    exp.Div: lambda left, right: _finite(left / right),
    exp.Mod: lambda left, right: pl.map_batches([left, right, pl.col(FLAT)], _remainder, return_dtype=pl.Float64),
}
COMPARISONS: Mapping[type[exp.Expr], Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    exp.EQ: lambda left, right: left == right,
    exp.NEQ: lambda left, right: left != right,
    exp.LT: lambda left, right: left < right,
    exp.LTE: lambda left, right: left <= right,
    exp.GT: lambda left, right: left > right,
    exp.GTE: lambda left, right: left >= right,
}
ORDERINGS = (exp.LT, exp.LTE, exp.GT, exp.GTE)
NEED_BRACKETS = (*COMPARISONS, exp.Is, exp.In, exp.Between, exp.Not)


class Compiler:
    """Compiles one condition; ``types`` are the signals it met."""

    def __init__(self, catalogue: Mapping[str, Signal]) -> None:
        self.catalogue = catalogue
        self.types: dict[SignalRef, Type] = {}
        self._depth = 0
        self._nodes: Mapping[type[exp.Expr], Callable[[Any], Value]] = {
            exp.Column: self._signal,
            exp.Bracket: self._signal_with_argument,
            exp.Literal: self._literal,
            exp.Boolean: lambda node: Value(polars=pl.lit(bool(node.this)), type="boolean"),
            exp.Null: lambda _: Value(polars=pl.lit(None), type="null"),
            exp.Paren: lambda node: self.compile(node.this),
            exp.Neg: self._negative,
            exp.Not: self._not,
            exp.And: self._and_or,
            exp.Or: self._and_or,
            exp.In: self._in,
            exp.Between: self._between,
            exp.Is: self._is,
            exp.Case: self._case,
            exp.Abs: self._abs,
            exp.Round: self._round,
            exp.Coalesce: self._coalesce,
            exp.Greatest: self._extreme,
            exp.Least: self._extreme,
            **dict.fromkeys(ARITHMETIC, self._arithmetic),
            **dict.fromkeys(COMPARISONS, self._comparison),
        }

    def compile(self, node: exp.Expr) -> Value:
        """The node's typed value, or Refused."""
        compile_node = self._nodes.get(type(node))
        if compile_node is None:
            raise Refused(node, *_not_in_language(node))
        self._depth += 1
        if self._depth > MAX_COMPILE_DEPTH:
            raise Refused(node, f"the condition is nested deeper than {MAX_COMPILE_DEPTH} operations")
        value = compile_node(node)
        self._depth -= 1
        if value.cost > MAX_COST:
            raise Refused(node, "the condition is too large; split it into several rules")
        return value

    # Leaves

    def _signal(self, node: exp.Column) -> Value:
        name = _name(node)
        signal = self._known(node, name)
        if signal.parameter is not None:
            example = f"{name}['…']"
            raise Refused(node, f"signal {name} needs a {signal.parameter}", example)
        return self._reference(node, SignalRef(name=name, argument=None), signal)

    def _signal_with_argument(self, node: exp.Bracket) -> Value:
        arguments = node.expressions
        if not isinstance(node.this, exp.Column):
            raise Refused(node, "only a signal takes an argument in [ ]")
        name = _name(node.this)
        signal = self._known(node.this, name)
        if signal.parameter is None:
            raise Refused(node, f"signal {name} takes no argument", name)
        if len(arguments) != 1 or not isinstance(arguments[0], exp.Literal) or not arguments[0].is_string:
            raise Refused(node, f"signal {name} takes one quoted {signal.parameter}", f"{name}['…']")
        argument = str(arguments[0].this)
        if not argument:
            raise Refused(node, f"the {signal.parameter} of {name} is empty", f"{name}['…']")
        return self._reference(node, SignalRef(name=name, argument=argument), signal)

    def _known(self, node: exp.Expr, name: str) -> Signal:
        if name in self.catalogue:
            return self.catalogue[name]
        nearest = difflib.get_close_matches(name, self.catalogue, n=1)
        hint = "" if nearest else f" (a text is written in single quotes: '{name}')"
        raise Refused(node, f"no signal is called {name!r}{hint}", nearest[0] if nearest else None)

    def _reference(self, node: exp.Expr, ref: SignalRef, signal: Signal) -> Value:
        if signal.type == "date":
            raise Refused(node, f"signal {ref} is a date and cannot be compared; use a signal that counts days")
        self.types[ref] = signal.type
        return Value(polars=pl.col(str(ref)), type=signal.type)

    def _literal(self, node: exp.Literal) -> Value:
        text = str(node.this)
        if node.is_string:
            return Value(polars=pl.lit(text, dtype=pl.String), type="text")
        try:
            number = float(text)
        except ValueError:
            number = math.inf
        if not math.isfinite(number):
            raise Refused(node, f"{text} is not a number that fits")
        return Value(polars=pl.lit(number, dtype=pl.Float64), type="number")

    # Numbers

    def _arithmetic(self, node: exp.Binary) -> Value:
        left, right = self._number(node.this), self._number(node.expression)
        return Value(
            polars=ARITHMETIC[type(node)](cast_to(left, "number"), cast_to(right, "number")),
            type="number",
            cost=left.cost + right.cost + 2,
        )

    def _number(self, node: exp.Expr) -> Value:
        return self._of_type(node, "number")

    def _negative(self, node: exp.Neg) -> Value:
        value = self._number(node.this)
        return Value(polars=-cast_to(value, "number"), type="number", cost=value.cost + 1)

    def _abs(self, node: exp.Abs) -> Value:
        value = self._number(node.this)
        return Value(polars=cast_to(value, "number").abs(), type="number", cost=value.cost + 1)

    def _round(self, node: exp.Round) -> Value:
        if node.args.get("decimals") is not None:
            raise Refused(node, "ROUND takes one number, as for double precision in PostgreSQL")
        value = self._number(node.this)
        rounded = cast_to(value, "number").round(0, mode="half_to_even")
        return Value(polars=rounded, type="number", cost=value.cost + 1)

    def _extreme(self, node: exp.Greatest | exp.Least) -> Value:
        values = [self._number(part) for part in (node.this, *node.expressions)]
        pick = pl.max_horizontal if isinstance(node, exp.Greatest) else pl.min_horizontal
        return Value(polars=pick([cast_to(value, "number") for value in values]), type="number", cost=_cost(values))

    # Truth

    def _of_type(self, node: exp.Expr, wanted: Type) -> Value:
        value = self.compile(node)
        if value.type not in {wanted, "null"}:
            raise Refused(node, f"expected a {wanted}, but this is a {value.type}")
        return value

    def _not(self, node: exp.Not) -> Value:
        value = self._of_type(node.this, "boolean")
        return Value(polars=~cast_to(value, "boolean"), type="boolean", cost=value.cost + 1)

    def _and_or(self, node: exp.Connector) -> Value:
        # flatten() because a long chain of AND is a deep tree to the parser, and no reader sees it as deep.
        values = [self._of_type(part, "boolean") for part in node.flatten(unnest=False)]
        expressions = [cast_to(value, "boolean") for value in values]
        combine = pl.all_horizontal if isinstance(node, exp.And) else pl.any_horizontal
        return Value(polars=combine(expressions), type="boolean", cost=_cost(values))

    def _comparison(self, node: exp.Binary) -> Value:
        left, right = self._operand(node.this), self._operand(node.expression)
        type_ = _common_type(node, [left, right])
        if type_ == "boolean" and isinstance(node, ORDERINGS):
            raise Refused(node, "a boolean is neither more nor less than another; use = or <>")
        compared = COMPARISONS[type(node)](cast_to(left, type_), cast_to(right, type_))
        return Value(polars=compared, type="boolean", cost=left.cost + right.cost + 1)

    def _operand(self, node: exp.Expr) -> Value:
        if isinstance(node, NEED_BRACKETS):
            # PostgreSQL and the parser bind `a = b IS NULL` differently; its writer has to say which is meant.
            raise Refused(node, "put brackets around a condition that is itself compared")
        return self.compile(node)

    def _in(self, node: exp.In) -> Value:
        if not node.expressions:
            raise Refused(node, "IN takes a list of values: IN ('a', 'b')")
        wanted = self._operand(node.this)
        values = [self._operand(part) for part in node.expressions]
        type_ = _common_type(node, [wanted, *values])
        equal = [cast_to(wanted, type_) == cast_to(value, type_) for value in values]
        return Value(polars=pl.any_horizontal(equal), type="boolean", cost=_cost(values) + len(values) * wanted.cost)

    def _between(self, node: exp.Between) -> Value:
        if node.args.get("symmetric"):
            raise Refused(node, "BETWEEN SYMMETRIC is not part of the language")
        parts = [self._operand(part) for part in (node.this, node.args["low"], node.args["high"])]
        type_ = _common_type(node, parts)
        if type_ == "boolean":
            raise Refused(node, "BETWEEN compares numbers or texts")
        value, low, high = (cast_to(part, type_) for part in parts)
        return Value(polars=(value >= low) & (value <= high), type="boolean", cost=_cost(parts) + parts[0].cost)

    def _is(self, node: exp.Is) -> Value:
        value = self._operand(node.this)
        asked, negate = node.expression, bool(node.args.get("negate"))
        if isinstance(asked, exp.Null):
            polars = cast_to(value, "number").is_not_null() if negate else cast_to(value, "number").is_null()
        elif isinstance(asked, exp.Boolean):
            if value.type not in {"boolean", "null"}:
                raise Refused(node, f"IS TRUE and IS FALSE ask about a boolean, but this is a {value.type}")
            polars = cast_to(value, "boolean").eq_missing(pl.lit(bool(asked.this)))
            polars = ~polars if negate else polars
        else:
            raise Refused(node, "IS is followed by NULL, TRUE or FALSE, perhaps after NOT")
        return Value(polars=polars, type="boolean", cost=value.cost + 2)

    # Any type

    def _coalesce(self, node: exp.Coalesce) -> Value:
        values = [self.compile(part) for part in (node.this, *node.expressions)]
        type_ = _common_type(node, values)
        return Value(polars=_full(pl.coalesce([cast_to(value, type_) for value in values]), type_), type=type_,
                     cost=_cost(values) + 1)  # fmt: skip

    def _case(self, node: exp.Case) -> Value:
        subject = self._operand(node.this) if node.this is not None else None
        conditions, results = [], []
        cost = 1
        for branch in node.args["ifs"]:
            condition = self._case_condition(branch, subject)
            conditions.append(cast_to(condition, "boolean"))
            results.append(self.compile(branch.args["true"]))
            cost += condition.cost
        default = node.args.get("default")
        otherwise = self.compile(default) if default is not None else Value(polars=pl.lit(None), type="null")
        type_ = _common_type(node, [*results, otherwise])
        polars = cast_to(otherwise, type_)
        for condition_polars, result in zip(reversed(conditions), reversed(results), strict=True):
            polars = pl.when(condition_polars).then(cast_to(result, type_)).otherwise(polars)
        return Value(polars=_full(polars, type_), type=type_, cost=cost + _cost([*results, otherwise]) + 1)

    def _case_condition(self, branch: exp.If, subject: Value | None) -> Value:
        if subject is None:
            return self._of_type(branch.this, "boolean")
        wanted = self._operand(branch.this)
        type_ = _common_type(branch, [subject, wanted])
        equal = cast_to(subject, type_) == cast_to(wanted, type_)
        return Value(polars=equal, type="boolean", cost=subject.cost + wanted.cost + 1)


def _cost(values: Iterable[Value]) -> int:
    return 1 + sum(value.cost + 1 for value in values)


def _common_type(node: exp.Expr, values: Sequence[Value]) -> Type:
    types = sorted({value.type for value in values} - {"null"})
    if len(types) > 1:
        raise Refused(node, f"a {types[0]} and a {types[1]} cannot be compared or mixed")
    return types[0] if types else "null"


def _name(node: exp.Column) -> str:
    if node.table or not isinstance(node.this, exp.Identifier):
        raise Refused(node, "a signal is one plain name, without a dot")
    name = str(node.this.this)
    return name if node.this.quoted else name.lower()


def _not_in_language(node: exp.Expr) -> tuple[str, str | None]:
    written = node.sql(dialect="postgres", comments=False)
    called = isinstance(node, exp.Anonymous) or (isinstance(node, exp.Func) and "start" in node.meta)
    if called:
        name = written.partition("(")[0].upper()
        nearest = difflib.get_close_matches(name, FUNCTIONS, n=1)
        return f"there is no function {name} here; there are {', '.join(FUNCTIONS)}", next(iter(nearest), None)
    return f"{written[:60]!r} is not part of the language of conditions", None
