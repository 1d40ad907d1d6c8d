"""A site of a bench's own: its home, PostgreSQL and Valkey, migrated, with Django ready to be used."""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def own(stack: ExitStack) -> Path:
    """Its home, until `stack` closes. Nothing of Django may have been imported before."""
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-bench-")))
    os.environ.update(SLIPWAY_HOME=str(home), SLIPWAY_EXTRA_ENGINES="fake=tests.fake_adapter:Fake")
    os.environ.update(DJANGO_SETTINGS_MODULE="playground.settings", DJANGO_ALLOW_ASYNC_UNSAFE="1")
    from playground import servers

    servers.start_postgres(home)
    stack.callback(servers.stop_postgres, home)
    servers.start_valkey(home)
    stack.callback(servers.stop_valkey, home)
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, check=True)
    import django

    django.setup()
    return home
