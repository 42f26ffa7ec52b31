"""JMESPath on what a vendor sent: compiled once when a file is read, and harmless whatever it meets. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jmespath
from jmespath.exceptions import JMESPathError

from consumers.events import bad

LONGEST: Final = 500


class PathFault(ValueError):
    """An expression that is not JMESPath; says where."""


class Path:
    """One expression. Equal ones compare equal, so that a changed file can be told from the same one."""

    __slots__ = ("_compiled", "text")

    def __init__(self, text: str) -> None:
        """Raises PathFault."""
        if len(text) > LONGEST:
            raise PathFault(f"is longer than {LONGEST} characters")
        try:
            self._compiled = jmespath.compile(text)
        except (JMESPathError, ValueError, TypeError, RecursionError) as error:
            raise PathFault(" ".join(str(error).split("\n", maxsplit=1)[0].split())) from None
        self.text = text

    def of(self, item: Mapping[str, Any]) -> Any:
        """The value, None when there is none. Raises BadEvent when a function of the expression meets a wrong type."""
        try:
            return self._compiled.search(item)
        except (JMESPathError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            words = " ".join(str(error).split())[:200]
            raise bad(self.text, f"cannot be computed: {words}", "correct the expression, or the value") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Path) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Path({self.text!r})"
