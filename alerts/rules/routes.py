"""Who gets what: the channels of each severity, and who is told of an account that nobody owns.

The reader of an alert is the account's owner, or a stand-in; ``alerts/routing.py`` decides that and asks here only
which channels may be used. Where a channel leads (its secret) is a setting, never in this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Channel = Literal["slack", "email", "webhook"]
CHANNELS: tuple[Channel, ...] = ("slack", "email", "webhook")
Language = Literal["en", "ja"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SeverityChannels(_Strict):
    """The channels per severity; an empty list keeps it to the lists of the board."""

    critical: list[Channel] = ["slack", "email", "webhook"]
    warning: list[Channel] = ["slack", "email", "webhook"]
    info: list[Channel] = ["slack", "email", "webhook"]


class RoutesFile(_Strict):
    """routes.yaml"""

    channels: SeverityChannels = SeverityChannels()
    default_recipient: Annotated[
        str | None,
        StringConstraints(pattern=r"^[^@\s,;<>]+@[^@\s,;<>]+$", max_length=254),
        Field(description="E-mail address told of accounts without an owner; null: KIZASHI_DEFAULT_RECIPIENT"),
    ] = None
    operations_recipient: Annotated[
        str | None,
        StringConstraints(pattern=r"^[^@\s,;<>]+@[^@\s,;<>]+$", max_length=254),
        Field(description="E-mail address told when customer data is incomplete; null: the default recipient"),
    ] = None
    operations_after_minutes: Annotated[
        int, Field(ge=1, le=1440, description="How long data may be incomplete before operations are told")
    ] = 15
    default_language: Annotated[
        Language, Field(description="Language of the team's channel and the default recipient")
    ] = "en"


@dataclass(frozen=True, kw_only=True)
class Routes:
    """A checked routes file."""

    channels: dict[str, tuple[Channel, ...]]
    default_recipient: str | None
    operations_recipient: str | None
    operations_after_minutes: int
    default_language: Language

    def wanted(self, severity: str) -> tuple[Channel, ...]:
        """The channels that an alert of this severity may use."""
        return self.channels[severity]


def routes_of(file: RoutesFile) -> Routes:
    """The routes that a valid file stands for."""
    return Routes(
        channels={severity: tuple(dict.fromkeys(names)) for severity, names in file.channels.model_dump().items()},
        default_recipient=file.default_recipient,
        operations_recipient=file.operations_recipient,
        operations_after_minutes=file.operations_after_minutes,
        default_language=file.default_language,
    )
