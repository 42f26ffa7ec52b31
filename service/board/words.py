"""The board's wording. English is written where it is used; ``i18n/<language>.json`` holds what it is in others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal, cast

Language = Literal["en", "ja"]
LANGUAGES: Mapping[Language, str] = {"en": "English", "ja": "日本語"}
FOLDER = Path(__file__).resolve().parent / "i18n"


@cache
def catalogue(language: Language) -> Mapping[str, str]:
    """English wording to that of ``language``; empty for English itself."""
    if language == "en":
        return {}
    return cast("dict[str, str]", json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8")))


class Words:
    """Wording in one language: ``words("Sign in")``, ``words.count("{n} account", "{n} accounts", 3)``."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self._catalogue = catalogue(language)

    def __call__(self, english: str, /, **values: object) -> str:
        wording = self._catalogue.get(english, english)
        return wording.format(**values) if values else wording

    def count(self, one: str, many: str, n: int, **values: object) -> str:
        """Japanese has no plural: its catalogue holds the wording under ``many``."""
        return self(one if n == 1 and self.language == "en" else many, n=n, **values)


def choose(cookie: str | None, accept_language: str | None) -> Language:
    """The language of a page: what was chosen before, else the browser's first that we have, else English."""
    for language in LANGUAGES:
        if cookie == language:
            return language
    for tag in _by_preference(accept_language or ""):
        for language in LANGUAGES:
            if tag == language or tag.startswith(f"{language}-"):
                return language
    return "en"


def _by_preference(accept_language: str) -> list[str]:
    weighted: list[tuple[float, str]] = []
    for part in accept_language.split(","):
        tag, _, parameter = part.strip().lower().partition(";")
        try:
            weight = float(parameter.strip().removeprefix("q=")) if parameter else 1.0
        except ValueError:
            weight = 0.0
        if tag and weight > 0:
            weighted.append((-weight, tag))
    return [tag for _, tag in sorted(weighted, key=lambda item: item[0])]
