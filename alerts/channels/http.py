"""One POST to a receiver we do not trust: bounded in time and size, no redirects, no proxies, no address in errors."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx2

from alerts.channels.base import SendResult
from alerts.channels.guard import GuardedTransport, RefusedTargetError, UnknownNameError

TIMEOUT_SECONDS = 15.0
"""For the whole exchange: a client's own time-outs are per read, and a receiver that drips would hold us for ever."""
MAX_BODY_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Answer:
    status_code: int
    body: bytes
    retry_after: timedelta | None


def make_client(*, allow_private: bool) -> httpx2.AsyncClient:
    # At INFO the client logs whole URLs, at DEBUG headers: a Slack webhook's URL is a secret.
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return httpx2.AsyncClient(
        transport=GuardedTransport(allow_private=allow_private),
        trust_env=False,
        follow_redirects=False,
        timeout=TIMEOUT_SECONDS,
        headers={"user-agent": "kizashi", "accept-encoding": "identity"},
    )


async def post(
    client: httpx2.AsyncClient,
    url: str,
    content: bytes,
    headers: dict[str, str],
    now: datetime,
) -> Answer | SendResult:
    """The receiver's answer, or, when there was none, the result that says so."""
    try:
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            client.stream("POST", url, content=content, headers=headers) as response,
        ):
            body = b""
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) >= MAX_BODY_BYTES:
                    break
            return Answer(
                status_code=response.status_code,
                body=body[:MAX_BODY_BYTES],
                retry_after=parse_retry_after(response.headers.get("retry-after"), now),
            )
    except RefusedTargetError as refused:
        return SendResult(outcome="permanent", detail=str(refused))
    except UnknownNameError as unknown:
        return SendResult(outcome="retry", detail=str(unknown))
    except TimeoutError:
        return SendResult(outcome="retry", detail=f"no complete answer within {TIMEOUT_SECONDS:g} s")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        # Only the kind of error: its text may hold the address.
        return SendResult(outcome="retry", detail=f"the connection failed: {type(error).__name__}")


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """``Retry-After`` in seconds or as an HTTP date; None when absent or unreadable."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return timedelta(seconds=min(int(value[:12]), 10**8))
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max((at if at.tzinfo else at.replace(tzinfo=UTC)) - now, timedelta(0))
