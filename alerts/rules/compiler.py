"""What each node of a condition means: a typed compiler from sqlglot's tree to numpy, over a closed set of nodes.

Three types (number, boolean, text) are checked before anything runs; anything not named here is refused. Numbers are
double precision, a literal ``3`` too. NULL follows SQL's three-valued logic (``logic.py``).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import itemgetter
from typing import Any

import numpy as np
from sqlglot import exp

from alerts.rules import logic
from alerts.rules.logic import NULLS, Columns, Comparison, Numbers, Part, Truth, Type
from health.catalogue import Signal, SignalRef

MAX_DEPTH = 20
"""Of brackets and CASE. The parser needs about 20 Python frames for each."""
MAX_COMPILE_DEPTH = 80

FUNCTIONS = ("ABS", "COALESCE", "GREATEST", "LEAST", "ROUND")

Run = Callable[[Columns], Any]
"""Evaluates a part; what it is made of is evaluated once, however often it is compared. Gives the ``logic.Part`` of its
type."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A compiled part."""

    run: Run
    type: Type


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


def cast_to(value: Value, type_: Type) -> Run:
    """The value with the type its place asks for, which only changes a bare NULL."""
    return _always(NULLS[type_]) if value.type == "null" else value.run


def _always(part: Part) -> Run:
    return lambda _: part


ARITHMETIC: Mapping[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.Add: np.add,
    exp.Sub: np.subtract,
    exp.Mul: np.multiply,
    exp.Div: np.divide,
    exp.Mod: np.fmod,  # with the sign of the dividend, as in SQL
}
COMPARISONS: Mapping[type[exp.Expr], Comparison] = {
    exp.EQ: logic.EQUAL,
    exp.NEQ: logic.UNEQUAL,
    exp.LT: logic.LESS,
    exp.LTE: logic.AT_MOST,
    exp.GT: logic.MORE,
    exp.GTE: logic.AT_LEAST,
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
            exp.Boolean: lambda node: Value(run=_always(logic.truth(np.bool_(node.this))), type="boolean"),
            exp.Null: lambda _: NULL,
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
        return Value(run=itemgetter(str(ref)), type=signal.type)

    def _literal(self, node: exp.Literal) -> Value:
        text = str(node.this)
        if node.is_string:
            return Value(run=_always(logic.text(text)), type="text")
        try:
            number = float(text)
        except ValueError:
            number = math.inf
        if not math.isfinite(number):
            raise Refused(node, f"{text} is not a number that fits")
        return Value(run=_always(logic.number(number)), type="number")

    # Numbers

    def _arithmetic(self, node: exp.Binary) -> Value:
        left, right, compute = self._number(node.this), self._number(node.expression), ARITHMETIC[type(node)]
        return _numbers(lambda columns: logic.finite(compute(left(columns).values, right(columns).values)))

    def _number(self, node: exp.Expr) -> Run:
        return self._of_type(node, "number")

    def _negative(self, node: exp.Neg) -> Value:
        return self._of_one(node.this, np.negative)

    def _abs(self, node: exp.Abs) -> Value:
        return self._of_one(node.this, np.abs)

    def _round(self, node: exp.Round) -> Value:
        if node.args.get("decimals") is not None:
            raise Refused(node, "ROUND takes one number, as for double precision in PostgreSQL")
        return self._of_one(node.this, np.rint)  # half to even, as there

    def _of_one(self, node: exp.Expr, compute: Callable[[Any], Any]) -> Value:
        value = self._number(node)
        return _numbers(lambda columns: Numbers(compute(value(columns).values)))

    def _extreme(self, node: exp.Greatest | exp.Least) -> Value:
        values = [self._number(part) for part in (node.this, *node.expressions)]
        pick = np.fmax if isinstance(node, exp.Greatest) else np.fmin  # which pass over NULL, as SQL does
        return _numbers(lambda columns: Numbers(reduce(pick, [value(columns).values for value in values])))

    # Truth

    def _of_type(self, node: exp.Expr, wanted: Type) -> Run:
        value = self.compile(node)
        if value.type not in {wanted, "null"}:
            raise Refused(node, f"expected a {wanted}, but this is a {value.type}")
        return cast_to(value, wanted)

    def _not(self, node: exp.Not) -> Value:
        value = self._of_type(node.this, "boolean")
        return _truth(lambda columns: ~value(columns))

    def _and_or(self, node: exp.Connector) -> Value:
        # flatten() because a long chain of AND is a deep tree to the parser, and no reader sees it as deep.
        values = [self._of_type(part, "boolean") for part in node.flatten(unnest=False)]
        combine = logic.every if isinstance(node, exp.And) else logic.some
        return _truth(lambda columns: combine([value(columns) for value in values]))

    def _comparison(self, node: exp.Binary) -> Value:
        operands = [self._operand(node.this), self._operand(node.expression)]
        type_ = _common_type(node, operands)
        if type_ == "boolean" and isinstance(node, ORDERINGS):
            raise Refused(node, "a boolean is neither more nor less than another; use = or <>")
        left, right = (cast_to(operand, type_) for operand in operands)
        how = COMPARISONS[type(node)]
        return _truth(lambda columns: left(columns).compare(how, right(columns)))

    def _operand(self, node: exp.Expr) -> Value:
        if isinstance(node, NEED_BRACKETS):
            # PostgreSQL and the parser bind `a = b IS NULL` differently; its writer has to say which is meant.
            raise Refused(node, "put brackets around a condition that is itself compared")
        return self.compile(node)

    def _in(self, node: exp.In) -> Value:
        if not node.expressions:
            raise Refused(node, "IN takes a list of values: IN ('a', 'b')")
        parts = [self._operand(part) for part in (node.this, *node.expressions)]
        type_ = _common_type(node, parts)
        wanted, *values = (cast_to(part, type_) for part in parts)

        def run(columns: Columns) -> Truth:
            subject = wanted(columns)
            return logic.some([subject.compare(logic.EQUAL, value(columns)) for value in values])

        return _truth(run)

    def _between(self, node: exp.Between) -> Value:
        if node.args.get("symmetric"):
            raise Refused(node, "BETWEEN SYMMETRIC is not part of the language")
        parts = [self._operand(part) for part in (node.this, node.args["low"], node.args["high"])]
        type_ = _common_type(node, parts)
        if type_ == "boolean":
            raise Refused(node, "BETWEEN compares numbers or texts")
        value, low, high = (cast_to(part, type_) for part in parts)

        def run(columns: Columns) -> Truth:
            subject, ends = value(columns), ((logic.AT_LEAST, low), (logic.AT_MOST, high))
            return logic.every([subject.compare(how, end(columns)) for how, end in ends])

        return _truth(run)

    def _is(self, node: exp.Is) -> Value:
        value = self._operand(node.this)
        asked, negate = node.expression, bool(node.args.get("negate"))
        if isinstance(asked, exp.Null):
            part = cast_to(value, value.type)
            return _truth(lambda columns: logic.truth(part(columns).known == negate))
        if not isinstance(asked, exp.Boolean):
            raise Refused(node, "IS is followed by NULL, TRUE or FALSE, perhaps after NOT")
        if value.type not in {"boolean", "null"}:
            raise Refused(node, f"IS TRUE and IS FALSE ask about a boolean, but this is a {value.type}")
        part, true = cast_to(value, "boolean"), bool(asked.this)

        def run(columns: Columns) -> Truth:
            found = part(columns)
            so = logic.truth(found.true if true else found.false)
            return ~so if negate else so

        return _truth(run)

    # Any type

    def _coalesce(self, node: exp.Coalesce) -> Value:
        values = [self.compile(part) for part in (node.this, *node.expressions)]
        type_ = _common_type(node, values)
        parts = [cast_to(value, type_) for value in values]
        return Value(run=lambda columns: logic.coalesce([part(columns) for part in parts]), type=type_)

    def _case(self, node: exp.Case) -> Value:
        subject = self._operand(node.this) if node.this is not None else None
        conditions, results = [], []
        for branch in node.args["ifs"]:
            conditions.append(self._condition(branch, subject))
            results.append(self.compile(branch.args["true"]))
        default = node.args.get("default")
        results.append(NULL if default is None else self.compile(default))
        type_ = _common_type(node, results)
        *answers, otherwise = (cast_to(result, type_) for result in results)
        asked = _always(NULLS["null"]) if subject is None else subject.run

        def run(columns: Columns) -> Any:
            value, found = asked(columns), otherwise(columns)
            for condition, answer in zip(reversed(conditions), reversed(answers), strict=True):
                found = answer(columns).where(condition(columns, value).true, found)
            return found

        return Value(run=run, type=type_)

    def _condition(self, branch: exp.If, subject: Value | None) -> Callable[[Columns, Any], Truth]:
        """When a branch of CASE is taken, from the columns and what the subject is."""
        if subject is None:
            condition = self._of_type(branch.this, "boolean")
            return lambda columns, _: condition(columns)
        wanted = self._operand(branch.this)
        type_ = _common_type(branch, [subject, wanted])
        other = cast_to(wanted, type_)
        if subject.type == "null":
            return lambda *_: UNKNOWN
        return lambda columns, value: value.compare(logic.EQUAL, other(columns))


NULL = Value(run=_always(NULLS["null"]), type="null")
UNKNOWN = Truth(np.False_, np.False_)


def _numbers(run: Callable[[Columns], Numbers]) -> Value:
    return Value(run=run, type="number")


def _truth(run: Callable[[Columns], Truth]) -> Value:
    return Value(run=run, type="boolean")


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
