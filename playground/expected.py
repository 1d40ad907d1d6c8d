"""How long a start, a stop and an answer will likely take, by those before; else it is not known."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from django.db.models import F, QuerySet

from playground import catalogue, engines, leases
from playground.models import Column, Deployment, Generation, Replica, Start
from playground.templatetags.figures import duration

# The last ones of which the median is taken.
EARLIER = 9
# A web process looks once a second for answers that nobody took for so long.
HANDOVER_S = leases.ADOPT_S + 1.0
# A model is of like size when its weights have between half and twice the bytes.
LIKE = 2.0


@dataclass(frozen=True)
class Expected:
    """Seconds; None is not known. `about`: taken from something like it, not from the same."""

    seconds: float | None = None
    about: bool = False

    @property
    def words(self) -> str:
        if self.seconds is None:
            return "not known"
        return f"about {duration(self.seconds)}" if self.about else duration(self.seconds)


@dataclass(frozen=True)
class Total:
    """The sum of what is known. `unknown`: how many parts are not."""

    seconds: float = 0.0
    unknown: int = 0

    @property
    def words(self) -> str:
        if not self.seconds:
            return "not known" if self.unknown else duration(0)
        return f"at least {duration(self.seconds)}" if self.unknown else f"about {duration(self.seconds)}"


def total(parts: Iterable[Expected]) -> Total:
    known = list(parts)
    return Total(sum(part.seconds or 0.0 for part in known), sum(part.seconds is None for part in known))


def start(deployment: Deployment) -> Expected:
    """From its process's start to ready: by starts of the same configuration, else of one like it."""
    same = Start.objects.filter(configuration=deployment.configuration_id)
    if deployment.configuration_id and (
        times := _last(same.order_by("-pk").values_list("ready_s", flat=True))
    ):
        return Expected(median(times))
    size = _size(deployment)
    if not size:
        return Expected()
    like = Start.objects.filter(
        configuration__engine=deployment.engine,
        configuration__format__size_bytes__gte=size / LIKE,
        configuration__format__size_bytes__lte=size * LIKE,
    )
    times = _last(like.order_by("-pk").values_list("ready_s", flat=True))
    return Expected(median(times), about=True) if times else Expected()


def stop(deployment: Deployment) -> Expected:
    """From the wish to the end of its process: by stops of the same configuration, else of its engine."""
    ended = Replica.objects.filter(drain_at__isnull=False, ended_at__gt=F("drain_at"))
    same = ended.filter(configuration=deployment.configuration_id) if deployment.configuration_id else None
    if same is not None and (times := _stops(same)):
        return Expected(median(times))
    times = _stops(ended.filter(deployment__engine=deployment.engine))
    return Expected(median(times), about=True) if times else Expected()


def answer(column: Column, prompts: int) -> Expected:
    """So many answers in it, by earlier whole answers of the same configuration; always about.

    To each comes the moment until a web process takes it.
    """
    deployment = column.deployment
    if deployment is None:
        return Expected()
    rows = Generation.objects.filter(
        state=Generation.State.COMPLETE,
        timings__e2e__gt=0,
        turn__conversation__team=column.conversation.team_id,
    )
    if deployment.configuration_id:
        rows = rows.filter(configuration=deployment.configuration_id)
    else:
        rows = rows.filter(column__deployment=deployment)
    times = _last(rows.order_by("-pk").values_list("timings__e2e", flat=True))
    return Expected((median(times) / 1000 + HANDOVER_S) * prompts, about=True) if times else Expected()


def _stops(rows: QuerySet[Replica]) -> list[float]:
    times = rows.order_by("-pk").values_list("drain_at", "ended_at")[:EARLIER]
    return [(ended - drained).total_seconds() for drained, ended in times if ended and drained]


def _last(times: Iterable[float]) -> list[float]:
    return [float(time) for time, _ in zip(times, range(EARLIER), strict=False)]


def _size(deployment: Deployment) -> int | None:
    """Bytes of the weights that it loads, where that is known."""
    if deployment.configuration:
        return deployment.configuration.format.size_bytes
    adapter = engines.get(deployment.engine)
    row, _ = catalogue.choose(deployment.model, adapter, deployment.wanted.get("form"))
    return row.size_bytes if row else None
