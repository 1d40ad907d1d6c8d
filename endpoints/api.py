"""The management API's production side: endpoints, releases, keys."""

from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet
from django.http import Http404
from django.utils import timezone
from ninja import Query, Schema
from pydantic import Field

from endpoints import keys, launches, promotion, usage_report
from endpoints.models import ApiKey, Endpoint, Release
from playground import access, webhooks
from playground.api.answers import Given, Problem
from playground.api.caller import BIGGEST, SAFE, Request, Where, Window, cut, fetch, paged, team_of, visible
from playground.api.routes import Routes
from playground.api.shapes import Page, Row, person
from playground.models import Deployment

router = Routes(tags=["endpoints and keys"])
REFUSED: dict[type[Exception], int] = {
    promotion.PromotionRefused: 422,
    promotion.PromotionConflict: 409,
    launches.LaunchRefused: 422,
    keys.KeyRefused: 422,
    usage_report.PeriodRefused: 422,
}


class ReleaseShown(Schema):
    """A configuration that was promoted, when, by whom and on what evidence."""

    number: int
    state: str
    configuration: str = Field(description="Its digest.")
    model: str
    engine: str
    deployment: int
    sampling: dict[str, Any]
    prompt_version: int | None
    evidence: dict[str, Any]
    note: str
    problem: str
    created_by: str | None
    created_at: datetime

    @staticmethod
    def resolve_configuration(row: Release) -> str:
        return row.configuration.digest

    @staticmethod
    def resolve_model(row: Release) -> str:
        return row.configuration.model.name

    @staticmethod
    def resolve_engine(row: Release) -> str:
        return row.configuration.engine

    @staticmethod
    def resolve_deployment(row: Release) -> int:
        return row.deployment_id

    @staticmethod
    def resolve_prompt_version(row: Release) -> int | None:
        return row.prompt_version_id

    @staticmethod
    def resolve_created_by(row: Release) -> str | None:
        return person(row.created_by)


class EndpointShown(Row):
    """A production name and the release it serves from."""

    name: str
    live: int | None = Field(description="The live release's number.")
    log_share: float = Field(description="Of how many requests the texts are kept, 0 to 1.")
    log_days: int

    @staticmethod
    def resolve_live(row: Endpoint) -> int | None:
        return row.live.number if row.live else None


class Promotion(Given):
    """What to promote, as what."""

    deployment: int = Field(ge=1, le=BIGGEST, description="What was tried, and is ready now.")
    endpoint: str = Field(max_length=80)
    sampling: dict[str, float | int] = Field({}, description="Defaults; a client's own values win.")
    note: str = Field("", max_length=2000)
    prompt: str = Field("", max_length=200, description="What it was tested with: support-triage@7.")
    in_place: bool = Field(False, description="Hand over the running replica: no second one starts.")


class Back(Given):
    """To which release; absent: the last good one."""

    release: int | None = Field(None, ge=1, le=2**31 - 1)


class KeyShown(Row):
    """A key for /v1, without its secret."""

    name: str
    prefix: str
    scopes: list[str]
    endpoints: list[str]
    routes: list[str]
    limits: dict[str, Any]
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class KeyGiven(Given):
    """What a key may do."""

    name: str = Field(max_length=80)
    scopes: list[str] = Field(["endpoints"], max_length=10)
    endpoints: list[str] = Field([], max_length=200, description="None: all.")
    routes: list[str] = Field([], max_length=50, description="/v1/embeddings, …; none: all.")
    limits: dict[str, float] = Field({}, description="requests_minute, tokens_day, spend_day, …")
    expires_at: datetime | None = None


class KeyChange(Given):
    """What is absent stays."""

    name: str | None = Field(None, max_length=80)
    scopes: list[str] | None = Field(None, max_length=10)
    endpoints: list[str] | None = Field(None, max_length=200)
    routes: list[str] | None = Field(None, max_length=50)
    limits: dict[str, float] | None = None
    expires_at: datetime | None = None


class Overlap(Given):
    """How long the old secret works on."""

    hours: float = Field(24, ge=0, le=24 * 30)


class UsageShown(Schema):
    """What one group of one source came to. Times to first token in milliseconds, cost in dollars."""

    label: str
    source: str
    requests: int
    errors: int
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    gpu_s: float | None
    core_s: float | None
    cost: float | None
    unpriced: int
    ttft_p50: float | None
    ttft_p95: float | None


class SecretMade(Schema):
    """What is told this once."""

    secret: str


class KeyMade(KeyShown):
    """With its secret, which is told this once."""

    secret: str


@router.reads("/endpoints", Page[EndpointShown])
def listing(request: Request, window: Query[Window]) -> Any:
    """The team's endpoints, newest first."""
    return paged(visible(request, _rows(), team_of(request, window)), window)


@router.reads("/endpoints/{name}", EndpointShown, of=Endpoint)
def read(request: Request, name: str, where: Query[Where]) -> Any:
    """One endpoint."""
    return endpoint_of(request, name, where)


@router.reads("/endpoints/{name}/releases", Page[ReleaseShown], of=Endpoint)
def releases(request: Request, name: str, window: Query[Window]) -> Any:
    """Its releases, newest first; `after` is a number."""
    found = _releases(endpoint_of(request, name, window)).order_by("-number")
    found = found.filter(number__lt=window.after) if window.after else found
    return cut(list(found[: window.limit + 1]), window, key="number")


@router.writes("POST", "/endpoints", ReleaseShown, needs="promote", of=Deployment, status=201)
def promote(request: Request, given: Promotion) -> Any:
    """Begin to launch what a deployment runs; the release is live once it is ready. Read it until then."""
    running = Deployment.objects.exclude(desired=Deployment.Desired.DELETED).select_related("team")
    row = fetch(request, running, given.deployment, "promote")
    typed = {key: str(value) for key, value in given.sampling.items() if key in launches.SAMPLING}
    if unknown := sorted(set(given.sampling) - set(launches.SAMPLING)):
        raise launches.LaunchRefused({f"sampling.{unknown[0]}"[:80]: "A release has no such default."})
    typed |= {"endpoint": given.endpoint, "note": given.note, "prompt": given.prompt}
    typed |= {"in_place": "1" if given.in_place else ""}
    made = launches.launch(row, request.auth.user, typed)
    return _releases(made.endpoint).get(pk=made.pk)


@router.writes("POST", "/endpoints/{name}/rollback", ReleaseShown, needs="promote", of=Endpoint)
def rollback(request: Request, name: str, where: Query[Where], given: Back) -> Any:
    """Serve from an earlier release again."""
    row = endpoint_of(request, name, where, "promote")
    to = None if given.release is None else _release(row, given.release)
    return _releases(row).get(pk=promotion.rollback(row, request.auth.user, to).pk)


@router.writes("POST", "/endpoints/{name}/releases/{number}/stop", ReleaseShown, needs="promote", of=Endpoint)
def stop(request: Request, name: str, number: int, where: Query[Where]) -> Any:
    """Stop a release that is still starting. What is live stays live."""
    row = _release(endpoint_of(request, name, where, "promote"), number)
    promotion.stop(row, request.auth.user)
    return _releases(row.endpoint).get(pk=row.pk)


@router.writes("POST", "/endpoints/{name}/offline", EndpointShown, needs="promote", of=Endpoint)
def offline(request: Request, name: str, where: Query[Where]) -> Any:
    """Serve nothing under this name. The history stays."""
    row = endpoint_of(request, name, where, "promote")
    promotion.take_offline(row, request.auth.user)
    return _rows().get(pk=row.pk)


@router.reads("/keys", Page[KeyShown])
def keys_list(request: Request, window: Query[Window]) -> Any:
    """The team's API keys, revoked ones too."""
    rows = ApiKey.objects.select_related("team", "created_by")
    return paged(visible(request, rows, team_of(request, window)), window)


@router.writes("POST", "/keys", KeyMade, needs="keys", status=201)
def key_make(request: Request, where: Query[Where], given: KeyGiven) -> Any:
    """A new key. Its secret is in this answer and nowhere else."""
    team = team_of(request, where, "keys")
    may = {"endpoints": given.endpoints, "routes": given.routes}
    ends, limits = _moment(given.expires_at), _limits(given.limits)
    row, secret = keys.make(team, request.auth.user, given.name, given.scopes, ends, limits=limits, **may)
    row.secret = secret  # type: ignore[attr-defined]
    return row


@router.writes("PATCH", "/keys/{pk}", KeyShown, needs="keys", of=ApiKey)
def key_change(request: Request, pk: int, given: KeyChange) -> Any:
    """Let it be called so and do this from now on."""
    row = fetch(request, ApiKey.objects.select_related("team", "created_by"), pk, "keys")
    kept = {name: getattr(row, name) for name in KeyChange.model_fields}
    wanted = {name: value for name, value in given.dict().items() if value is not None}
    if "limits" in wanted:
        wanted["limits"] = _limits(wanted["limits"])
    if "expires_at" in given.model_fields_set:
        wanted["expires_at"] = _moment(given.expires_at)
    return keys.change(row, request.auth.user, **kept | wanted)


@router.writes("POST", "/keys/{pk}/rotate", KeyMade, needs="keys", of=ApiKey, status=201)
def key_rotate(request: Request, pk: int, given: Overlap) -> Any:
    """A new secret in its place; the old one works on for a while. Both share the limits."""
    row = fetch(request, ApiKey.objects.select_related("team"), pk, "keys")
    fresh, secret = keys.rotate(row, request.auth.user, timedelta(hours=given.hours))
    fresh.secret = secret  # type: ignore[attr-defined]
    return fresh


@router.writes("POST", "/webhook-secret", SecretMade, needs="keys", status=201)
def webhook_secret(request: Request, where: Query[Where]) -> Any:
    """A new secret that signs the team's webhooks. It is in this answer and nowhere else."""
    return {"secret": webhooks.renew_secret(team_of(request, where, "keys"), request.auth.user)}


@router.reads("/usage", list[UsageShown])
def usage(
    request: Request,
    where: Query[Where],
    by: str = "day",
    period: str = "7",
    first: str = "",
    last: str = "",
) -> Any:
    """What the team used, by person, key, endpoint, model, engine or day. `period`: today, 7, 30, custom."""
    team = team_of(request, where)
    if by not in usage_report.GROUPS:
        raise Problem(422, "invalid", f"One of {', '.join(usage_report.GROUPS)}.", "by")
    when = usage_report.period(period, first, last)
    return usage_report.report(team, when, by).lines[: usage_report.MOST_ROWS]


@router.writes("DELETE", "/keys/{pk}", None, needs="keys", of=ApiKey)
def key_revoke(request: Request, pk: int) -> Any:
    """Refuse it from now on, everywhere within seconds."""
    row = fetch(request, ApiKey.objects.select_related("team"), pk, "keys")
    keys.revoke(row, request.auth.user)


def _limits(given: dict[str, float]) -> dict[str, float]:
    """Whole numbers as such: JSON tells them apart no more than it has to."""
    return {name: int(value) if value == int(value) else value for name, value in given.items()}


def _moment(ends: datetime | None) -> datetime | None:
    """One without a zone is by UTC."""
    return timezone.make_aware(ends) if ends is not None and timezone.is_naive(ends) else ends


def _rows() -> QuerySet[Endpoint]:
    return Endpoint.objects.select_related("team", "created_by", "live__deployment")


def endpoint_of(request: Request, name: str, where: Where, needs: str = "view") -> Endpoint:
    """The team's endpoint of that name. A write to one that is not there leaves an audit row."""
    team = team_of(request, where)
    found = visible(request, _rows().filter(name=name), team).first()
    if found is None:
        if request.method not in SAFE:
            access.audit(request.auth.user, None, "refused write", f"endpoint:{name}")
        raise Http404("no such endpoint")
    access.require(request.auth.user, needs, found)
    return found


def _releases(row: Endpoint) -> QuerySet[Release]:
    return row.releases.select_related("configuration__model", "created_by", "endpoint__team", "deployment")


def _release(row: Endpoint, number: int) -> Release:
    found = _releases(row).filter(number=number).first()
    if found is None:
        raise Http404("no such release")
    return found
