"""What PostHog's clients ask for by themselves, beside sending events: answered so that they go on quietly.

There are no feature flags, surveys or recordings here, and these answers say so. They hold nothing of anybody's, so
that no key is asked for.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

COMPRESSIONS: Final = ["gzip", "gzip-js"]
_FLAGS: Final = re.compile(r"/ingest/posthog/(flags|decide)/?")
_CONFIG: Final = re.compile(r"/ingest/posthog/array/[A-Za-z0-9_-]{1,200}/config(\.js)?")
_SURVEYS: Final = re.compile(r"/ingest/posthog/api/(surveys|web_experiments|early_access_features)/?")

_OFF: Final = {
    "supportedCompression": COMPRESSIONS,
    "sessionRecording": False,
    "surveys": False,
    "heatmaps": False,
    "autocaptureExceptions": False,
    "captureDeadClicks": False,
    "capturePerformance": False,
    "siteApps": [],
    "isAuthenticated": False,
    "toolbarParams": {},
}
_FLAGS_BODY: Final = msgspec.json.encode(
    {
        **_OFF,
        "config": {"enable_collect_everything": True},
        "errorsWhileComputingFlags": False,
        "featureFlags": {},
        "featureFlagPayloads": {},
        "flags": {},
        "quotaLimited": [],
    }
)
_CONFIG_BODY: Final = msgspec.json.encode(
    {**_OFF, "hasFeatureFlags": False, "defaultIdentifiedOnly": True, "analytics": {"endpoint": "/i/v0/e/"}}
)
_SURVEYS_BODY: Final = b'{"surveys":[],"experiments":[],"earlyAccessFeatures":[]}'
_SCRIPT: Final = b"/* configuration is asked for as JSON */"


def asked(path: str) -> tuple[str, str, bytes] | None:
    """(route name, content type, body) of an answer to what is no event; None for all other addresses."""
    if not path.startswith("/ingest/posthog/"):
        return None
    if _FLAGS.fullmatch(path):
        return "/ingest/posthog/flags", "application/json", _FLAGS_BODY
    if found := _CONFIG.fullmatch(path):
        script = found[1] is not None
        return (
            "/ingest/posthog/array",
            "application/javascript" if script else "application/json",
            _SCRIPT if script else _CONFIG_BODY,
        )
    if _SURVEYS.fullmatch(path):
        return "/ingest/posthog/api", "application/json", _SURVEYS_BODY
    return None
