"""Logs of all roles: one line per event on standard error, as JSON or for a console, with the request id.

Both our own log calls (structlog) and those of libraries (stdlib) take the same road, where secrets are blotted out.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from service.clock import utc_now

QUIET = ("aiokafka", "asyncio", "uvicorn.access", "httpx2", "httpcore2")
"""Libraries whose chatter below WARNING helps nobody."""

SECRETS = re.compile(
    r"kz_[0-9a-z]{10}_[\w-]+"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
    r"|whsec_[\w+/=-]+"
    r"|https://hooks\.slack\.com/\S+"
    r"|(?<=[Bb]earer )[\w.~+/=-]+",
)
BLOT = "[secret]"


def configure(log_format: Literal["json", "console"] = "json", level: str = "info") -> None:
    """Sets up the whole process; call once at start."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _stamp,
        structlog.processors.format_exc_info,
        _blot,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *(step for step in shared if not isinstance(step, structlog.stdlib.ExtraAdder)),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _stamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = utc_now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


def _blot(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: blot(value) for key, value in event.items()}


def blot(value: Any) -> Any:
    """The value without what looks like one of our secrets, at any depth."""
    if isinstance(value, str):
        return SECRETS.sub(BLOT, value)
    if isinstance(value, dict):
        return {key: blot(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(blot(inner) for inner in value) if type(value) in {list, tuple} else value
    return value
