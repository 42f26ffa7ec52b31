"""The JSON Schema of the catalogue: which signals there are, for editors and for whoever writes rules by program.

``python -m health.catalogue_schema`` writes ``docs/signals.schema.json`` anew; a test fails when they differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from health.catalogue import SIGNALS, Signal

FILE: Final = Path(__file__).resolve().parent.parent / "docs" / "signals.schema.json"
_TYPES: Final = {"number": "number", "boolean": "number", "text": "string", "date": "string"}
"""Truth is told as 1 and 0."""


def schema() -> dict[str, Any]:
    """Of the signals of one account as the API gives them: a property per signal, a pattern per family of signals."""
    plain = {name: _property(signal) for name, signal in SIGNALS.items() if signal.parameter is None}
    families = {f"^{name}\\['.+'\\]$": _property(signal) for name, signal in SIGNALS.items() if signal.parameter}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Signals",
        "description": "The signals of one account at an instant; null: not known. Others come from configuration.",
        "type": "object",
        "properties": plain,
        "patternProperties": families,
        "additionalProperties": {"type": ["number", "string", "null"]},
    }


def _property(signal: Signal) -> dict[str, Any]:
    about = {
        "type": [_TYPES[signal.type], "null"],
        "description": signal.meaning["en"],
        "x-meaning-ja": signal.meaning["ja"],
        "x-type": signal.type,
        "x-unit": signal.unit,
        "x-needs": list(signal.needs),
        "x-absence": signal.absence,
        "x-day-border": signal.day_border,
    }
    return {key: value for key, value in about.items() if value != ""}


def schema_text() -> str:
    """As it is kept in the repository."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(schema_text(), encoding="utf-8")
