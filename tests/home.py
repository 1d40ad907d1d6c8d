"""Early pytest plugin: a home of this run's own with real servers, before Django reads its settings."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

# A run in the background has it ignored, and so would every process that a test sends Ctrl-C to.
signal.signal(signal.SIGINT, signal.default_int_handler)

HOME = Path(tempfile.mkdtemp(prefix="slipway-test-"))
os.environ.update(
    SLIPWAY_HOME=str(HOME),
    SLIPWAY_NODE="test-node",
    SLIPWAY_EXTRA_ENGINES="fake=tests.fake_adapter:Fake",
    # Nobody listens there: no test reaches the real Hub.
    HF_ENDPOINT="http://127.0.0.1:9",
)
for name in ("DATABASE_URL", "REDIS_URL"):
    os.environ.pop(name, None)


def _hands_out(config: pytest.Config) -> bool:
    """Whether this process only hands tests to others (`-n 2`): each of those has a home of its own."""
    return bool(config.getoption("numprocesses", 0)) and not hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if _hands_out(config):
        return
    from playground import servers

    servers.start_postgres(HOME)
    servers.start_valkey(HOME)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not _hands_out(config):
        from playground import servers

        servers.stop_valkey(HOME)
        servers.stop_postgres(HOME)
        if os.geteuid() == 0:
            shutil.rmtree(servers.addresses(HOME).postgres_data.parent)
    shutil.rmtree(HOME)
