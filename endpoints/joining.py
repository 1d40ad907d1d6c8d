"""What the production side adds to the site's frame."""

from collections.abc import Iterable

from django.urls import reverse

from endpoints.models import Endpoint, Release
from playground.frame import Found, Need
from playground.models import Team


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
