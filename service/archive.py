"""The archive as the settings name it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncEngine

from service.settings import Settings

if TYPE_CHECKING:
    from consumers.archive.files import Archive


def archive_of(settings: Settings, engine: AsyncEngine) -> Archive | None:
    """None where there is none; one for each engine. Raises ValueError when its address cannot be used."""
    return None if settings.archive_url is None else _opened(engine, settings.archive_url)


@lru_cache(maxsize=4)
def _opened(engine: AsyncEngine, url: str) -> Archive:
    from consumers.archive.files import open_archive

    return open_archive(engine, url)
