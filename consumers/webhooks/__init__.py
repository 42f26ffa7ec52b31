"""Webhooks of other tools: whose call it is (signatures), what it means (presets and mappings). Pure; the door is
``service/ingest/webhooks.py``."""
