"""The lock: everything is pinned and hashed, the files agree, and nothing in them says where to download from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "requirements").glob("*.txt"))
PINNED = re.compile(r"(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[^ ;]+)( ; (?P<marker>.+))?")


def requirements(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Name → (the requirement with its marker, its hashes)."""
    joined = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in joined.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        match = PINNED.fullmatch(requirement)
        assert match, f"{path.name}: not one pinned requirement: {requirement}"
        assert match["name"] not in found, f"{path.name}: {match['name']} stands twice"
        found[match["name"]] = (requirement, hashes)
    return found


def normalised(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def test_the_files_are_those_that_the_makefile_and_the_image_install() -> None:
    assert [path.name for path in FILES] == ["all.txt", "build.txt", "demo.txt", "run.txt"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_everything_is_pinned_and_hashed(path: Path) -> None:
    found = requirements(path)
    assert found
    for requirement, hashes in found.values():
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), requirement


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_says_where_to_download_from(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host|^-[if]\b", text, flags=re.MULTILINE)


def test_the_files_agree_on_every_version() -> None:
    everything = requirements(ROOT / "requirements" / "all.txt")
    for name in ("run.txt", "demo.txt"):
        narrower = requirements(ROOT / "requirements" / name)
        assert narrower == {package: everything[package] for package in narrower}


@pytest.mark.parametrize(("file", "extras"), [("run", ()), ("demo", ("demo",)), ("all", ("demo", "dev", "chart"))])
def test_the_lock_covers_what_the_project_asks_for(file: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    missing = {normalised(line) for line in wanted} - set(requirements(ROOT / "requirements" / f"{file}.txt"))
    assert missing == set(), "run `make lock`"


def test_every_extra_is_in_the_widest_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["optional-dependencies"]) == {"demo", "dev", "chart"}
