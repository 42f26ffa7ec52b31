"""Takes names of an erased user out of JSON and text. Pure.

A name is an id, a pseudonym or an e-mail address. As a whole text it always goes. Within a longer text, or as a key, it
goes where it stands as a word of its own, if it is distinctive: an address, or at least six characters that are not all
digits. So a user called ``42`` or ``pro`` does not tear holes into numbers and plans.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from consumers.kinds import ERASED_USER

SHORTESTWORD: Final = 6
WORD: Final = re.compile(r"[^\s,;<>()\[\]{}\"'`|\\]+")
EDGES: Final = ".:!?*_/=&#"

IsErased = Callable[[str], bool]


def normal(name: str) -> str:
    """Addresses are the same in capitals."""
    return name.lower() if "@" in name else name


def distinctive(word: str) -> bool:
    return "@" in word or (len(word) >= SHORTESTWORD and not word.isdigit())


def names_match(names: Collection[str]) -> IsErased:
    """Whether a text is one of ``names``."""
    wanted = frozenset(map(normal, names))
    return lambda text: normal(text) in wanted


def clean_text(text: str, is_erased: IsErased) -> str:
    """The text without names; the very same object when there is none."""
    if is_erased(text):
        return ERASED_USER
    if len(text) < SHORTESTWORD:
        return text
    found = False

    def replaced(match: re.Match[str]) -> str:
        nonlocal found
        word = match[0]
        for shown in (word, word.strip(EDGES), *_parts(word)):
            if distinctive(shown) and is_erased(shown):
                found = True
                return word.replace(shown, ERASED_USER)
        return word

    cleaned = WORD.sub(replaced, text)
    return cleaned if found else text


def _parts(word: str) -> tuple[str, ...]:
    """What stands between colons, slashes or equals signs: `mailto:a@b.example`, `source:event`."""
    return tuple(re.split(r"[:/=?&#]", word)) if re.search(r"[:/=?&#]", word) else ()


def clean(value: Any, is_erased: IsErased) -> Any:
    """A JSON value without names; the very same object when there is none."""
    if isinstance(value, str):
        return clean_text(value, is_erased)
    if isinstance(value, Mapping):
        cleaned = {_key(key, is_erased): clean(inner, is_erased) for key, inner in value.items()}
        same = all(old is new for old, new in zip(value, cleaned, strict=False)) and len(cleaned) == len(value)
        return value if same and all(cleaned[key] is value[key] for key in value) else cleaned
    if isinstance(value, (list, tuple)):
        parts = [clean(inner, is_erased) for inner in value]
        return value if all(old is new for old, new in zip(value, parts, strict=True)) else parts
    return value


def clean_told(value: Any, account_id: str, title: str | None) -> Any:
    """A JSON value of another account, which was told of this one, without its id, and without its ``title`` where the
    id stands beside it; the very same object when there is neither. Elsewhere the title may be somebody else's."""
    is_erased = names_match((account_id,))

    def told(value: Any) -> Any:
        if isinstance(value, str):
            return value if title is None else value.replace(f"{title} ({account_id})", ERASED_USER)
        if isinstance(value, Mapping):
            own = value.get("account_id") == account_id and "name" in value
            parts = {key: ERASED_USER if own and key == "name" else told(inner) for key, inner in value.items()}
            return value if all(parts[key] is value[key] for key in value) else parts
        if isinstance(value, (list, tuple)):
            items = [told(inner) for inner in value]
            return value if all(old is new for old, new in zip(value, items, strict=True)) else items
        return value

    return clean(told(value), is_erased)


def _key(key: Any, is_erased: IsErased) -> Any:
    if not isinstance(key, str):
        return key
    return ERASED_USER if distinctive(key) and is_erased(key) else key
