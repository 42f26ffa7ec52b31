"""The events of the benchmarks: JSON of some 300 bytes, accounts by Zipf, 15 % logins, three days in time order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

ACCOUNTS: Final = 100_000
ZIPF: Final = 1.0
LOGINS: Final = 0.15
DAYS: Final = 3
FEATURES: Final = 40
USERS_PER_ACCOUNT: Final = 12


def records(count: int, *, until: datetime, seed: int = 1) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of ``count`` distinct events that end at ``until``."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, ACCOUNTS + 1) ** ZIPF
    accounts = rng.choice(ACCOUNTS, size=count, p=weights / weights.sum())
    logins = rng.random(count) < LOGINS
    users = rng.integers(USERS_PER_ACCOUNT, size=count)
    features = rng.integers(FEATURES, size=count)
    start = until - timedelta(days=DAYS)
    step = timedelta(days=DAYS) / count
    for n in range(count):
        account = f"acct-{accounts[n]:06d}"
        event: dict[str, object] = {
            "kind": "login" if logins[n] else "usage",
            "event_id": f"01JV8Q{seed:04d}-{n:012d}",
            "account_id": account,
            "user_id": f"{account}-user-{users[n]:02d}",
            "timestamp": (start + n * step).astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "source": "web-app",
            "properties": {"session": f"s-{n % 9973:010d}", "client": "web/4.18.2", "locale": "en-GB", "plan": "team"},
        }
        if not logins[n]:
            event |= {"feature": f"feature-{features[n]:02d}", "quantity": 1 + n % 3}
        yield account.encode(), json.dumps(event, separators=(",", ":")).encode()
