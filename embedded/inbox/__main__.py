"""``python -m embedded.inbox``: the inbox as a process of its own, until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from embedded.inbox.server import Inbox


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m embedded.inbox", description=__doc__)
    parser.add_argument("--http-port", type=int, default=0, help="0: any free port")
    parser.add_argument("--smtp-port", type=int, default=0, help="0: any free port")
    parser.add_argument(
        "--announce", type=Path, help="file to write the addresses to, as JSON, once both servers listen"
    )
    parser.add_argument("--state", type=Path, help="folder in which messages and the webhook secret outlive a restart")
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Inbox(http_port=arguments.http_port, smtp_port=arguments.smtp_port, state=arguments.state) as inbox:
        if arguments.announce is not None:
            _write(arguments.announce, inbox)
        sys.stdout.write(f"inbox: {inbox.url}  mail: {inbox.smtp_port}\n")
        sys.stdout.flush()
        await stop.wait()


def _write(file: Path, inbox: Inbox) -> None:
    """Whole or not at all, and for its owner only: it holds the webhook secret."""
    fresh = file.with_name(file.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump(inbox.announcement(), out)
    fresh.replace(file)


def main() -> int:
    arguments = _arguments()
    try:
        asyncio.run(_run(arguments))
    except OSError as problem:
        sys.stderr.write(
            f"inbox: cannot listen on HTTP port {arguments.http_port} and SMTP port {arguments.smtp_port}: "
            f"{problem.strerror or problem}. Use free ports, or 0 for any.\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
