"""Writes the JSON Schema of webhooks files: ``python -m consumers.webhooks.schema rules/webhooks.schema.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from consumers.webhooks.file import json_schema

if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
