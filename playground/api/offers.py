"""What a start would be, asked beforehand: which engines can, what it takes, whether it fits, the command."""

from typing import Any

from django.db.models import QuerySet
from ninja import Schema
from pydantic import Field

from playground import access, catalogue, engines, fitting, options, preview
from playground.api.answers import Problem
from playground.api.caller import Request, fetch
from playground.api.deployments import StartOptions
from playground.api.routes import Routes
from playground.models import Model

router = Routes(tags=["deployments"])


class OfferShown(Schema):
    """What one engine says of a model on the roomiest node."""

    engine: str
    can: bool
    fits: bool | None = Field(description="Null where something is not known.")
    words: str
    needs_bytes: int | None
    free_bytes: int | None
    node: str | None


class StartGiven(StartOptions):
    """A start, as POST /deployments takes it."""

    engine: str = Field(max_length=30)
    extra: list[tuple[str, str]] = Field([], max_length=50, description="For site administrators.")


class EstimateShown(OfferShown):
    """What that start would take, in bytes over all its GPUs. Null is not known, and never guessed."""

    options: dict[str, Any] = Field(description="Those that are right.")
    problems: dict[str, str] = Field(description="A sentence for each option that is wrong.")
    weights_bytes: int | None
    kv_cache_bytes: int | None
    overhead_bytes: int | None
    measured: bool = Field(description="Put right by the last start of the same configuration.")
    command: list[str] = Field(description="What would run; the port is open.")


@router.reads("/models/{pk}/offers", list[OfferShown], of=Model)
def offers(request: Request, pk: int) -> Any:
    """Which engines can run it by their defaults, and whether there is room now."""
    row = fetch(request, _rows(), pk)
    return [] if row.refused or row.missing else [_offer(one) for one in fitting.offers(row)]


@router.writes("POST", "/models/{pk}/estimate", EstimateShown, needs="view", of=Model)
def estimate(request: Request, pk: int, given: StartGiven) -> Any:
    """What a start would take and run. Nothing is started, and nothing is kept."""
    row = fetch(request, _rows(), pk)
    if row.refused or row.missing:
        raise Problem(409, "conflict", row.refused or f"{row.name} is not in the catalogue any more.")
    engine = engines.get(given.engine)
    form = row.formats.filter(pk=given.form).first() if given.form else catalogue.choose(row, engine)[0]
    if given.form and form is None:
        raise Problem(422, "invalid", "The model has no such form.", "form")
    node = fitting.roomiest()
    found = preview.of(
        row,
        engine,
        given.options,
        node,
        version=given.version or fitting.version_of(engine, node),
        form=form.pk if form else None,
        gpus=given.gpus,
        attached=list(row.adapters.filter(pk__in=given.adapters).order_by("name")),
        extra=_extra(request, row, given),
    )
    return _offer(found.offer) | _reckoned(found)


def _extra(request: Request, row: Model, given: StartGiven) -> list[str]:
    if not given.extra:
        return []
    access.require(request.auth.user, "extra arguments", row.team)
    added, why = options.judge_extra(given.engine, given.extra)
    if why:
        raise Problem(422, "invalid", why, "extra")
    return added


def _reckoned(found: preview.Preview) -> dict[str, Any]:
    taken = found.offer.estimate
    return {
        "options": found.options,
        "problems": found.problems,
        "weights_bytes": taken.weights if taken else None,
        "kv_cache_bytes": taken.kv_cache if taken else None,
        "overhead_bytes": taken.overhead if taken else None,
        "measured": found.offer.start is not None,
        "command": found.command,
    }


def _offer(one: fitting.Offer) -> dict[str, Any]:
    return {
        "engine": one.adapter.name,
        "can": one.ok,
        "fits": one.fits,
        "words": one.words,
        "needs_bytes": one.estimate.total if one.estimate else None,
        "free_bytes": one.free,
        "node": one.node.name if one.node else None,
    }


def _rows() -> QuerySet[Model]:
    return Model.objects.select_related("team")
