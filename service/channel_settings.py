"""The ways out as the settings describe them: for the sender, which uses them, and the doctor, which checks them."""

from __future__ import annotations

from pydantic import SecretStr

from alerts.channels.base import ChannelSettings
from service.secrets import Vault
from service.settings import Settings


def channel_settings(settings: Settings) -> ChannelSettings:
    """Holds secrets."""
    return ChannelSettings(
        slack_webhook_url=_open(settings.slack_webhook_url),
        smtp_host=settings.smtp_host,
        smtp_port=settings.smtp_port,
        smtp_username=settings.smtp_username,
        smtp_password=_open(settings.smtp_password),
        smtp_tls=settings.smtp_tls,
        mail_from=settings.mail_from,
        webhook_url=_open(settings.webhook_url),
        webhook_secret=_open(settings.webhook_secret),
        allow_private_targets=settings.allow_private_targets,
        decrypt=Vault(settings.secret_key).open,
    )


def _open(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
