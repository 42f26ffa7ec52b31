"""The ways out. A new channel is one file with a class, one row in ``CHANNELS`` and the contract tests passing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from alerts.channels.base import Channel, ChannelSettings
from alerts.channels.mail import MailChannel
from alerts.channels.slack import SlackChannel
from alerts.channels.webhook import WebhookChannel

CHANNELS: Mapping[str, Callable[[ChannelSettings], Channel]] = {
    "slack": SlackChannel,
    "email": MailChannel,
    "webhook": WebhookChannel,
}


def build(settings: ChannelSettings) -> dict[str, Channel]:
    """Every channel; one that is not set up says so for each message. Raises ValueError naming a wrong setting."""
    return {name: make(settings) for name, make in CHANNELS.items()}
