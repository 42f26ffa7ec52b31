"""The API as a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from embedded.broker import EmbeddedBroker
from service.settings import EX_CONFIG


def test_a_taken_port_ends_it_for_good_with_a_line(
    database: str, broker: EmbeddedBroker, topic: str, root: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        environment = {
            **os.environ, "KIZASHI_DATABASE_URL": database, "KIZASHI_KAFKA_BOOTSTRAP": broker.bootstrap,
            "KIZASHI_EVENTS_TOPICS": f'["{topic}"]', "KIZASHI_PORT": str(other.getsockname()[1]),
        }  # fmt: skip
        command = [sys.executable, "-m", "service.cli", "serve", "--role", "api"]
        ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == EX_CONFIG, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert "the API cannot listen" in last
    assert "KIZASHI_PORT" in last
    assert "Traceback" not in ended.stderr
