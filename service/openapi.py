"""Writes the API's description: `python -m service.openapi docs/openapi.json`. A test compares the two."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from service.app import create_app
from service.deps import build
from service.settings import Settings


def document() -> dict[str, Any]:
    """As `/openapi.json` serves it. Needs neither database nor broker."""
    found: dict[str, Any] = create_app(build(Settings())).openapi()
    return found


def text() -> str:
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")
