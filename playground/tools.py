"""Virtual environments of programs that are no engines: what jobs work with, made at first need.

One lies at SLIPWAY_HOME/tools/<name>-<version> once it is whole. Knows nothing about what runs in it.
"""

import shutil
from pathlib import Path

from django.conf import settings

from playground import environments
from playground.engines.base import Requirements
from playground.work import Work


def provide(work: Work, name: str, version: str, requirements: Requirements) -> Path:
    """The environment's folder, its Python being bin/python in it. JobFailed when it cannot be made."""
    home: Path = settings.HOME
    folder = home / "tools" / f"{name}-{version}"
    with environments.turn(work, f"tool:{folder.name}"):
        if not folder.exists():
            fresh = folder.with_name(f".new-{folder.name}")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                environments.fill(work, requirements, fresh, "cpu")
                fresh.rename(folder)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    return folder
