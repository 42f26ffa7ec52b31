"""The embedded servers as processes: they start, resume, recover, say what is wrong, and stop with their owner."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from embedded import account as accounts
from embedded.broker import EmbeddedBroker
from embedded.kafka import EmbeddedKafka
from embedded.postgres import EmbeddedPostgres
from embedded.process import EmbeddedError, free_port
from tests.conftest import FAST_SETTINGS

PATIENCE_SECONDS = 30.0
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root must run PostgreSQL under another account")


def in_database(server: EmbeddedPostgres, *statements: str) -> object:
    """Runs the statements over TCP; the value of the last one."""

    async def run() -> object:
        connection = await asyncpg.connect(server.dsn("postgres", driver=None), timeout=10)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(run())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def owner(code: str, root: Path, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that starts a server, prints a JSON line about it, and then lives on."""
    return subprocess.Popen(
        [sys.executable, "-c", code + "\nimport time\ntime.sleep(600)\n", *map(str, arguments)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def hello_of(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    said: dict[str, object] = json.loads(process.stdout.readline())
    return said


OWN_POSTGRES = """
import json, sys
from pathlib import Path
from embedded.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), settings={"fsync": "off"})
server.start()
print(json.dumps({"pid": server.pid, "port": server.port}), flush=True)
"""

OWN_BROKER = """
import json
from embedded.broker import EmbeddedBroker
server = EmbeddedBroker({"events": 32})
server.start()
print(json.dumps({"pid": server.pid, "bootstrap": server.bootstrap}), flush=True)
"""

OWN_KAFKA = """
import json, sys
from pathlib import Path
from embedded.kafka import EmbeddedKafka
server = EmbeddedKafka(Path(sys.argv[1]))
server.start()
print(json.dumps({"pid": server.pid}), flush=True)
"""


def test_postgres_keeps_its_rows_over_stop_and_crash(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg")
    with server:
        assert in_database(server, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)", "SELECT count(*) FROM t") == 1
        assert str(in_database(server, "SHOW server_version")).startswith("18.")
    assert not server.running
    with server:
        in_database(server, "INSERT INTO t VALUES (2)", "SELECT 1")
        server.kill()
        server.start()
        assert in_database(server, "SELECT count(*) FROM t") == 2


def test_postgres_listens_on_loopback_and_on_a_unix_socket_and_wants_the_password(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "pg", settings=FAST_SETTINGS) as server:
        assert (server.data / f".s.PGSQL.{server.port}").is_socket()
        assert in_database(server, "SHOW listen_addresses") == "127.0.0.1"
        assert (tmp_path / "pg" / "password").stat().st_mode & 0o077 == 0

        async def without_password() -> None:
            await asyncpg.connect(
                host="127.0.0.1", port=server.port, user="kizashi", password="guess", database="postgres"
            )

        with pytest.raises(asyncpg.InvalidPasswordError):
            asyncio.run(without_password())


def test_postgres_makes_clones_and_drops_databases(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "pg", settings=FAST_SETTINGS) as server:
        server.create_database('it\'s "odd"')
        assert server.database_exists('it\'s "odd"')
        server.create_database("clone", template='it\'s "odd"')
        with pytest.raises(EmbeddedError, match="already exists"):
            server.create_database("clone")
        server.drop_database("clone")
        server.drop_database("clone")
        assert not server.database_exists("clone")


def test_a_second_owner_of_a_folder_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    with (
        EmbeddedPostgres(tmp_path / "pg", settings=FAST_SETTINGS),
        pytest.raises(EmbeddedError, match=f"in use by process {os.getpid()}"),
    ):
        EmbeddedPostgres(tmp_path / "pg").start()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="invalid value for parameter"):
        EmbeddedPostgres(tmp_path / "pg", settings={"shared_buffers": "banana", "fsync": "off"}).start()


def test_a_taken_port_is_reported(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(EmbeddedError, match="Address already in use"):
            EmbeddedPostgres(tmp_path / "pg", port=taken.getsockname()[1], settings=FAST_SETTINGS).start()


def test_a_fixed_port_is_used(tmp_path: Path) -> None:
    port = free_port()
    with EmbeddedPostgres(tmp_path / "pg", port=port, settings=FAST_SETTINGS) as server:
        assert f"@127.0.0.1:{port}/x" in server.dsn("x")


def test_a_pid_file_left_by_a_crash_does_not_hinder(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg", settings=FAST_SETTINGS)
    with server:
        left = (server.data / "postmaster.pid").read_text()
    # Its number now belongs to another living process: this one.
    (server.data / "postmaster.pid").write_text("\n".join([str(os.getpid()), *left.splitlines()[1:]]))
    with server:
        assert server.running


def test_a_folder_half_made_by_a_crash_is_made_anew(tmp_path: Path) -> None:
    half = tmp_path / "pg" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path / "pg", settings=FAST_SETTINGS) as server:
        assert in_database(server, "SELECT 1") == 1


def test_a_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "pg", settings=FAST_SETTINGS) as server:
        pass
    (server.data / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 17"):
        server.start()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_postgres_stops_with_its_owner_and_resumes(tmp_path: Path, root: Path, end: signal.Signals) -> None:
    process = owner(OWN_POSTGRES, root, tmp_path / "pg")
    pid = int(str(hello_of(process)["pid"]))
    assert alive(pid)
    process.send_signal(end)
    process.communicate()
    # At once, while the old server may still be shutting down.
    with EmbeddedPostgres(tmp_path / "pg", settings=FAST_SETTINGS) as server:
        assert in_database(server, "SELECT 1") == 1
        assert not alive(pid)
    assert "database system was not properly shut down" not in server.log.read_text()


def test_a_terminal_interrupt_reaches_the_owner_only(tmp_path: Path, root: Path) -> None:
    waits = OWN_POSTGRES + "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('{}', flush=True)\n"
    process = owner(waits, root, tmp_path / "pg")
    pid = int(str(hello_of(process)["pid"]))
    hello_of(process)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert alive(pid)
    process.kill()
    process.communicate()
    until(lambda: not alive(pid))


def test_a_killed_guard_takes_its_server_along(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs prctl")
    with EmbeddedPostgres(tmp_path / "pg", settings=FAST_SETTINGS) as server:
        pid = server.pid
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        until(lambda: not alive(pid))


@needs_root
def test_root_runs_postgres_as_nobody_below_a_folder_that_nobody_may_enter(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with EmbeddedPostgres(private / "pg", settings=FAST_SETTINGS) as server:
        assert in_database(server, "SELECT 1") == 1
        assert Path(f"/proc/{server.pid}").stat().st_uid == server.data.stat().st_uid != 0
    assert private.stat().st_mode & 0o777 == 0o700


@needs_root
def test_root_runs_a_copy_when_nobody_cannot_read_the_package(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Path(tempfile_for_all())
    refused = accounts.package_binaries()
    really = accounts._can_run
    monkeypatch.setattr(accounts, "_can_run", lambda path, who: path != refused and really(path, who))
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    accounts.find_binaries.cache_clear()
    try:
        with EmbeddedPostgres(tmp_path / "pg", settings=FAST_SETTINGS) as server:
            running = Path(f"/proc/{server.pid}/exe").readlink()
            assert running.is_relative_to(copies)
            assert in_database(server, "SELECT 1") == 1
    finally:
        accounts.find_binaries.cache_clear()
        subprocess.run(["rm", "-rf", str(copies)], check=True)


def tempfile_for_all() -> str:
    """A folder that any account may enter (pytest's own are private), outside of any private one."""
    made = subprocess.run(["mktemp", "-d", "/tmp/kizashi-test-XXXXXX"], capture_output=True, text=True, check=True)
    Path(made.stdout.strip()).chmod(0o755)
    return made.stdout.strip()


@needs_root
def test_a_copy_that_another_user_planted_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = Path(tempfile_for_all())
    try:
        planted = accounts._copy_for_others(parent)
        assert planted is not None
        (top,) = parent.iterdir()
        os.chown(top, 65534, 65534)
        assert accounts._copy_for_others(parent) is None
    finally:
        subprocess.run(["rm", "-rf", str(parent)], check=True)


@needs_root
def test_an_ordinary_user_runs_postgres_under_his_own_name(root: Path) -> None:
    packages = accounts.package_binaries().parents[2]
    environment = {"PYTHONPATH": f"{root}{os.pathsep}{packages}", "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}

    def as_nobody(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, *arguments],
            user=65534,
            group=65534,
            extra_groups=[],
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
        )

    def usable(python: str) -> bool:
        try:
            return (
                as_nobody(
                    python,
                    "-c",
                    "from embedded.account import package_binaries\nassert list(package_binaries().iterdir())",
                ).returncode
                == 0
            )
        except (PermissionError, FileNotFoundError):
            return False

    python = next(filter(usable, [sys.executable, "/usr/bin/python3"]), None)
    if python is None:
        pytest.skip("user `nobody` may not enter this checkout or its Python")
    home = Path(tempfile_for_all())
    os.chown(home, 65534, 65534)
    checked = "assert server.data.stat().st_uid == 65534\nserver.create_database('x')\nprint("
    code = OWN_POSTGRES.replace("print(", checked) + "server.stop()\n"
    done = as_nobody(python, "-c", code, str(home / "pg"))
    subprocess.run(["rm", "-rf", str(home)], check=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_embedded_broker_stops_with_its_owner(root: Path, end: signal.Signals) -> None:
    process = owner(OWN_BROKER, root)
    pid = int(str(hello_of(process)["pid"]))
    assert alive(pid)
    process.send_signal(end)
    process.communicate()
    until(lambda: not alive(pid))


def test_the_embedded_broker_runs_by_itself_and_writes_where_it_listens(tmp_path: Path, root: Path) -> None:
    told = tmp_path / "broker.json"
    command = [sys.executable, "-m", "embedded.broker", "--port-file", str(told), "--topic", "events=8"]
    process = subprocess.Popen(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.DEVNULL
    )
    try:
        until(told.exists)
        hello = json.loads(told.read_text())
        host, _, port = hello["bootstrap"].partition(":")
        assert host == "127.0.0.1"
        socket.create_connection((host, int(port)), timeout=5).close()
        assert len(hello["incarnation"]) == 32
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_the_embedded_broker_refuses_to_make_a_topic_twice() -> None:
    with EmbeddedBroker({"events": 32}) as broker, pytest.raises(EmbeddedError, match="already exists"):
        broker.create_topic("events", 32)


@pytest.mark.kafka
def test_apache_kafka_stops_with_its_owner_and_resumes_on_its_port(
    kafka: EmbeddedKafka, tmp_path: Path, root: Path
) -> None:
    process = owner(OWN_KAFKA, root, tmp_path / "kafka")
    pid = int(str(hello_of(process)["pid"]))
    process.kill()
    process.communicate()
    until(lambda: not alive(pid))
    with EmbeddedKafka(tmp_path / "kafka") as own:
        port = own.port
        own.create_topic("events", 4, {"retention.ms": "60000"})
        with pytest.raises(EmbeddedError, match="exists"):
            own.create_topic("events", 4)
    with EmbeddedKafka(tmp_path / "kafka") as own:
        assert own.port == port
        with pytest.raises(EmbeddedError, match="exists"):
            own.create_topic("events", 4)
