"""``kizashi rules check`` and ``--version``."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

from tests.commands import kizashi


def test_our_own_rules_are_well(root: Path) -> None:
    checked = kizashi("rules", "check", str(root / "rules"), environment={})
    assert checked.exit_code == 0, checked.output
    assert "All is well" in checked.stdout


def test_problems_are_printed_with_their_place(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "rules", tmp_path / "rules")
    rules, card = tmp_path / "rules" / "churn.yaml", tmp_path / "rules" / "scorecards" / "default.yaml"
    text = rules.read_text()
    line = next(n for n, words in enumerate(text.splitlines(), 1) if "when: days_since_login" in words)
    rules.write_text(text.replace("when: days_since_login", "when: days_since_logn", 1))
    card.write_text(card.read_text() + "surprise: 1\n")
    checked = kizashi("rules", "check", str(tmp_path / "rules"), environment={})
    assert checked.exit_code == 1
    assert any(f"churn.yaml:{line}:" in said and "did you mean" in said for said in checked.stdout.splitlines())
    assert "default.yaml:" in checked.stdout


def test_a_failing_test_of_a_rule_is_a_problem(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "rules", tmp_path / "rules")
    rules = tmp_path / "rules" / "churn.yaml"
    rules.write_text(rules.read_text().replace("expect: silent", "expect: fires", 1))
    checked = kizashi("rules", "check", str(tmp_path / "rules"), environment={})
    assert checked.exit_code == 1
    assert "expected fires, but it is silent" in checked.stdout


def test_version(root: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert kizashi("--version", environment={}).stdout.strip() == version


def test_sources_and_webhooks_are_checked_and_are_no_rules(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "rules", tmp_path / "rules")
    (tmp_path / "rules" / "webhooks.yaml").write_text("webhooks:\n  stripe: {preset: stripe, secret_env: S}\n")
    well = kizashi("rules", "check", str(tmp_path / "rules"), environment={})
    assert well.exit_code == 0, well.output
    (tmp_path / "rules" / "webhooks.yaml").write_text("webhooks:\n  stripe: {preset: stripe}\n")
    checked = kizashi("rules", "check", str(tmp_path / "rules"), environment={})
    assert checked.exit_code == 1
    assert "webhooks.yaml:2:" in checked.stdout
