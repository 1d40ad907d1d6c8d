"""What a column of a conversation says of the deployment that answers in it, and which ones it could take.

Reads only. A deployment's many states become five, each of which the page acts on: none, stopped, loading,
ready, failed.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from playground import adapters, engines, standing
from playground.engines.base import Quirks
from playground.models import Column, Deployment, Model, Replica, Team

WORDS = {
    "none": "no model",
    "stopped": "stopped",
    "loading": "starting",
    "ready": "ready",
    "failed": "does not run",
}


@dataclass(frozen=True)
class Heading:
    column: Column
    state: str
    deployment: Deployment | None = None
    engine: str = ""
    version: str = ""
    dtype: str = ""
    context: int | None = None
    problem: str = ""
    detail: str = ""
    """The replica's own word for its state, where it says more: "unhealthy", "draining"."""
    steps: list[tuple[standing.Step, list[dict[str, Any]]]] = field(default_factory=list)
    quirks: Quirks = field(default_factory=Quirks)
    at: int = 1
    """Where it stands among the open columns, counted from one."""
    differs: tuple[str, ...] = ()
    """What of it is not so in every column, in words: "2 threads"."""

    @property
    def own(self) -> bool:
        """Whether it has settings of its own."""
        return self.column.parameters is not None or self.column.system_prompt is not None

    @property
    def sees(self) -> bool:
        """Whether it reads pictures."""
        return self.quirks.images and self.deployment is not None and self.deployment.model.takes_images

    @property
    def word(self) -> str:
        return self.detail or WORDS[self.state]

    @property
    def name(self) -> str:
        return self.deployment.name if self.deployment else ""

    @property
    def chosen(self) -> str:
        """The value of the choice that this column is at."""
        return Choice(self.deployment, self.state, self.column.adapter).value if self.deployment else ""

    @property
    def topics(self) -> str:
        """What changes it: the deployment, and the jobs its start waits for."""
        jobs = [f"job:{line['job'].pk}" for _, lines in self.steps for line in lines]
        return " ".join([f"deployment:{self.deployment.pk}", *jobs]) if self.deployment else ""


@dataclass(frozen=True)
class Choice:
    deployment: Deployment
    state: str
    adapter: str = ""

    @property
    def value(self) -> str:
        """As a form posts it: "12", or "12:polite" for one of its adapters."""
        return f"{self.deployment.pk}:{self.adapter}" if self.adapter else str(self.deployment.pk)

    @property
    def label(self) -> str:
        suffix = {"ready": "", "loading": " (starting)", "stopped": " (stopped: starts on Send)"}
        name = f"{self.deployment.name}: {self.adapter}" if self.adapter else self.deployment.name
        return name + suffix.get(self.state, " (does not run)")


def headings(shown: Sequence[Column], only: int | None = None) -> list[Heading]:
    """What stands over each open column, or the `only` one, with what sets it apart from the others."""
    apart = _apart(shown)
    return [
        replace(heading(column), at=place, differs=apart.get(column.pk, ()))
        for place, column in enumerate(shown, 1)
        if only in (None, column.pk)
    ]


def _apart(shown: Sequence[Column]) -> dict[int, tuple[str, ...]]:
    """Column → its options that are not the same in all columns. Engine and model stand there anyway."""
    told = {column.pk: _options(column.deployment) for column in shown if column.deployment}
    names = {name for options in told.values() for name in options}
    mixed = sorted(name for name in names if len({options.get(name) for options in told.values()}) > 1)
    return {
        pk: tuple(f"{name} {options.get(name, 'default')}" for name in mixed) for pk, options in told.items()
    }


def _options(deployment: Deployment) -> dict[str, str]:
    """The set options by their titles, and the form of the weights."""
    configuration, fields = deployment.configuration, engines.get(deployment.engine).Options.model_fields
    given = configuration.options if configuration else deployment.wanted.get("options") or {}
    named = {str(fields[name].title if name in fields else name): str(value) for name, value in given.items()}
    return named | ({"weights": configuration.format.dtype} if configuration else {})


def heading(column: Column) -> Heading:
    """What stands over `column` now."""
    deployment = column.deployment
    if deployment is None or deployment.desired == Deployment.Desired.DELETED:
        return Heading(column, "none")
    replicas = list(deployment.replicas.order_by("pk"))
    state = _state(deployment, replicas)
    configuration = deployment.configuration
    adapter = engines.get(deployment.engine)
    ready = [one for one in replicas if one.state == Replica.State.READY]
    current = (ready or replicas)[-1] if replicas else None
    return Heading(
        column,
        state,
        deployment,
        engine=adapter.title,
        version=configuration.environment.version
        if configuration
        else deployment.wanted.get("version") or "",
        dtype=configuration.format.dtype if configuration else "",
        context=deployment.model.context_length,
        problem=_problem(deployment, state),
        detail=_detail(state, current),
        steps=_steps(current) if current and state == "loading" else [],
        quirks=adapter.quirks,
    )


def _state(deployment: Deployment, replicas: Iterable[Replica]) -> str:
    states = {replica.state for replica in replicas}
    if Replica.State.READY in states:
        return "ready"
    if deployment.desired != Deployment.Desired.RUNNING:
        return "stopped"
    return "failed" if deployment.problem else "loading"


def _problem(deployment: Deployment, state: str) -> str:
    """Why nothing can be sent, as a sentence that says what to do."""
    if state == "failed":
        return f"{deployment.name} does not run: {deployment.problem}"
    if state == "stopped":
        return f"{deployment.name} is stopped. Ask an operator above to start it, or choose another model."
    return ""


def _detail(state: str, replica: Replica | None) -> str:
    if state != "loading" or replica is None or replica.state in Replica.TERMINAL:
        return ""
    return str(replica.state)


def _steps(replica: Replica) -> list[tuple[standing.Step, list[dict[str, Any]]]]:
    """The start so far, each step with how far the jobs are that it waits for."""
    reached = [step for step in standing.steps(replica) if step.mark != "next"]
    return [(step, [standing.job_line(job) for job in step.jobs]) for step in reached]


def choices(team: Team, task: str = Model.Task.CHAT) -> list[Choice]:
    """Every deployment of the team for that task: ready, then starting, stopped, failed; newest first."""
    rows = list(
        Deployment.objects.filter(team=team, model__task=task)
        .select_related("configuration")
        .exclude(desired=Deployment.Desired.DELETED)
        .order_by("-pk")
    )
    replicas: dict[int, list[Replica]] = defaultdict(list)
    for replica in Replica.objects.filter(deployment__in=rows).exclude(state__in=Replica.TERMINAL):
        replicas[replica.deployment_id].append(replica)
    found = [
        Choice(row, _state(row, replicas[row.pk]), adapter)
        for row in rows
        for adapter in ("", *adapters.served(row))
    ]
    order = ["ready", "loading", "stopped", "failed"]
    return sorted(found, key=lambda choice: order.index(choice.state))
