"""Engine environments: install, list and remove the virtual environment of one engine version on this node.

An environment's identity is a digest over engine, version, build and the packages that were really resolved.
It is made in a temporary folder and renamed to `environments/<first 12 digits>`, so that a half-made one is
never seen; another node makes the same one from the row's package list. Knows nothing about replicas beyond
who uses what.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings

from playground import engines, interpreters, jobs, packages, teams
from playground.engines.base import Engine, Requirements
from playground.jobs import JobFailed, JobRefused, Work
from playground.models import EngineEnvironment, Job, Node, Replica, Team, User

logger = logging.getLogger(__name__)

MARKER = "slipway.json"
FACTS = ("engine", "version", "build", "packages", "python", "size_bytes")
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.!+_-]{0,39}")


# Asking


def ensure(
    node: Node,
    engine: str,
    version: str | None = None,
    *,
    exactly: EngineEnvironment | None = None,
    since: datetime | None = None,
    team: Team | None = None,
    user: User | None = None,
    nudge: bool = True,
) -> EngineEnvironment | Job:
    """The environment of that engine on the node, or the Job that makes it.

    `version` None is the adapter's default for the node's build. `exactly` asks for one environment, not the
    newest of its version. With `since`, a job for it that failed after that moment comes back instead of a
    new one.
    """
    adapter = engines.get(engine)
    build = build_of(node, adapter)
    version = version or default_version(adapter, build)
    if not VERSION.fullmatch(version):
        raise JobRefused(f"{version[:40]!r} is no version: write it like {default_version(adapter, build)}.")
    if node.name == settings.NODE_NAME:
        adopt()
    found = exactly or _newest(engine, version, build)
    if found is not None and _is_on(node, found):
        return found
    if not _needs_packages(adapter.requirements(build, version)):
        return _record(adapter, version, build, [], "")
    goal = target(engine, version, build)
    if failed := jobs.failed_since(node, goal, since):
        return failed
    arguments = {
        "engine": engine,
        "version": version,
        "build": build,
        "digest": found.digest if found else "",
    }
    owner = team or teams.default_team()
    return jobs.request(Job.Kind.INSTALL_ENVIRONMENT, node, goal, arguments, owner, user, nudge=nudge)


def remove(
    environment: EngineEnvironment,
    node: Node,
    team: Team | None = None,
    user: User | None = None,
    *,
    nudge: bool = True,
) -> Job:
    """The Job that removes an environment from a node; JobRefused while a replica there uses it."""
    _refuse_if_used(environment, node)
    goal = target(environment.engine, environment.version, environment.build)
    arguments = {"digest": environment.digest}
    owner = team or teams.default_team()
    job = jobs.request(Job.Kind.REMOVE_ENVIRONMENT, node, goal, arguments, owner, user, nudge=nudge)
    if job.kind != Job.Kind.REMOVE_ENVIRONMENT:
        raise JobRefused(f"{environment.engine} {environment.version} is being installed: cancel that first.")
    return job


def target(engine: str, version: str, build: str) -> str:
    """What jobs on this environment are locked by."""
    return f"environment:{engine}=={version}+{build}"


def default_version(adapter: Engine, build: str) -> str:
    version = adapter.versions.get(build)
    if version is None:
        raise JobRefused(f"{adapter.title} has no {build} build.")
    return version


def build_of(node: Node, adapter: Engine | None = None) -> str:
    """Which build of engines fits the node: "cuda" or "cpu". Of `adapter`: "cuda" only where it has that."""
    knows_gpus = adapter is None or "cuda" in adapter.versions
    return "cuda" if node.inventory.get("gpus") and knows_gpus else "cpu"


# What lies on this node's disk


def path(environment: EngineEnvironment) -> Path:
    """The environment's folder on this node; its Python is bin/python in it."""
    return _root() / environment.digest[:12]


def on_disk() -> list[str]:
    """Digests of the environments that lie in this home, whole."""
    return sorted(marker["digest"] for marker in _markers())


def installed() -> list[EngineEnvironment]:
    """The environments of this node, newest first."""
    return list(EngineEnvironment.objects.filter(digest__in=on_disk()).order_by("-pk"))


def adopt() -> None:
    """Write rows for environments that lie here without one: the home may be older than the database."""
    known = set(EngineEnvironment.objects.values_list("digest", flat=True))
    for marker in _markers():
        if marker["digest"] not in known:
            values = {key: marker[key] for key in FACTS}
            EngineEnvironment.objects.get_or_create(digest=marker["digest"], defaults=values)


def _markers() -> Iterator[dict[str, Any]]:
    """What the environments here say of themselves. One that does not say all of it counts as not there."""
    for file in _root().glob(f"[!.]*/{MARKER}"):
        try:
            marker = json.loads(file.read_text())
            whole = {"digest", *FACTS} <= marker.keys()
        except (ValueError, AttributeError):
            whole = False
        if whole:
            yield marker
        else:
            logger.warning("%s does not say what it is: it will be installed anew when needed", file.parent)


def _root() -> Path:
    home: Path = settings.HOME
    return home / "environments"


def _is_on(node: Node, environment: EngineEnvironment) -> bool:
    if not environment.packages:
        return True
    held = on_disk() if node.name == settings.NODE_NAME else node.inventory.get("environments", [])
    return environment.digest in held


def _newest(engine: str, version: str, build: str) -> EngineEnvironment | None:
    rows = EngineEnvironment.objects.filter(engine=engine, version=version, build=build)
    return rows.order_by("-pk").first()


def _needs_packages(requirements: Requirements) -> bool:
    return bool(requirements.packages or requirements.no_deps)


# The jobs


def install(work: Work) -> dict[str, Any]:
    """Job: make one environment here."""
    given = work.job.arguments
    made = make(work, given["engine"], given["version"], given["build"], given.get("digest", ""))
    return {"environment": made.digest}


def discard(work: Work) -> dict[str, Any]:
    """Job: remove one environment from this disk."""
    environment = EngineEnvironment.objects.get(digest=work.job.arguments["digest"])
    try:
        _refuse_if_used(environment, work.job.node)
    except JobRefused as problem:
        raise JobFailed(str(problem)) from problem
    work.progress("removing")
    folder = path(environment)
    if folder.exists():
        gone = folder.with_name(f".gone-{folder.name}")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)
    return {"environment": environment.digest}


def provide(work: Work, engine: str, build: str) -> EngineEnvironment:
    """An environment of that engine here, for a job of another kind: made first where it is missing."""
    adapter = engines.get(engine)
    version = default_version(adapter, build)
    with turn(work, target(engine, version, build)):
        found = _newest(engine, version, build)
        if found is not None and found.digest in on_disk():
            return found
        return make(work, engine, version, build, found.digest if found else "")


@contextmanager
def turn(work: Work, goal: str) -> Iterator[None]:
    """The lock on a target, waited for: another job may be making the same environment."""
    while True:
        with jobs.alone(goal) as held:
            if held:
                yield
                return
        work.progress("waiting for another job on the same files")
        work.wait(0.5)


def make(work: Work, engine: str, version: str, build: str, digest: str = "") -> EngineEnvironment:
    """Install into a temporary folder, name it by what was resolved, rename.

    `digest`: make exactly that one again.
    """
    adapter = engines.get(engine)
    like = EngineEnvironment.objects.filter(digest=digest).first() if digest else None
    fresh = _root() / f".new-{hashlib.sha256(target(engine, version, build).encode()).hexdigest()[:12]}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        if like is None:
            python = fill(work, adapter.requirements(build, version), fresh, build)
        else:
            python = _make_venv(work, adapter.requirements(build, version), fresh, like)
            _repeat(work, fresh, like)
        return _finish(work, adapter, version, build, fresh, python, like)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def fill(work: Work, requirements: Requirements, fresh: Path, build: str) -> str:
    """A virtual environment with the newest packages that fit together; returns its Python version."""
    python = _make_venv(work, requirements, fresh, None)
    _resolve(work, requirements, fresh, build, python)
    return python


def _make_venv(work: Work, requirements: Requirements, fresh: Path, like: EngineEnvironment | None) -> str:
    """An empty, relocatable virtual environment; returns its Python version, "3.11"."""
    work.progress("finding Python")
    wanted = (like.python,) if like else requirements.python
    version, interpreter = interpreters.find(work, wanted, system=requirements.system_python)
    work.progress("making the environment")
    work.call(packages.uv("venv", "--relocatable", "--python", interpreter, str(fresh)))
    return version


def _resolve(work: Work, requirements: Requirements, fresh: Path, build: str, python: str) -> None:
    """Install the newest packages that fit together, then take out and add what the adapter says."""
    pins = packages.cpu_pins(python) if build == "cpu" else []
    options = ["--torch-backend", "cpu"] if build == "cpu" and not pins else []
    for name in packages.constraint_files():
        options += ["--constraints", name]
    options += _file_option(fresh, "--constraints", pins)
    options += _file_option(fresh, "--overrides", list(requirements.overrides))
    _uv_install(work, fresh, [*options, *requirements.packages])
    if requirements.no_deps:
        _uv_install(work, fresh, ["--no-deps", *requirements.no_deps])
    if requirements.remove:
        work.progress("removing what it must not have")
        python_file = str(fresh / "bin" / "python")
        work.call(packages.uv("pip", "uninstall", "--python", python_file, *requirements.remove))


def _repeat(work: Work, fresh: Path, like: EngineEnvironment) -> None:
    """Install exactly the packages of another node's environment."""
    listed = fresh / "packages.txt"
    listed.write_text(like.packages + "\n")
    _uv_install(work, fresh, ["--no-deps", "--requirements", str(listed)])
    listed.unlink()


def _file_option(fresh: Path, option: str, lines: list[str]) -> list[str]:
    """`option` with a file of those lines, beside the environment's own files; nothing for no lines."""
    if not lines:
        return []
    file = fresh / f"{option.lstrip('-')}.txt"
    file.write_text("\n".join(lines) + "\n")
    return [option, str(file)]


def _uv_install(work: Work, fresh: Path, arguments: list[str]) -> None:
    work.progress("resolving packages")
    command = packages.uv("pip", "install", "--python", str(fresh / "bin" / "python"), *arguments)
    environment = packages.variables() | {"UV_HTTP_TIMEOUT": os.environ.get("UV_HTTP_TIMEOUT", "300")}
    work.call(command, environment, _follow(work))


def _follow(work: Work) -> Callable[[str], None]:
    """Turns uv's lines into progress: how many packages of how many, and the large one it fetches."""
    seen = {"total": 0, "begun": 0, "fetched": 0}

    def look(line: str) -> None:
        if found := re.match(r"Resolved (\d+) packages?", line):
            seen["total"] = int(found[1])
            work.progress("downloading", 0, seen["total"], "packages")
        elif re.match(r"Downloading \S+ \(", line):
            seen["begun"] += 1
        elif found := re.match(r"\s+Downloaded (\S+)", line):
            # uv announces large packages only; the small ones between them are done by then.
            seen["fetched"] += 1
            share = seen["fetched"] / max(seen["begun"], seen["fetched"])
            work.progress("downloading", int(seen["total"] * share), seen["total"], "packages")
        elif line.startswith("Prepared "):
            work.progress("installing", seen["total"], seen["total"], "packages")

    return look


def _finish(
    work: Work,
    adapter: Engine,
    version: str,
    build: str,
    fresh: Path,
    python: str,
    like: EngineEnvironment | None,
) -> EngineEnvironment:
    """Name the environment by its packages, mark it whole and move it to its place."""
    work.progress("checking")
    for file in fresh.glob("*.txt"):
        file.unlink()
    frozen = work.call(packages.uv("pip", "freeze", "--quiet", "--python", str(fresh / "bin" / "python")))
    listed = sorted(line for line in frozen if line.strip())
    made = digest_of(adapter.name, version, build, listed)
    if like is not None and made != like.digest:
        raise JobFailed("The packages installed here differ from those of the first node: see the log.")
    environment = _record(adapter, version, build, listed, python, _size(fresh))
    marker = {
        "digest": made,
        "engine": adapter.name,
        "version": version,
        "build": build,
        "packages": environment.packages,
        "python": python,
        "size_bytes": environment.size_bytes,
    }
    (fresh / MARKER).write_text(json.dumps(marker))
    if environment.digest not in on_disk():
        shutil.rmtree(path(environment), ignore_errors=True)
        fresh.rename(path(environment))
    return environment


def _record(
    adapter: Engine, version: str, build: str, listed: list[str], python: str, size: int | None = None
) -> EngineEnvironment:
    values = {
        "engine": adapter.name,
        "version": version,
        "build": build,
        "packages": "\n".join(listed),
        "python": python,
        "size_bytes": size,
    }
    digest = digest_of(adapter.name, version, build, listed)
    return EngineEnvironment.objects.get_or_create(digest=digest, defaults=values)[0]


def digest_of(engine: str, version: str, build: str, listed: list[str]) -> str:
    """An environment's identity.

    SHA-256 of the canonical JSON of engine, version, build and sorted packages.
    """
    identity = {"engine": engine, "version": version, "build": build, "packages": listed}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _refuse_if_used(environment: EngineEnvironment, node: Node) -> None:
    users = Replica.objects.filter(
        node=node, configuration__environment=environment, state__in=Replica.HOLDING
    ).select_related("deployment")
    if names := sorted({replica.deployment.name for replica in users}):
        raise JobRefused(f"It is in use by {', '.join(names)}: stop that first.")
