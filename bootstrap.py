#!/usr/bin/env python3
"""Set-up of a checkout: `.venv` from the hashed lock, `node_modules` from package-lock.json. Standard
library only.

    python3 bootstrap.py [--dev] [--browser]

Runs with any Python from 3.9 on; the site itself gets one from 3.12 on. Costs nothing when nothing changed:
a stamp in each of the two says which lock it was made from. --dev adds what tests and linters need;
--browser checks that there is a Chromium for the browser tests.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

ROOT = Path(__file__).resolve().parent
DEPS = ROOT / ".deps"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
MODULES = ROOT / "node_modules"
LOCKS = {"site": ROOT / "requirements.lock", "dev": ROOT / "requirements-dev.lock"}
NODE_LOCK = ROOT / "requirements-node.lock"
# Best first. The newest is last, since a package may lack wheels for it.
WANTED = ("3.13", "3.12", "3.14")
NODE_MAJOR = 20
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = {
    "apt-get": "apt-get install python3 python3-pip python3-venv",
    "dnf": "dnf install python3.13 python3-pip",
    "pacman": "pacman -S python python-pip",
    "apk": "apk add python3 py3-pip",
    "zypper": "zypper install python313 python313-pip",
    "brew": "brew install python@3.13 uv",
}


class Stopped(Exception):
    """Why set-up cannot go on, and what the person can do."""


@contextmanager
def step(name: str, note: str) -> Iterator[List[str]]:
    """Print what is done and how long it took. What the block appends to its list last is printed at the
    end.
    """
    started = time.monotonic()
    notes = [note]
    print("  %-16s%s …" % (name, note), flush=True)
    yield notes
    print("  %-16s%-52s%6.1f s" % (name, notes[-1], time.monotonic() - started), flush=True)


def run(command: List[str], **options: object) -> None:
    """Run a command; Stopped with its name and, where it was captured, its output when it fails."""
    done = subprocess.run(command, cwd=str(ROOT), stdin=subprocess.DEVNULL, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        output = "\n" + done.stdout.strip()[-3000:] if done.stdout else ""
        raise Stopped("%s ended with code %d.%s" % (" ".join(command[:4]), done.returncode, output))


def asks(command: List[str]) -> Optional[str]:
    """The output of a command that works; None when it is missing or fails, as a stand-in of pyenv may."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def read_stamp(folder: Path) -> Dict[str, str]:
    try:
        stamp: Dict[str, str] = json.loads((folder / ".slipway-stamp").read_text())
    except (OSError, ValueError):
        return {}
    return stamp


def write_stamp(folder: Path, **stamp: str) -> None:
    (folder / ".slipway-stamp").write_text(json.dumps(stamp))


def executables(name: str) -> Iterator[str]:
    """Every program of that name on the PATH, then in the usual places."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for folder in dict.fromkeys([*folders, "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"]):
        path = str(Path(folder) / name)
        if os.access(path, os.X_OK):
            yield path


def python_version(path: str) -> Optional[str]:
    return asks([path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])


def python_itself(path: str) -> str:
    """The program behind a stand-in such as pyenv's."""
    return asks([path, "-c", "import sys; print(sys.executable)"]) or path


def find_python() -> Optional[str]:
    """A working Python for the site; None when this machine has none."""
    found: Dict[str, str] = {}
    for name in ["python%s" % version for version in WANTED] + ["python3", "python"]:
        for path in executables(name):
            version = python_version(path)
            if version in WANTED and version not in found:
                found[version] = python_itself(path)
        if WANTED[0] in found:
            break
    return next((found[version] for version in WANTED if version in found), None)


def find_uv() -> str:
    """uv from the PATH, an earlier set-up, or its wheel, fetched by whichever pip works here."""
    private = DEPS / "uv" / "bin" / "uv"
    for path in [*executables("uv"), str(private), str(VENV / "bin" / "uv")]:
        if asks([path, "--version"]):
            return path
    with step("uv", "fetching its wheel with pip"):
        fetch_uv()
    if not asks([str(private), "--version"]):
        raise Stopped("uv was installed into .deps/uv but does not run on this machine.")
    return str(private)


def fetch_uv() -> None:
    """Install the locked uv into .deps/uv."""
    target = str(DEPS / "uv")
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "uv.txt"
        wanted.write_text(locked("uv"))
        install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        problem = None
        for pip in pips(Path(folder)):
            command = [*pip, *install, "--target", target, "--upgrade", "-r", str(wanted)]
            try:
                run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            except Stopped as failure:
                problem = failure
            else:
                return
    if problem:
        raise problem
    raise Stopped("Neither uv nor a working pip was found. Install one of them:\n    %s" % package_command())


def pips(folder: Path) -> Iterator[List[str]]:
    """Commands that run a pip: of any Python here, else of a virtual environment that brings its own."""
    pythons = [
        sys.executable,
        *executables("python3"),
        *(p for v in WANTED for p in executables("python" + v)),
    ]
    for python in pythons:
        if asks([python, "-m", "pip", "--version"]):
            yield [python, "-m", "pip"]
    for python in pythons:
        if asks([python, "-m", "venv", str(folder / "venv")]) is not None:
            yield [str(folder / "venv" / "bin" / "python"), "-m", "pip"]


def locked(package: str) -> str:
    """The lines of one package in the site's lock: its version and hashes."""
    block = re.search(r"^%s==.*(?:\n .*)*" % re.escape(package), LOCKS["site"].read_text(), re.MULTILINE)
    if block is None:
        raise Stopped("requirements.lock does not name %s." % package)
    return block.group() + "\n"


def package_command() -> str:
    """How this machine's package manager installs what is missing."""
    known = [command for tool, command in PACKAGES.items() if shutil.which(tool)]
    return known[0] if known else "Python 3.13 with pip from https://www.python.org"


def make_venv(uv: str) -> None:
    """`.venv` with the best Python here, or one that uv fetches."""
    python = find_python()
    if python is None:
        with step("Python", "none from 3.12 on here: uv fetches 3.13"):
            try:
                run(
                    [
                        uv,
                        "venv",
                        "--quiet",
                        "--no-project",
                        "--clear",
                        "--python",
                        "3.13",
                        "--managed-python",
                        str(VENV),
                    ]
                )
            except Stopped:
                raise Stopped(
                    "No Python from 3.12 on was found, and uv could not fetch one. Install it:\n    %s"
                    % package_command()
                ) from None
    else:
        with step("Python", "making .venv") as notes:
            run([uv, "venv", "--quiet", "--no-project", "--clear", "--python", python, str(VENV)])
            notes.append("%s, from %s" % (python_version(str(PYTHON)), python))


def install_packages(level: str) -> None:
    """Bring `.venv` to exactly what the lock names."""
    uv = find_uv()
    if python_version(str(PYTHON)) not in WANTED:
        make_venv(uv)
    lock = LOCKS[level]
    count = len(re.findall(r"^[\w.-]+(?:\[[^\]]*\])?==", lock.read_text(), re.MULTILINE))
    with step("Packages", "installing from %s" % lock.name) as notes:
        progress = [] if sys.stderr.isatty() else ["--quiet"]
        run([uv, "pip", "sync", *progress, "--require-hashes", "--python", str(PYTHON), str(lock)])
        notes.append("%d in the lock, all in place" % count)
    write_stamp(VENV, level=level, lock=digest(lock), python=str(python_version(str(PYTHON))))


def packages_level(wanted: str) -> Optional[str]:
    """Which lock to install now: None when what is there is right. A dev environment stays one."""
    stamp = read_stamp(VENV)
    level = "dev" if "dev" in (wanted, stamp.get("level")) else "site"
    right = (
        stamp.get("level") == level
        and stamp.get("lock") == digest(LOCKS[level])
        and os.access(str(PYTHON), os.X_OK)
    )
    return None if right else level


def find_npm() -> Optional[Tuple[List[str], Dict[str, str]]]:
    """The command of this machine's npm and its environment; None without a Node that is new enough."""
    for node in executables("node"):
        version = asks([node, "--version"])
        npm = str(Path(node).with_name("npm"))
        if version and int(version[1:].split(".")[0]) >= NODE_MAJOR and asks([npm, "--version"]):
            return [npm], dict(os.environ)
    return None


def wheel_npm() -> Tuple[List[str], Dict[str, str]]:
    """npm of the Node that comes as a wheel, in an environment of its own: the site runs without it."""
    uv, home = find_uv(), DEPS / "node"
    python = str(home / "bin" / "python")
    with step("Node", "none from %d on here: installing one from a wheel" % NODE_MAJOR):
        run([uv, "venv", "--quiet", "--no-project", "--clear", "--python", str(PYTHON), str(home)])
        run([uv, "pip", "install", "--quiet", "--require-hashes", "--python", python, "-r", str(NODE_LOCK)])
    path = str(home / "bin") + os.pathsep + os.environ.get("PATH", os.defpath)
    return [str(home / "bin" / "npm")], dict(os.environ, PATH=path)


def install_modules(npm: List[str], environment: Dict[str, str]) -> None:
    with step("npm packages", "installing from package-lock.json") as notes:
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        run([*npm, "ci", *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        names = json.loads((ROOT / "package-lock.json").read_text())["packages"]
        notes.append("%d in the lock, all in place" % (len(names) - 1))
    write_stamp(MODULES, lock=digest(ROOT / "package-lock.json"))


def modules_missing() -> bool:
    return read_stamp(MODULES).get("lock") != digest(ROOT / "package-lock.json")


def find_browser() -> None:
    chosen = os.environ.get("SLIPWAY_CHROMIUM")
    if any(shutil.which(name) for name in ([chosen] if chosen else BROWSERS)):
        return
    hint = (
        "apt-get install chromium"
        if shutil.which("apt-get")
        else "install Chromium with your package manager"
    )
    raise Stopped("The browser tests need Chromium: %s, or set SLIPWAY_CHROMIUM to one." % hint)


@contextmanager
def alone() -> Iterator[None]:
    """One set-up at a time in this checkout."""
    DEPS.mkdir(exist_ok=True)
    with (DEPS / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def set_up(wanted: str) -> None:
    """Install what is missing; the two halves at the same time where the machine has a Node of its own."""
    level, npm = packages_level(wanted), find_npm() if modules_missing() else None
    problems: List[BaseException] = []

    def modules() -> None:
        try:
            install_modules(*(npm or wheel_npm()))
        except BaseException as problem:
            problems.append(problem)

    beside = threading.Thread(target=modules)
    if npm:
        beside.start()
    if level:
        install_packages(level)
    if npm:
        beside.join()
    elif modules_missing():
        modules()
    if problems:
        raise problems[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Set up this checkout.")
    parser.add_argument("--dev", action="store_true", help="also what tests and linters need")
    parser.add_argument("--browser", action="store_true", help="check that there is a Chromium")
    chosen = parser.parse_args()
    wanted = "dev" if chosen.dev else "site"
    # What this machine trusts, uv trusts: behind a company's proxy its built-in roots are not enough.
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")
    try:
        if chosen.browser:
            find_browser()
        if packages_level(wanted) or modules_missing():
            print("Setting up Slipway in %s\n" % ROOT)
            with alone():
                set_up(wanted)
            print()
    except Stopped as problem:
        sys.exit("bootstrap: %s" % problem)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
