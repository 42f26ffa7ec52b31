"""The JSON Schemas of the files, for editors and reviewers: ``python -m alerts.rules.schema`` writes them anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from alerts.rules.model import RulesFile
from alerts.rules.routes import RoutesFile

SCHEMAS: Mapping[str, type[BaseModel]] = {"schema.json": RulesFile, "routes.schema.json": RoutesFile}
RULES_DIR = Path(__file__).resolve().parents[2] / "rules"


def schema_text(model: type[BaseModel]) -> str:
    """The schema as it is kept in the repository."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema(by_alias=True)}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, model in SCHEMAS.items():
        (RULES_DIR / name).write_text(schema_text(model), encoding="utf-8")
