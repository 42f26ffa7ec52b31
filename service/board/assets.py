"""The board's own files, served under names that carry a hash of their content: they may be kept for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

STATIC = Path(__file__).resolve().parent / "static"
MEDIA_TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One file: the name it is served under, its type and its bytes."""

    served_as: str
    media_type: str
    body: bytes = field(repr=False)


def load(folder: Path = STATIC) -> dict[str, Asset]:
    """Every servable file below ``folder`` by its path there, such as ``vendor/htmx.min.js``."""
    return {
        path.relative_to(folder).as_posix(): _asset(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }


def _asset(path: Path) -> Asset:
    body = path.read_bytes()
    digest = hashlib.sha256(body).hexdigest()[:16]
    return Asset(served_as=f"{path.stem}.{digest}{path.suffix}", media_type=MEDIA_TYPES[path.suffix], body=body)
