"""``python -m service.cli``: how the supervisor starts a role."""

from service.cli import app

app()
