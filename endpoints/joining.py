"""What the production side adds to the site's frame."""

from collections.abc import Iterable

from django.urls import reverse

from endpoints.models import ApiBatch, Endpoint, Release
from playground import batch_gates
from playground.frame import Found, Need, Section
from playground.models import Batch, Prompt, Shared, Team


def _endpoints(keys: list[str]) -> dict[str, str]:
    """Where the audit log finds them."""
    numbers = [int(key) for key in keys if key.isascii() and key.isdigit() and len(key) < 19]
    found = Endpoint.objects.filter(pk__in=numbers).values_list("pk", "name")
    return {str(pk): reverse("endpoints:detail", args=[name]) for pk, name in found}


def _keys(keys: list[str]) -> dict[str, str]:
    return dict.fromkeys(keys, reverse("endpoints:keys"))


PLACES = {"endpoint": _endpoints, "key": _keys}


def needs(team: Team) -> Iterable[Need]:
    """Endpoints whose newest release failed."""
    for endpoint in Endpoint.objects.filter(team=team):
        last = endpoint.releases.first()
        if last and last.state == Release.State.FAILED and endpoint.live is None:
            yield Need(
                f"{endpoint.name} has no live release", reverse("endpoints:detail", args=[endpoint.name])
            )


def find(team: Team, query: str) -> Iterable[Found]:
    """Endpoints by name."""
    for endpoint in Endpoint.objects.filter(team=team, name__icontains=query)[:5]:
        yield Found(endpoint.name, "endpoint", reverse("endpoints:detail", args=[endpoint.name]))


def section(team: Team) -> Section | None:
    """The endpoints on the home page, once there are any."""
    rows = Endpoint.objects.filter(team=team).select_related("live__configuration__model").order_by("name")
    return Section("endpoints/section.html", {"endpoints": rows}) if rows else None


def holds(row: Shared) -> str:
    """Why it cannot become private, since the team's keys reach it; empty where they do not."""
    if isinstance(row, Batch) and ApiBatch.objects.filter(batch=row).exists():
        return "It came by /v1/batches: every key of the team may read it."
    if isinstance(row, Prompt):
        named = Release.objects.filter(prompt_version__prompt=row).select_related("endpoint")
        if release := named.order_by("-id").first():
            where = f"Release {release.number} of {release.endpoint.name}"
            return f"{where} names it, and the team's keys may ask for it."
    return ""


# Rows of batches and their keys' limits: loaded by the processes that ask rows alone


async def gate(column: int) -> batch_gates.Gate | None:
    from endpoints import row_limits

    return await row_limits.opens(column)


async def leave_gates() -> None:
    from endpoints import row_limits

    await row_limits.closes()
