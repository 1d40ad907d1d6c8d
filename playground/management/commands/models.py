"""`manage.py models [list | search | add | remove]`: the catalogue, and what the Hub has for it."""

from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable
from typing import Any

from playground import catalogue, engines, fitting, glances, hub, hub_models, removal, shell, wishes
from playground.models import Job, Model, ModelFormat

CODES = {
    hub.Trouble.BAD_NAME: shell.USAGE,
    hub.Trouble.UNKNOWN: shell.MISSING,
    hub.Trouble.GATED: shell.REFUSED,
}
FILTERS = {
    "task": wishes.TASKS,
    "size": wishes.SIZES,
    "licence": wishes.LICENCES,
    "library": wishes.LIBRARIES,
    "gated": wishes.GATED,
    "sort": hub.SORTS,
}


class Command(shell.Verb):
    help = "List the models here; search the Hub, add a model of it at one commit, remove one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", title="verbs", metavar="{list,search,add,remove}")
        verbs.add_parser("list", help="What lies here or was added. The same as no verb.")
        search = verbs.add_parser("search", help="What the Hub has.")
        search.add_argument("text", nargs="?", default="", help="Words of its name.")
        for name, choices in FILTERS.items():
            search.add_argument(f"--{name}", choices=list(choices), default="")
        search.add_argument("--limit", type=int, default=20, help="How many at most (20).")
        add = verbs.add_parser("add", help="Add a model of the Hub, at the commit it has now.")
        add.add_argument("repo", help="org/name, or org/name@revision")
        add.add_argument(
            "--form",
            action="append",
            default=[],
            help='"safetensors" or the name of a .gguf file; may be given several times.',
        )
        add.add_argument("--download", action="store_true", help="Bring its files to this machine now.")
        remove = verbs.add_parser("remove", help="Take a model out of the catalogue, its files everywhere.")
        remove.add_argument("model", help="A name or id from `manage.py models`.")
        remove.add_argument("--yes", action="store_true", help="Though something uses it that is stopped.")
        for verb in verbs.choices.values():
            verb.add_argument("--json", action="store_true", default=SUPPRESS, help="Print one JSON value.")

    def act(self, *, quiet: bool, **options: Any) -> Any:
        say = self.say(quiet)
        match options["verb"]:
            case "search":
                return _search(options)
            case "add":
                return _add(options["repo"], options["form"], options["download"], say)
            case "remove":
                return _remove(shell.model(options["model"]), options["yes"], say)
        return [_facts(model) for model in catalogue.scan(shell.team())]

    def show(self, value: Any) -> None:
        if isinstance(value, dict):
            self.stdout.write(_sentence(value))
            return
        for row in value:
            size = f"{row['parameters'] / 1e6:,.0f} M" if row["parameters"] else "n/a"
            last = row["fits_words"] if "repo" in row else ", ".join(row["engines"])
            name = row["repo"] + (" (gated)" if row["gated"] else "") if "repo" in row else row["name"]
            self.stdout.write(f"{name:<48} {row['task']:<20} {size:>10}  {last}")
            if row.get("refused"):
                self.stdout.write(f"    refused: {row['refused']}")


def _sentence(value: dict[str, Any]) -> str:
    if "removed" in value:
        return f"{value['removed']} was removed; {value['freed_bytes'] / 1e6:,.1f} MB came free here."
    forms = ", ".join(f"{form['kind']} {form['dtype']}".strip() for form in value["forms"])
    return f"{value['name']}  {value['source']}  {forms}"


def _search(options: dict[str, Any]) -> list[dict[str, Any]]:
    query = {"q": options["text"], **{name: options[name] for name in FILTERS}}
    node = fitting.roomiest()
    try:
        found = hub.search(wishes.Looking.of(query).wish, max(1, min(options["limit"], 100)))
    except hub.HubError as problem:
        raise _failed(problem) from problem
    return [_hit(one, glances.of(one, node)) for one in found]


def _hit(found: hub.Found, glance: glances.Glance) -> dict[str, Any]:
    return {
        "repo": found.repo,
        "task": found.task,
        "library": found.library,
        "licence": found.licence,
        "gated": found.gated,
        "parameters": found.parameters,
        "dtype": found.dtype,
        "size_bytes": glance.size_bytes,
        "downloads": found.downloads,
        "likes": found.likes,
        "fits": glance.fits,
        "fits_words": glance.words,
    }


def _add(name: str, forms: list[str], download: bool, say: Callable[[str], None]) -> dict[str, Any]:
    try:
        repository = hub.repository(*hub.split(name))
        model = hub_models.add(repository, forms, shell.team(), shell.actor())
    except hub.HubError as problem:
        raise _failed(problem) from problem
    except hub_models.AddRefused as refusal:
        raise shell.Failed(str(refusal), shell.REFUSED) from refusal
    if model.refused:
        raise shell.Failed(f"It was added, and may not be loaded: {model.refused}", shell.REFUSED)
    if download:
        for form in hub_models.chosen(model, repository, forms):
            _bring(model, form, say)
    return _facts(model)


def _bring(model: Model, form: ModelFormat, say: Callable[[str], None]) -> None:
    found = hub_models.download(model, form, shell.node(), shell.actor())
    if isinstance(found, Job):
        shell.carry_out(found, say)


def _remove(model: Model, sure: bool, say: Callable[[str], None]) -> dict[str, Any]:
    used = removal.uses(model)
    for use in used:
        say(f"{use.what}: {use.name}")
    if used and not sure and not any(use.keeps for use in used):
        names = ", ".join(f"{use.what} {use.name}" for use in used)
        raise shell.Failed(f"It is used by: {names}. Remove it all the same with --yes.", shell.REFUSED)
    try:
        asked = removal.request(model, shell.actor())
    except removal.RemoveRefused as refusal:
        raise shell.Failed(str(refusal), shell.REFUSED) from refusal
    here = [job for job in asked if job.node_id == shell.node().pk]
    freed = [shell.carry_out(job, say).result.get("freed_bytes", 0) for job in here]
    return {"removed": model.name, "freed_bytes": sum(freed), "nodes": [job.node.name for job in asked]}


def _failed(problem: hub.HubError) -> shell.Failed:
    return shell.Failed(str(problem), CODES.get(problem.trouble, shell.FAILED))


def _facts(model: Model) -> dict[str, Any]:
    able = [adapter.name for adapter in engines.all() if catalogue.candidate(model, adapter)[1].ok]
    return {
        "id": model.pk,
        "name": model.name,
        "source": model.source,
        "task": model.task,
        "architecture": model.architecture,
        "licence": model.licence,
        "parameters": model.parameters,
        "context_length": model.context_length,
        "forms": [
            {
                "kind": form.kind,
                "dtype": form.dtype,
                "size_bytes": form.size_bytes,
                "digest": form.digest or None,
            }
            for form in model.formats.order_by("pk")
        ],
        "engines": able,
        "made_from": model.parent.name if model.parent else None,
        "refused": model.refused,
    }
