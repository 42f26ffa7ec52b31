"""The archive as the settings name it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncEngine

from service.settings import Settings

if TYPE_CHECKING:
    from consumers.archive.files import Archive


def archive_of(settings: Settings, engine: AsyncEngine) -> Archive | None:
    """None where there is none. Raises ValueError when its address cannot be used."""
    if settings.archive_url is None:
        return None
    from consumers.archive.files import open_archive

    return open_archive(engine, settings.archive_url)
