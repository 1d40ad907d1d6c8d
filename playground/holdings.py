"""Where a model's forms lie: on which node each is, is coming, or did not come. Changes nothing."""

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import QuerySet

from playground import catalogue, frame, standing
from playground.models import Job, Model, ModelFormat, Node


@dataclass(frozen=True)
class Place:
    """One form on one node. `line`: the job that brings it now; `failed`: the last one that did not."""

    node: Node
    here: bool
    line: dict[str, Any] | None = None
    failed: Job | None = None


@dataclass(frozen=True)
class Holding:
    """One form and its places. `can_come`: a node may be asked to fetch or make it."""

    form: ModelFormat
    places: tuple[Place, ...]

    @property
    def can_come(self) -> bool:
        return bool(self.form.recipe)

    @property
    def is_nowhere(self) -> bool:
        return not any(place.here for place in self.places)


def of(model: Model) -> list[Holding]:
    """Every form on every live node, and on others that have something to tell of it."""
    nodes = frame.live_nodes()
    return [
        Holding(form, tuple(_place(form, node) for node in nodes))
        for form in model.formats.order_by("kind", "pk")
    ]


def jobs_of(model: Model) -> QuerySet[Job]:
    """The jobs that bring its forms to nodes, ended ones too."""
    targets = [f"format:{form}" for form in model.formats.values_list("pk", flat=True)]
    return Job.objects.filter(target__in=targets).select_related("team", "created_by", "node")


def lies_on(form: ModelFormat, node: Node) -> bool:
    """Whether the form is on that node, unchanged since its digest was taken."""
    if node.name == settings.NODE_NAME:
        path = catalogue.root() / form.path
        return bool(form.digest) and path.exists() and catalogue.digest_known(path) == form.digest
    return bool(form.digest) and form.digest in (node.inventory.get("formats") or [])


def _place(form: ModelFormat, node: Node) -> Place:
    newest = Job.objects.filter(node=node, target=f"format:{form.pk}").order_by("-pk").first()
    here = lies_on(form, node)
    if newest is None:
        return Place(node, here)
    if newest.state in Job.ACTIVE:
        return Place(node, here, line=standing.job_line(newest))
    failed = newest if newest.state == Job.State.FAILED and not here else None
    return Place(node, here, failed=failed)
