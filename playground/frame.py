"""What surrounds every page: navigation, the bar of what runs now, what needs a person, the finder.

Other applications add to it from their `AppConfig.ready`: this module never imports them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from typing import Any

from django.conf import settings
from django.db.models import Exists, OuterRef
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from playground import access, standing
from playground.models import (
    Batch,
    Conversation,
    Dataset,
    Deployment,
    Job,
    Model,
    Node,
    Prompt,
    Replica,
    Team,
    User,
)


@dataclass(frozen=True)
class Item:
    """One line of the navigation: its words and the name of its address."""

    title: str
    name: str
    order: int


@dataclass(frozen=True)
class Need:
    """Something only a person can put right, in words, and where to do it."""

    text: str
    address: str


@dataclass(frozen=True)
class Found:
    """One hit of the finder."""

    title: str
    kind: str
    address: str


@dataclass(frozen=True)
class Section:
    """A part of the home page that another application brings."""

    template: str
    context: dict[str, Any] = field(default_factory=dict)


ITEMS = [
    Item("Models", "models", 10),
    Item("Running", "running", 20),
    Item("Playground", "playground", 30),
    Item("Batches", "batches", 40),
    Item("Datasets", "datasets", 50),
    Item("Prompts", "prompts", 60),
    Item("Nodes", "nodes", 80),
    Item("Team", "team", 90),
]
NEEDS: list[Callable[[Team], Iterable[Need]]] = []
# What needs just this person, by what they may do.
NEEDS_OF: list[Callable[[Team, User], Iterable[Need]]] = []
FINDERS: list[Callable[[Team, str], Iterable[Found]]] = []
SECTIONS: list[Callable[[Team], Section | None]] = []

FOUND_AT_MOST = 12


def navigation(path: str) -> list[dict[str, Any]]:
    """The items with their addresses, the one that holds `path` marked."""
    items = []
    for item in sorted(ITEMS, key=lambda item: item.order):
        try:
            address = reverse(item.name)
        except NoReverseMatch:
            continue
        items.append({"title": item.title, "address": address, "current": path.startswith(address)})
    return items


def bar(team: Team, user: User) -> dict[str, Any]:
    """What runs now: the team's replicas by state, others as a number, what live nodes have and use."""
    states: dict[str, int] = {}
    others = 0
    nodes = live_nodes()
    here = {node.pk for node in nodes}
    cores, gpus = 0.0, 0
    for state, owner, node, resources, health in Replica.objects.exclude(
        state__in=Replica.TERMINAL
    ).values_list("state", "deployment__team_id", "node_id", "resources", "health"):
        if node in here:
            cores += health.get("cpu") or 0
            gpus += len(resources.get("gpus") or [])
        if owner == team.pk:
            word = standing.word(state)
            states[word] = states.get(word, 0) + 1
        else:
            others += 1
    order = [standing.word(state) for state in Replica.State]
    return {
        "states": sorted(states.items(), key=lambda entry: order.index(entry[0])),
        "others": others,
        "cores": cores,
        "gpus": gpus,
        "room": _room(nodes),
        "needs": len(needs(team, user)),
    }


def live_nodes() -> list[Node]:
    """Nodes whose heartbeat is recent."""
    return [node for node in Node.objects.order_by("name") if is_live(node)]


def is_live(node: Node) -> bool:
    limit = timezone.now() - timedelta(seconds=settings.LOST_AFTER_S)
    return node.heartbeat_at is not None and node.heartbeat_at > limit


def _room(nodes: list[Node]) -> dict[str, int]:
    """Cores, memory and GPU memory of all `nodes` together, and what is used of it. Bytes."""
    gpus = [gpu for node in nodes for gpu in node.inventory.get("gpus") or []]
    memory = sum(node.inventory.get("memory_bytes") or 0 for node in nodes)
    free = sum(node.inventory.get("memory_available_bytes") or 0 for node in nodes)
    return {
        "nodes": len(nodes),
        "cores": sum(node.inventory.get("cores") or 0 for node in nodes),
        "memory": memory,
        "memory_used": memory - free,
        "gpus": len(gpus),
        "gpu_memory": sum(gpu.get("memory_bytes") or 0 for gpu in gpus),
        "gpu_memory_used": sum(gpu.get("used_bytes") or 0 for gpu in gpus),
    }


def needs(team: Team, user: User) -> list[Need]:
    """Everything that waits for a person: what others asked of them first, then the team's."""
    asked = chain(*(ask(team, user) for ask in NEEDS_OF))
    return list(chain(asked, _own_needs(team, user), *(ask(team) for ask in NEEDS)))


def _own_needs(team: Team, user: User) -> Iterable[Need]:
    wanted = Deployment.objects.filter(team=team, desired=Deployment.Desired.RUNNING)
    for row in wanted.exclude(problem="").order_by("-id"):
        yield Need(f"{row.name} does not run: {row.problem}", reverse("deployment", args=[row.pk]))
    ill = Replica.objects.filter(
        deployment__in=wanted, state__in=[Replica.State.LOST, Replica.State.UNHEALTHY]
    )
    for replica in ill.select_related("deployment", "node"):
        where = f" on {replica.node.name}" if replica.node else ""
        words = "was lost" if replica.state == Replica.State.LOST else "does not answer"
        address = reverse("deployment", args=[replica.deployment_id])
        yield Need(f"{replica.deployment.name} {words}{where}.", address)
    for node in Node.objects.filter(accepting=True).order_by("name"):
        if not is_live(node):
            yield Need(f"Node {node.name} has stopped reporting.", reverse("nodes") + f"#node-{node.pk}")
    yield from _failed_jobs(team)
    yield from _failed_batches(team, user)


def _failed_jobs(team: Team) -> Iterable[Need]:
    """Installs that failed today and were not asked for again since."""
    newer = Job.objects.filter(node=OuterRef("node"), target=OuterRef("target"), pk__gt=OuterRef("pk"))
    failed = Job.objects.filter(
        team=team,
        kind=Job.Kind.INSTALL_ENVIRONMENT,
        state=Job.State.FAILED,
        ended_at__gt=timezone.now() - timedelta(days=1),
    )
    for job in failed.filter(~Exists(newer)).select_related("node"):
        what = job.target.removeprefix("environment:")
        yield Need(f"Installing {what} on {job.node.name} failed.", reverse("nodes") + f"#node-{job.node_id}")


def _failed_batches(team: Team, user: User) -> Iterable[Need]:
    """Batches that could not go on, or whose time ran out, today."""
    ended = access.listed_to(user, Batch.objects.filter(team=team))
    ended = ended.filter(state__in=[Batch.State.FAILED, Batch.State.EXPIRED])
    for batch in ended.filter(ended_at__gt=timezone.now() - timedelta(days=1)).order_by("-pk"):
        why = f": {batch.problem}" if batch.problem else "."
        yield Need(f"Batch {batch.name} {batch.state}{why}", reverse("batch", args=[batch.pk]))


def find(team: Team, user: User, query: str) -> list[Found]:
    """Pages, models, deployments, conversations, nodes and whatever others add, whose names hold `query`.

    What is private to others is not found.
    """
    query = query.strip()[:100]
    hits = chain(_own_finds(team, user, query), *(ask(team, query) for ask in FINDERS))
    return [hit for hit, _ in zip(hits, range(FOUND_AT_MOST), strict=False)]


def _own_finds(team: Team, user: User, query: str) -> Iterable[Found]:
    for item in navigation("/"):
        if query.lower() in item["title"].lower():
            yield Found(item["title"], "page", item["address"])
    running = Deployment.objects.filter(team=team).exclude(desired=Deployment.Desired.DELETED)
    for row in running.filter(name__icontains=query).order_by("-id")[:4]:
        yield Found(row.name, row.engine, reverse("deployment", args=[row.pk]))
    for model in Model.objects.filter(team=team, missing=False, name__icontains=query).order_by("name")[:4]:
        yield Found(model.name, "model", reverse("model", args=[model.pk]))
    talks = access.listed_to(user, Conversation.objects.filter(team=team, title__icontains=query))
    for talk in talks.order_by("-updated_at")[:4]:
        try:
            yield Found(talk.title, "conversation", reverse("conversation", args=[talk.pk]))
        except NoReverseMatch:
            return
    for data in Dataset.objects.filter(team=team, name__icontains=query).order_by("name")[:4]:
        yield Found(data.name, "dataset", reverse("dataset", args=[data.pk]))
    written = access.listed_to(user, Prompt.objects.filter(team=team, name__icontains=query))
    for prompt in written.order_by("name")[:4]:
        yield Found(prompt.name, "prompt", reverse("prompt", args=[prompt.pk]))
    asked = access.listed_to(user, Batch.objects.filter(team=team, name__icontains=query))
    for batch in asked.order_by("-pk")[:4]:
        yield Found(batch.name, "batch", reverse("batch", args=[batch.pk]))
    for node in Node.objects.filter(name__icontains=query).order_by("name")[:2]:
        yield Found(node.name, "node", reverse("nodes") + f"#node-{node.pk}")
