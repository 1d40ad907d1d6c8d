"""Engines and the machines they are installed on, and long work there."""

from decimal import Decimal
from typing import Any

from django.http import Http404
from ninja import Query, Schema
from pydantic import Field

from playground import engines, environments, frame, holders, jobs
from playground import nodes as machines
from playground.api.answers import Given, Problem
from playground.api.caller import Request, Where, Window, fetch, paged, team_of, visible
from playground.api.routes import Routes
from playground.api.shapes import HolderShown, JobShown, NodePriced, NodeShown, Page
from playground.models import EngineEnvironment, Job, Node

router = Routes(tags=["engines and nodes"])


class EngineShown(Schema):
    """An engine that can be installed or asked."""

    name: str
    title: str
    elsewhere: bool = Field(description="It is asked on somebody else's server, and never installed.")
    options: dict[str, Any] = Field(description="JSON Schema of its options.")


class EngineWanted(Given):
    """An engine, and which version."""

    engine: str = Field(max_length=30)
    version: str | None = Field(None, max_length=40, description="Absent: the one Slipway names.")


class Installing(Schema):
    """The job that installs it; none when it is there already."""

    environment: int | None
    job: JobShown | None


class Price(Given):
    """What an hour costs; null is unknown."""

    price_per_hour: Decimal | None = Field(ge=0, max_digits=10, decimal_places=4)


@router.reads("/engines", list[EngineShown])
def engines_list(request: Request, where: Query[Where]) -> Any:
    """Every engine Slipway knows, with its options."""
    team_of(request, where)
    return [
        {
            "name": one.name,
            "title": one.title,
            "elsewhere": one.is_elsewhere,
            "options": one.Options.model_json_schema(),
        }
        for one in engines.all()
    ]


@router.reads("/nodes", list[NodeShown])
def nodes_list(request: Request, where: Query[Where]) -> Any:
    """Every machine. Machines belong to no team."""
    team_of(request, where)
    return [_node(node) for node in Node.objects.order_by("name")]


@router.reads("/nodes/holders", list[HolderShown])
def holders_list(request: Request, where: Query[Where]) -> Any:
    """What runs hold of all machines, another team's without its name."""
    return holders.everywhere(request.auth.user, team_of(request, where))


@router.writes("PATCH", "/nodes/{pk}", NodePriced, needs="price", of=Node)
def price(request: Request, pk: int, where: Query[Where], given: Price) -> Any:
    """Change what an hour of it costs."""
    team = team_of(request, where, "price")
    node = _found(Node, pk, "node")
    machines.set_price(node, given.price_per_hour, request.auth.user, team)
    node.refresh_from_db()
    return node


@router.writes("POST", "/nodes/{pk}/environments", Installing, needs="install", of=Node, status=202)
def install(request: Request, pk: int, where: Query[Where], given: EngineWanted) -> Any:
    """Install an engine there."""
    team = team_of(request, where, "install")
    node = _found(Node, pk, "node")
    known = engines.get(given.engine)
    if known.is_elsewhere:
        raise Problem(422, "invalid", f"{known.title} is asked on its own server.", "engine")
    made = environments.ensure(node, given.engine, given.version, team=team, user=request.auth.user)
    if isinstance(made, Job):
        return {"environment": None, "job": made}
    return {"environment": made.pk, "job": None}


@router.writes(
    "DELETE", "/nodes/{pk}/environments/{environment}", JobShown, needs="install", of=Node, status=202
)
def uninstall(request: Request, pk: int, environment: int, where: Query[Where]) -> Any:
    """Remove an engine's version from there."""
    team = team_of(request, where, "install")
    node, row = _found(Node, pk, "node"), _found(EngineEnvironment, environment, "environment")
    return environments.remove(row, node, team, request.auth.user)


@router.reads("/jobs", Page[JobShown])
def jobs_list(request: Request, window: Query[Window], active: bool = False) -> Any:
    """The team's long work: installs, downloads, conversions, measurements."""
    team = team_of(request, window)
    rows = visible(request, Job.objects.select_related("team", "created_by", "node"), team)
    return paged(rows.filter(state__in=Job.ACTIVE) if active else rows, window)


@router.reads("/jobs/{pk}", JobShown, of=Job)
def job(request: Request, pk: int) -> Any:
    """One job."""
    return fetch(request, Job.objects.select_related("team", "created_by", "node"), pk)


@router.writes("POST", "/jobs/{pk}/cancel", JobShown, needs="start", of=Job)
def cancel(request: Request, pk: int) -> Any:
    """Ask for its end; one that has ended stays as it is. Installs are for site administrators."""
    row = fetch(request, Job.objects.select_related("team", "created_by", "node"), pk)
    jobs.require_cancel(row, request.auth.user)
    jobs.cancel(row, request.auth.user)
    row.refresh_from_db()
    return row


def _found[Row: (Node, EngineEnvironment)](kind: type[Row], pk: int, name: str) -> Row:
    row = kind.objects.filter(pk=pk).first()
    if row is None:
        raise Http404(f"no such {name}")
    return row


def _node(node: Node) -> dict[str, Any]:
    found = node.inventory
    held = EngineEnvironment.objects.filter(digest__in=found.get("environments") or [])
    told = {name: found.get(name) for name in ("cores", "memory_bytes", "memory_available_bytes")}
    names = ("name", "accepting", "heartbeat_at")
    return {
        "id": node.pk,
        **{name: getattr(node, name) for name in names},
        **told,
        "live": frame.is_live(node),
        "price_per_hour": None if node.price_per_hour is None else str(node.price_per_hour),
        "gpus": found.get("gpus") or [],
        "environments": held.order_by("engine", "-pk"),
    }
