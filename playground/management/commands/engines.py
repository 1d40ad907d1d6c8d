"""`manage.py engines list | install NAME | remove NAME`: the engine environments of this node."""

from argparse import SUPPRESS, ArgumentParser
from typing import Any

from playground import engines, environments, jobs, shell
from playground.engines.base import Engine
from playground.models import EngineEnvironment, Job


class Command(shell.Verb):
    help = "List, install or remove engines on this node. Needs the database, not a worker."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        for name, text in [
            ("list", "What there is and what is installed here."),
            ("install", "Install one, with its progress."),
            ("remove", "Remove one that no replica uses."),
        ]:
            verb = verbs.add_parser(name, help=text)
            verb.add_argument(
                "--json", action="store_true", default=SUPPRESS, help="Print one JSON value only."
            )
            if name != "list":
                verb.add_argument("name", help=", ".join(engines.names()))
                verb.add_argument("--version", dest="engine_version", default=None)

    def act(self, *, quiet: bool, **options: Any) -> Any:
        if options["verb"] == "list":
            return [_facts(adapter) for adapter in engines.all() if not adapter.is_elsewhere]
        try:
            adapter = engines.get(options["name"])
        except engines.UnknownEngine as problem:
            raise shell.Failed(str(problem), shell.MISSING) from problem
        if options["verb"] == "install":
            return _install(adapter, options["engine_version"], self.say(quiet))
        return _remove(adapter, options["engine_version"], self.say(quiet))

    def show(self, value: Any) -> None:
        if isinstance(value, dict):
            self.stdout.write(f"{value['engine']} {value['version']} ({value['build']})  {value['path']}")
            return
        for row in value:
            held = (
                ", ".join(f"{one['version']} ({one['build']})" for one in row["installed"]) or "not installed"
            )
            self.stdout.write(f"{row['name']:<14} {row['version']:<16} {held}")


def _facts(adapter: Engine) -> dict[str, Any]:
    here = [_environment(row) for row in environments.installed() if row.engine == adapter.name]
    build = environments.build_of(shell.node(), adapter)
    return {
        "name": adapter.name,
        "title": adapter.title,
        "version": adapter.versions.get(build, ""),
        "build": build,
        "installed": here,
    }


def _environment(row: EngineEnvironment) -> dict[str, Any]:
    return {
        "engine": row.engine,
        "version": row.version,
        "build": row.build,
        "digest": row.digest,
        "python": row.python,
        "packages": len(row.packages.splitlines()),
        "size_bytes": row.size_bytes,
        "path": str(environments.path(row)),
    }


def _install(adapter: Engine, version: str | None, say: Any) -> dict[str, Any]:
    """Install in the foreground, or follow whoever is installing it already."""
    node = shell.node()
    try:
        found = environments.ensure(
            node, adapter.name, version, team=shell.team(), user=shell.actor(), nudge=False
        )
    except jobs.JobRefused as problem:
        raise shell.Failed(str(problem), shell.REFUSED) from problem
    if isinstance(found, Job):
        result = shell.carry_out(found, say).result
        found = EngineEnvironment.objects.get(digest=result["environment"])
    return _environment(found)


def _remove(adapter: Engine, version: str | None, say: Any) -> dict[str, Any]:
    rows = [row for row in environments.installed() if row.engine == adapter.name]
    if version is not None:
        rows = [row for row in rows if row.version == version]
    if not rows:
        raise shell.Failed(
            f"{adapter.title} {version or ''} is not installed here.".replace("  ", " "), shell.MISSING
        )
    if len({row.version for row in rows}) > 1:
        versions = ", ".join(row.version for row in rows)
        raise shell.Failed(
            f"Several versions are installed ({versions}): name one with --version.", shell.USAGE
        )
    gone = [_environment(row) for row in rows]
    for row in rows:
        try:
            job = environments.remove(row, shell.node(), shell.team(), shell.actor(), nudge=False)
        except jobs.JobRefused as problem:
            raise shell.Failed(str(problem), shell.REFUSED) from problem
        shell.carry_out(job, say)
    return gone[0]
