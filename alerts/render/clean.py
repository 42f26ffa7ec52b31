"""Names from outside made safe to show: account names, plans and titles come from whoever sends events."""

from __future__ import annotations

import re
import unicodedata

# Controls, surrogates, private use; format characters too: an override of the reading direction shows "evil.com" as
# "moc.live".
_DROPPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_KEPT_FORMAT = frozenset("\u200d")  # joins emoji
_SPACES = re.compile(r"\s+")
_ENCODED_WORD = re.compile(r"=+\?+|\?+=+")


def clean(text: str, limit: int) -> str:
    """One line without controls, direction overrides or lone surrogates, at most ``limit`` characters (then ``…``)."""
    # A first cut bounds the work on a name of megabytes.
    spaced = _SPACES.sub(" ", text[: limit * 8])
    kept = "".join(
        char for char in spaced if char in _KEPT_FORMAT or unicodedata.category(char) not in _DROPPED_CATEGORIES
    ).strip()
    return kept if len(kept) <= limit else kept[: limit - 1].rstrip() + "…"


def clean_header(text: str, limit: int) -> str:
    """``clean``, and nothing that a mail header's decoder takes for an encoded word.

    ``=?UTF-8?Q?=0A?=Bcc: x@y`` in a name injects a header on Pythons before the fix of CVE-2024-6923.
    """
    return _ENCODED_WORD.sub("", clean(text, limit))
