"""Secrets do not reach the log, whoever writes them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from service.logging import blot, configure

KEY = "kz_0123456789_" + "A" * 43
SECRETS = [
    KEY,
    f"Bearer {KEY}",
    "postgresql+asyncpg://kizashi:canary@db:5432/x",
    "https://hooks.slack.com/services/T0/B0/canary",
    "whsec_canary+/=",
]


@pytest.fixture
def configured() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    kept = structlog.get_config()
    configure("json", "info")
    yield
    root.handlers, level = before[0], before[1]
    root.setLevel(level)
    structlog.configure(**kept)


@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_secret_is_blotted_at_any_depth(secret: str) -> None:
    found = json.dumps(blot({"a": [secret, {"b": f"failed: {secret} refused"}], "n": 1}))
    assert "canary" not in found
    assert "AAAA" not in found
    assert "[secret]" in found


def test_one_json_line_per_event_from_us_and_from_libraries(
    configured: None, capfd: pytest.CaptureFixture[str]
) -> None:
    configure("json", "info")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger("kizashi.test").info("hello", key=KEY)
        logging.getLogger("library").warning("at %s", SECRETS[2])
    try:
        raise ValueError(SECRETS[3])  # noqa: TRY301
    except ValueError:
        structlog.get_logger("kizashi.test").exception("failed")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in lines][:1] == ["hello"]
    assert lines[0]["request_id"] == lines[1]["request_id"] == "r1"
    assert (lines[0]["level"], lines[0]["logger"]) == ("info", "kizashi.test")
    assert "ValueError" in lines[2]["exception"]
    assert all(line["timestamp"].endswith("Z") for line in lines)
    assert "canary" not in str(lines)
    assert "AAAA" not in str(lines)
