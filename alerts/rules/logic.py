"""Three-valued logic on columns: what the parts of a compiled condition are made of. Pure.

Each of the three types knows where it is NULL, how it compares, and how one value is put in the place of another. All
are columns of one shape, or one value for all of them (0-d), which numpy broadcasts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Type = Literal["number", "boolean", "text", "null"]
"""``null`` is the literal NULL alone, which takes the type that its place asks for."""

NOTHING: Any = None
Mask = npt.NDArray[np.bool_] | np.bool_
Column = npt.NDArray[Any] | np.float64


def _apart(left: Any, right: Any) -> Any:
    # `!=` would hold for NaN, which is NULL.
    return (left < right) | (left > right)


@dataclass(frozen=True)
class Comparison:
    """``holds`` and ``fails`` say of two columns where it is so and where not; where one is NaN, neither."""

    holds: Callable[[Any, Any], Any]
    fails: Callable[[Any, Any], Any]


EQUAL, UNEQUAL = Comparison(np.equal, _apart), Comparison(_apart, np.equal)
LESS, MORE = Comparison(np.less, np.greater_equal), Comparison(np.greater, np.less_equal)
AT_MOST, AT_LEAST = Comparison(np.less_equal, np.greater), Comparison(np.greater_equal, np.less)


@dataclass(frozen=True, slots=True)
class Truth:
    """Where it is true and where it is false; neither where it is unknown."""

    true: Mask
    false: Mask

    @property
    def known(self) -> Mask:
        return self.true | self.false

    def __invert__(self) -> Truth:
        return Truth(self.false, self.true)

    def __and__(self, other: Truth) -> Truth:
        return Truth(self.true & other.true, self.false | other.false)

    def __or__(self, other: Truth) -> Truth:
        return Truth(self.true | other.true, self.false & other.false)

    def compare(self, how: Comparison, other: Truth) -> Truth:
        """Equal or not; truths have no order."""
        same = Truth(
            (self.true & other.true) | (self.false & other.false), (self.true & other.false) | (self.false & other.true)
        )
        return same if how is EQUAL else ~same

    def where(self, mask: Mask, other: Truth) -> Truth:
        """This where ``mask`` holds, else the other one."""
        return Truth(np.where(mask, self.true, other.true), np.where(mask, self.false, other.false))


@dataclass(frozen=True, slots=True)
class Numbers:
    """Double precision, NaN for NULL; nothing infinite."""

    values: Column

    @property
    def known(self) -> Mask:
        return ~np.isnan(self.values)

    def compare(self, how: Comparison, other: Numbers) -> Truth:
        return Truth(how.holds(self.values, other.values), how.fails(self.values, other.values))

    def where(self, mask: Mask, other: Numbers) -> Numbers:
        return Numbers(np.where(mask, self.values, other.values))


@dataclass(frozen=True, slots=True)
class Texts:
    """Ordered by code points, as in the C collation. What is not ``known`` reads ''."""

    values: npt.NDArray[np.object_]
    known: Mask

    def compare(self, how: Comparison, other: Texts) -> Truth:
        both, holds = self.known & other.known, how.holds(self.values, other.values)
        return Truth(holds & both, ~holds & both)

    def where(self, mask: Mask, other: Texts) -> Texts:
        return Texts(np.where(mask, self.values, other.values), np.where(mask, self.known, other.known))


Part = Truth | Numbers | Texts
NULLS: Mapping[Type, Part] = {
    "number": Numbers(np.float64(np.nan)),
    "boolean": Truth(np.False_, np.False_),
    "text": Texts(np.array("", dtype=object), np.False_),
    "null": Numbers(np.float64(np.nan)),
}


def number(value: float) -> Numbers:
    return Numbers(np.float64(value))


def text(value: str) -> Texts:
    return Texts(np.array(value, dtype=object), np.True_)


def truth(holds: Mask) -> Truth:
    """What is known to be so or not."""
    return Truth(holds, ~holds)


def every(truths: Sequence[Truth]) -> Truth:
    return reduce(operator.and_, truths)


def some(truths: Sequence[Truth]) -> Truth:
    return reduce(operator.or_, truths)


def coalesce(parts: Sequence[Any]) -> Any:
    """The first that is known, one by one; all of one type."""
    return reduce(lambda found, part: found.where(found.known, part), parts)


def finite(values: Any) -> Numbers:
    """What has no finite result is NULL, so that one odd account cannot abort a batch."""
    return Numbers(np.where(np.isfinite(values), values, np.nan))


class Columns(dict[str, Part]):
    """The signals of a batch by ``str(ref)``, made ready together: numpy's calls cost more than their work."""

    def __init__(self, columns: Mapping[str, npt.NDArray[Any]], types: Mapping[str, Type]) -> None:
        """``columns``: float64 with NaN for NULL (booleans as 1.0 and 0.0), text as object arrays with None; all of one
        shape. ``types``: of those that are needed."""
        super().__init__((name, _texts(columns[name])) for name, type_ in types.items() if type_ == "text")
        numeric = [name for name, type_ in types.items() if type_ != "text"]
        block: Any = finite(np.array([columns[name] for name in numeric], dtype=np.float64)).values
        for name, values in zip(numeric, block, strict=True):
            numbers = Numbers(values)
            self[name] = numbers.compare(UNEQUAL, number(0.0)) if types[name] == "boolean" else numbers


def _texts(column: Any) -> Texts:
    texts = np.asarray(column, dtype=object)
    known = np.not_equal(texts, NOTHING)
    return Texts(np.where(known, texts, ""), known)
