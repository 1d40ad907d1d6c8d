"""What a first start provides so that the first Start needs no waiting: llama.cpp's environment and the demo
model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.conf import settings

from playground import catalogue, environments, teams
from playground.models import EngineEnvironment, Job, Model, ModelFormat, Node

ENGINE = "llama.cpp"
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Progress:
    """How far something is, in words; `done` also when it failed."""

    text: str
    done: bool


def wanted(node: Node) -> Iterator[tuple[str, Callable[[], Progress]]]:
    """Each thing's name, and a function to be called until its Progress is done."""
    if not settings.DEMO:
        return
    yield ENGINE, Provision(lambda: environments.ensure(node, ENGINE)).look
    yield "Demo model", Provision(lambda: _ensure_model(node)).look


class Provision:
    """One thing asked for once. `look` asks at first and then follows the job that makes it."""

    def __init__(self, ensure: Callable[[], EngineEnvironment | ModelFormat | Job]) -> None:
        self.ensure = ensure
        self.job: Job | None = None

    def look(self) -> Progress:
        if self.job is None:
            found = self.ensure()
            if not isinstance(found, Job):
                return Progress(_ready(found), True)
            self.job = found
        self.job.refresh_from_db()
        if self.job.state in Job.ACTIVE:
            return Progress(_how_far(self.job), False)
        if self.job.state == Job.State.DONE:
            found = self.ensure()
            return Progress("ready" if isinstance(found, Job) else _ready(found), True)
        return Progress(f"{self.job.state}: {self.job.error or 'see the Nodes page'}", True)


def _ensure_model(node: Node) -> ModelFormat | Job:
    model: Model = catalogue.demo(teams.default_team())
    return catalogue.ensure(node, model, ModelFormat.Kind.GGUF)


def _ready(found: EngineEnvironment | ModelFormat) -> str:
    if isinstance(found, EngineEnvironment):
        return f"{found.version} installed ({found.build})"
    size = f", {found.size_bytes / MEGABYTE:.0f} MB" if found.size_bytes else ""
    return f"{found.model.name}{size}"


def _how_far(job: Job) -> str:
    """A running job's step and, where they are known, its numbers."""
    step, done, total = (job.progress.get(key) for key in ("step", "done", "total"))
    if not step:
        return "queued" if job.state == Job.State.QUEUED else "starting"
    if done is None:
        return str(step)
    if job.progress.get("unit") == "bytes":
        of = f" of {total / MEGABYTE:.0f}" if total else ""
        return f"{step}, {done / MEGABYTE:.0f}{of} MB"
    of = f" of {total}" if total else ""
    return f"{step}, {done}{of} {job.progress.get('unit', '')}".rstrip()
