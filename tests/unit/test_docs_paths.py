"""The guides name paths, verbs and settings; each must exist. And no tracked file tells where it was written."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")]
)
LOCKED_TEXT = ("requirements/",)  # generated: test_requirements.py reads it more strictly


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def looks_like_a_path(word: str) -> bool:
    """A folder or file of this repository, not a URL path, a pattern, a command or a dotted name."""
    if re.search(r"[\s*<>{}$…=:()\[\]'\"|,]", word) or word.startswith(("/", "~", "-", "http")) or "…" in word:
        return False
    first = word.split("/", maxsplit=1)[0]
    return "/" in word and (word.endswith("/") or (ROOT / first).exists() or "." in word.rsplit("/", 1)[-1])


def named_paths(text: str) -> set[str]:
    """Paths in backticks, outside of fenced blocks (those show output)."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return {word for word in re.findall(r"`([^`\n]+)`", prose) if looks_like_a_path(word)}


def linked_paths(text: str) -> set[str]:
    links = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)|(?:src|href)=\"([^\"#]+)", text)
    return {
        target
        for pair in links
        for target in pair
        if target and "://" not in target and not target.startswith("mailto:")
    }


@pytest.mark.parametrize("guide", GUIDES)
def test_every_path_in_backticks_exists(guide: str) -> None:
    missing = {path for path in named_paths(text_of(guide)) if not (ROOT / path).exists()}
    assert missing == set(), f"{guide} names what is not there"


def test_the_architecture_names_paths_at_all() -> None:
    assert len(named_paths(text_of("docs/architecture.md"))) >= 10


@pytest.mark.parametrize(
    "guide", sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
)
def test_every_relative_link_leads_somewhere(guide: str) -> None:
    base = (ROOT / guide).parent
    assert {target for target in linked_paths(text_of(guide)) if not (base / target).exists()} == set()


@pytest.mark.parametrize("guide", GUIDES)
def test_every_make_verb_that_is_named_exists(guide: str) -> None:
    verbs = set(re.findall(r"^([a-z]+):", text_of("Makefile"), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", text_of(guide))) <= verbs


@pytest.mark.parametrize("guide", GUIDES)
def test_every_variable_that_is_named_is_a_setting_or_read_somewhere(guide: str) -> None:
    settings = {f"KIZASHI_{field.upper()}" for field in Settings.model_fields}
    others = set(re.findall(r"\bKIZASHI_[A-Z_]+[A-Z]\b", text_of(guide))) - settings
    sources = [path for folder in ("service", "embedded", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert {name for name in others if not any(f'"{name}"' in p.read_text(encoding="utf-8") for p in sources)} == set()


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


# Put together, so that this file does not hold what it looks for.
HOSTS = "|".join(
    re.escape(".".join(parts))
    for parts in [
        ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("yarnpkg", "com"),
        ("maven", "org"), ("repo", "maven", "apache", "org"), ("maven", "apache", "org/maven2"), ("golang", "org"),
        ("deb", "debian", "org"), ("docker", "io"), ("quay", "io"), ("ghcr", "io"),
    ]
)  # fmt: skip
MACHINE_PATHS = r"(?<![\w.$}/~-])/(?:home/[a-z]|Users/[A-Z]|root/|work/|tmp/[a-z]/)"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
@pytest.mark.parametrize(("what", "pattern"), [("a registry's host", HOSTS), ("a machine's path", MACHINE_PATHS)])
def test_no_tracked_file_names(what: str, pattern: str) -> None:
    found = []
    for name in tracked():
        content = (ROOT / name).read_bytes()
        if b"\0" in content[:8192] or name.startswith(LOCKED_TEXT):
            continue
        for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
            if re.search(pattern, line):
                found.append(f"{name}:{number}: {line.strip()[:120]}")
    assert found == [], f"tracked files name {what}"
