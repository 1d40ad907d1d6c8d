"""An engine whose one package is built slowly: its build waits until somebody opens a gate.

The package is a real source tree with its own build backend, so everything around it is real: uv, its
child processes, the virtual environment. GATE in the environment is a path the backend reads: a FIFO holds
it up, an ordinary file does not.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from playground.engines.base import EngineOptions, Quirks, Requirements
from tests.fake_adapter import Fake

BACKEND = """
import os
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    with open(os.environ["GATE"]) as gate:
        gate.read()
    name = "slow_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        about = "slow_package-1.0.dist-info/"
        wheel.writestr(about + "METADATA", "Metadata-Version: 2.1\\nName: slow-package\\nVersion: 1.0\\n")
        wheel.writestr(about + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(about + "RECORD", "")
    return name
"""
PROJECT = """
[project]
name = "slow-package"
version = "1.0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def write_package(folder: Path) -> Path:
    """The source tree of the slow package."""
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    return folder


class Slow(Fake):
    """Installs the package that SLOW_PACKAGE names."""

    name = "slow"
    title = "Slow"
    Options = EngineOptions
    quirks = Quirks()
    versions: ClassVar[Mapping[str, str]] = {"cpu": "1.0"}

    def requirements(self, build: str, version: str) -> Requirements:
        return Requirements(python=("3.13", "3.12"), packages=(os.environ["SLOW_PACKAGE"],))
