"""Writes the events' JSON Schema, generated from the decoder's own types: ``python -m consumers.schema``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from consumers.events import json_schema

TARGET: Final = Path(__file__).resolve().parent.parent / "docs" / "events.schema.json"


def text() -> str:
    return msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode() + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
