"""Who holds the machines, and who waits for them: a person's own teams by name, all others as "another team".

Reads rows only. What is another team's carries no name, owner, model or engine, in no field.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import QuerySet

from playground import placement as places
from playground import wants
from playground.models import Deployment, Node, Replica, Team, User

ANOTHER = "another team"


@dataclass(frozen=True)
class Holder:
    """What one replica holds of a node. `deployment` None: another team's. Bytes."""

    deployment: Deployment | None
    team: str
    """Its team's name where the person is in it but works in another now."""
    owner: str
    state: str
    node: str
    gpus: tuple[int, ...]
    cores: int | None
    memory_bytes: int | None
    idle_since: datetime | None
    """Null while it answers, or when it was never used."""
    busy: bool

    @property
    def name(self) -> str:
        return self.deployment.name if self.deployment else ANOTHER


def of(user: User, team: Team, rows: Iterable[Replica]) -> list[Holder]:
    """Each of `rows`, which come with deployment, its team and owner, and node, as `user` may see it."""
    mine = set(user.memberships.values_list("team", flat=True))
    return [_holder(row, team, known=row.deployment.team_id in mine) for row in rows]


def on(user: User, team: Team, node: Node) -> list[Holder]:
    """What is held of one node."""
    return of(user, team, _holding().filter(node=node))


def everywhere(user: User, team: Team) -> list[Holder]:
    """What is held of all nodes."""
    return of(user, team, _holding())


def of_others(user: User, team: Team) -> list[Holder]:
    """What teams hold in which the person does not work now."""
    return of(user, team, _holding().exclude(deployment__team=team))


def _holding() -> QuerySet[Replica]:
    rows = Replica.objects.filter(state__in=Replica.HOLDING)
    whole = rows.select_related("node", "deployment__team", "deployment__created_by", "deployment__model")
    return whole.order_by("node__name", "pk")


def _holder(row: Replica, team: Team, *, known: bool) -> Holder:
    deployment, held, health = row.deployment, row.resources, row.health
    owner = deployment.created_by
    busy = bool(health.get("running"))
    return Holder(
        deployment=deployment if known else None,
        team=deployment.team.name if known and deployment.team_id != team.pk else "",
        owner=owner.get_username() if known and owner else "",
        state=row.state,
        node=row.node.name if row.node else "",
        gpus=tuple(gpu["index"] for gpu in held.get("gpus") or []),
        cores=held.get("cores"),
        memory_bytes=health.get("gpu_bytes") or health.get("rss_bytes") or held.get("memory_bytes"),
        idle_since=None if busy else deployment.last_used_at,
        busy=busy,
    )


# The queue


@dataclass(frozen=True)
class Queue:
    """Why a start finds no room now, whom it waits behind, and who holds what it would need."""

    why: str
    ahead: list[str]
    holders: list[Holder]


def before(user: User, row: Deployment) -> Queue | None:
    """The queue for a deployment that is about to be made, not saved yet; None while there is room."""
    asked = [(wants.want(row, node), wants.room(row, node)) for node in wants.accepting()]
    found = places.place([(want, room) for want, room in asked if want is not None])
    if not isinstance(found, places.NoRoom):
        return None
    return Queue(found.reason, ahead(user, None), everywhere(user, row.team))


def behind(user: User, row: Deployment, why: str) -> Queue:
    """The queue a waiting deployment stands in."""
    return Queue(why, ahead(user, row), everywhere(user, row.team))


def ahead(user: User, row: Deployment | None) -> list[str]:
    """Names of those that get a place first: what waits is looked at in the order it was made."""
    mine = set(user.memberships.values_list("team", flat=True))
    waiting = Deployment.objects.filter(
        replicas__state=Replica.State.PENDING, desired=Deployment.Desired.RUNNING
    )
    earlier = waiting.filter(pk__lt=row.pk) if row else waiting
    return [one.name if one.team_id in mine else ANOTHER for one in earlier.order_by("pk").distinct()]
