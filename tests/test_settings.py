import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def read(home: Path, *, print_: str = "PORT", **variables: str) -> subprocess.CompletedProcess[str]:
    """The settings as a fresh process with this environment reads them."""
    return subprocess.run(
        [sys.executable, "-c", f"from playground import settings; print(settings.{print_})"],
        cwd=ROOT,
        env={"PATH": os.defpath, "SLIPWAY_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("SLIPWAY_DEBUG", "perhaps"),
        ("SLIPWAY_HEARTBEAT_S", "soon"),
        ("SLIPWAY_NODE", "Not A Name"),
        ("DATABASE_URL", "mysql://localhost/x"),
        ("DATABASE_URL", "postgresql://localhost"),
        ("REDIS_URL", "http://localhost"),
        ("SLIPWAY_BIND", "0.0.0.0"),
        ("SLIPWAY_NODE_ADDRESS", "10.1.2.3"),
        ("SLIPWAY_TLS_CERT", "/only/the/certificate"),
        ("SLIPWAY_HOME", "/proc/nowhere"),
        ("HF_ENDPOINT", "huggingface.co"),
        ("HF_ENDPOINT", "https://me:secret@mirror.example"),
        ("SLIPWAY_DOWNLOADS_AT_ONCE", "many"),
    ],
)
def test_a_bad_value_stops_the_start_and_names_its_variable(
    tmp_path: Path, variable: str, value: str
) -> None:
    done = read(tmp_path, **{variable: value})
    assert done.returncode == 1
    assert variable in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("missing", ["SLIPWAY_TLS_CERT", "SLIPWAY_HOSTS", "SLIPWAY_SECRET_KEY"])
def test_a_public_bind_asks_for_all_of_tls_hosts_and_key(tmp_path: Path, missing: str) -> None:
    (tmp_path / "pem").touch()
    whole = {
        "SLIPWAY_BIND": "0.0.0.0",
        "SLIPWAY_TLS_CERT": str(tmp_path / "pem"),
        "SLIPWAY_TLS_KEY": str(tmp_path / "pem"),
        "SLIPWAY_HOSTS": "slipway.example",
        "SLIPWAY_SECRET_KEY": "x" * 50,
    }
    assert read(tmp_path, **whole).returncode == 0
    assert read(tmp_path, print_="SESSION_COOKIE_SECURE", **whole).stdout == "True\n"
    refused = read(tmp_path, **{name: value for name, value in whole.items() if name != missing})
    assert refused.returncode == 1
    assert missing in refused.stderr


def test_a_public_bind_refuses_every_host(tmp_path: Path) -> None:
    (tmp_path / "pem").touch()
    pem = str(tmp_path / "pem")
    done = read(
        tmp_path,
        SLIPWAY_BIND="::",
        SLIPWAY_TLS_CERT=pem,
        SLIPWAY_TLS_KEY=pem,
        SLIPWAY_HOSTS="*",
        SLIPWAY_SECRET_KEY="x" * 50,
    )
    assert "SLIPWAY_HOSTS" in done.stderr


def test_relays_speak_to_others_where_the_network_is_private(tmp_path: Path) -> None:
    done = read(tmp_path, print_="NODE_ADDRESS", SLIPWAY_NODE_ADDRESS="10.1.2.3", SLIPWAY_PRIVATE_NETWORK="1")
    assert done.stdout == "10.1.2.3\n"


def test_the_secret_key_is_made_once_and_private(tmp_path: Path) -> None:
    first, second = read(tmp_path, print_="SECRET_KEY"), read(tmp_path, print_="SECRET_KEY")
    assert len(first.stdout) > 50 and first.stdout == second.stdout
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600


def test_two_homes_have_cookies_of_their_own(tmp_path: Path) -> None:
    names = {read(tmp_path / name, print_="SESSION_COOKIE_NAME").stdout for name in ("one", "two")}
    assert len(names) == 2


def test_a_database_url_keeps_odd_passwords_and_options(tmp_path: Path) -> None:
    url = "postgresql://ada:p%40ss@db.example:6432/slipway?sslmode=require"
    done = read(tmp_path, print_="DATABASES['default']", DATABASE_URL=url)
    for part in ("'p@ss'", "'db.example'", "'6432'", "'sslmode': 'require'"):
        assert part in done.stdout


WITHOUT = """
import sys, importlib.abc
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Absent())
import django
django.setup()
import playground.asgi, playground.celery, playground.urls
"""


def test_the_site_needs_nothing_that_only_the_tests_install() -> None:
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    absent = {
        name
        for name, owners in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & locked
    }
    assert "pytest" in absent and "django" not in absent
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=sorted(absent))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr[-2000:]
