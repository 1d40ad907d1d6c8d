"""Package installation by uv, with what pip's configuration on this machine says.

Folders, indexes, constraints.

uv does not read pip's files, and a machine whose wheels lie in a folder has told only pip so. Variables of uv
itself (UV_…) win where both are set. Knows nothing about engines or Django.
"""

import configparser
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from uv import find_uv_bin

SECTIONS = ("global", "install", ":env:")
# pip's option and uv's variable for it, with what separates several values there.
UV_NAMES = {
    "find-links": ("UV_FIND_LINKS", ","),
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "constraint": ("UV_CONSTRAINT", " "),
    "cert": ("SSL_CERT_FILE", " "),
}
# torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl
_CPU_WHEEL = re.compile(r"(?P<name>[A-Za-z0-9_]+)-(?P<version>[^-]+\+cpu)-cp(?P<python>\d+)-[^-]+-[^-]+\.whl")


def uv(*arguments: str) -> list[str]:
    """A command line of uv, without colours. To be run in a folder without project files."""
    return [find_uv_bin(), *arguments, "--color", "never"]


def variables() -> dict[str, str]:
    """Variables for uv that pass pip's configuration on; those of uv that are set already are left alone.

    uv trusts the certificates that the machine trusts: behind a company's proxy its own are not enough.
    """
    found = _pip_options()
    named = {UV_NAMES[name]: values for name, values in found.items() if name in UV_NAMES and values}
    passed = {variable: separator.join(values) for (variable, separator), values in named.items()}
    passed["UV_SYSTEM_CERTS"] = "1"
    return {variable: value for variable, value in passed.items() if variable not in os.environ}


def constraint_files() -> list[str]:
    """Files of constraints that uv's own variable or pip's configuration names."""
    return (os.environ.get("UV_CONSTRAINT") or variables().get("UV_CONSTRAINT", "")).split()


def cpu_pins(python: str) -> list[str]:
    """ "torch==2.13.0+cpu" for each CPU build for that Python ("3.11") that lies in a find-links folder.

    Newest.
    """
    pins: dict[str, str] = {}
    for folder in _folders():
        for file in sorted(folder.glob("*+cpu-cp*.whl"), key=lambda file: _release(file.name)):
            found = _CPU_WHEEL.fullmatch(file.name)
            if found and found["python"] == python.replace(".", ""):
                pins[found["name"].lower()] = found["version"]
    return [f"{name}=={version}" for name, version in sorted(pins.items())]


def _release(name: str) -> tuple[int, ...]:
    """The numbers of a wheel's version, for sorting."""
    return tuple(int(part) for part in re.findall(r"\d+", name.split("-")[1].split("+")[0]))


def _folders() -> Iterator[Path]:
    links = os.environ.get("UV_FIND_LINKS", "").split(",") + _pip_options().get("find-links", [])
    for link in links:
        path = Path(link.removeprefix("file://")).expanduser() if link and "://" not in link[7:] else None
        if path is not None and path.is_dir():
            yield path


@cache
def _pip_options() -> dict[str, list[str]]:
    """pip's options by name, each with its values.

    Files first, then the environment, as pip itself reads them.
    """
    options: dict[str, list[str]] = {}
    parser = configparser.RawConfigParser()
    for file in _pip_files():
        if file.is_file():
            parser.read(file)
    for section in SECTIONS:
        if parser.has_section(section):
            options |= {name: value.split() for name, value in parser.items(section)}
    for variable, value in os.environ.items():
        if variable.startswith("PIP_") and value:
            options[variable[4:].lower().replace("_", "-")] = value.split()
    return options


def _pip_files() -> list[Path]:
    """Where pip looks for its configuration on Linux, the later ones winning."""
    named = os.environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return []
    system = os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")
    own = Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser()
    files = [Path(folder) / "pip" / "pip.conf" for folder in reversed(system) if folder]
    files += [Path("/etc/pip.conf"), Path("~/.pip/pip.conf").expanduser(), own / "pip" / "pip.conf"]
    return [*files, Path(named)] if named else files
