"""The alert for machines: one JSON document as Standard Webhooks recommends (``type``, ``timestamp``, ``data``)."""

from __future__ import annotations

import msgspec

from alerts.render.view import AlertView, to_json


def webhook(view: AlertView) -> bytes:
    """UTF-8 JSON. ``type`` is ``alert.<kind>``; ``data`` the whole view; what is unknown is left out."""
    return msgspec.json.encode({"type": f"alert.{view.kind}", "timestamp": view.at, "data": to_json(view)})
