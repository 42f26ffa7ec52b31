"""The tables of docs/operations.md are those of the code, and what it tells an operator to run does what it says."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts import metrics as of_alerts
from consumers import door_metrics as of_doors
from consumers import metrics as of_consumers
from service import metrics as of_service
from service.ingest import metrics as of_ingest
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
GUIDES = ("operations", "delivery", "reliability", "architecture", "api")
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def rows(heading: str) -> list[list[str]]:
    """Cells of the table that begins with ``heading``, without heading and rule."""
    table = PAGE.split(heading, 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def shown(default: object) -> str:
    if isinstance(default, SecretStr):
        return shown(default.get_secret_value())
    if isinstance(default, Path):
        return f"`{default.name}`"
    if default is None:
        return ""
    if isinstance(default, (bool, list)):
        return f"`{json.dumps(default)}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def test_every_setting_stands_with_its_default() -> None:
    found = {cells[0].strip("`"): cells[1] for cells in rows("| variable | default | meaning |")}
    wanted = {f"KIZASHI_{name.upper()}": shown(field.default) for name, field in Settings.model_fields.items()}
    assert found == wanted


def metrics_of_the_code() -> dict[str, tuple[set[str], str]]:
    """Name as it is exposed -> (labels, type)."""
    found: dict[str, tuple[set[str], str]] = {of_service.ROLE_UP: ({"role"}, "gauge")}
    for module in (of_alerts, of_consumers, of_doors, of_service, of_ingest):
        for value in vars(module).values():
            if isinstance(value, MetricWrapperBase):
                (family,) = value.describe()
                name = f"{family.name}_total" if family.type == "counter" else family.name
                found[name] = (set(value._labelnames), family.type)
    return found


def test_every_metric_stands_with_its_labels_and_type() -> None:
    found: dict[str, tuple[set[str], str]] = {}
    for cells in rows("| metric | type | says |"):
        name, _, labels = cells[0].strip("`}").partition("{")
        found[name] = ({label for label in labels.split(",") if label}, cells[1])
    assert found == metrics_of_the_code()


@pytest.mark.parametrize("guide", GUIDES)
def test_no_guide_names_a_metric_that_is_not_there(guide: str) -> None:
    named = set(re.findall(r"\bkizashi_[a-z_]+", (ROOT / f"docs/{guide}.md").read_text(encoding="utf-8")))
    assert named <= set(metrics_of_the_code())


def statements() -> list[str]:
    found = re.findall(r"^ *```sql\n(.*?)^ *```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [statement.strip().rstrip(";") for statement in found]


async def test_numbers_of_transitions_can_be_moved_on_after_a_restore(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        moved = await conn.scalar(text(statements()[-1]))
        following = await conn.scalar(text("SELECT nextval(pg_get_serial_sequence('transitions', 'transition_id'))"))
    assert following == moved + 1 > 10_000_000
