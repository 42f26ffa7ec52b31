"""Every format by its name, for doors that learn only then which one it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Protocol

from consumers.formats import amplitude, cloudevents, posthog, segment
from consumers.formats.canonical import Limits
from consumers.formats.items import Translation
from consumers.formats.making import Origin
from consumers.sources import Source


class Translate(Protocol):
    """``document``: decoded JSON. Raises BadEvent when nothing of it can be read; a bad item is an Item with error."""

    def __call__(
        self,
        document: object,
        *,
        call: str,
        source: Source,
        now: datetime,
        limits: Limits,
        origin: Origin | None = None,
    ) -> Translation: ...


TRANSLATE: Final[Mapping[str, Translate]] = {
    "segment": segment.translate,
    "rudderstack": segment.translate,
    "posthog": posthog.translate,
    "amplitude": amplitude.translate,
    "cloudevents": cloudevents.translate,
}
"""`canonical` is none of them: it is read from bytes (``canonical.split``), so that its faults name their place."""
