"""What would happen if columns that do not fit together were asked one after another, and asking for it.

A plan is worked out from rows, shown, and kept as a Measurement; `plan_runs` carries it out. Stages come from
`packing`, times from `expected`. A plan never stops what serves an endpoint, nor what somebody else started.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from playground import (
    access,
    asking,
    expected,
    packing,
    spending,
)
from playground.expected import Expected, Total
from playground.models import (
    Column,
    Conversation,
    Deployment,
    Replica,
    Team,
    User,
)
from playground.plan_ground import Ground
from playground.templatetags.figures import dollars

LOST = Replica.State.LOST


@dataclass(frozen=True)
class Verdict:
    """Whether all columns run, or could, at the same time. `why` not, in words."""

    fits: bool
    why: str = ""


@dataclass(frozen=True)
class Cost:
    """Of what is known of the time: dollars where every node has a price, GPU-seconds where GPUs are held."""

    dollars: float = 0.0
    gpu_s: float = 0.0
    priced: bool = True
    unknown: int = 0
    """How many parts of the time are not known."""

    @property
    def words(self) -> str:
        about = "at least" if self.unknown else "about"
        if not self.priced:
            return f"{about} {self.gpu_s:.0f} GPU-seconds, no price set" if self.gpu_s else "no price set"
        return f"{about} {dollars(self.dollars)}" if self.dollars else "not known" if self.unknown else "$0"


@dataclass(frozen=True)
class PlannedStop:
    deployment: Deployment
    time: Expected


@dataclass(frozen=True)
class PlannedStart:
    deployment: Deployment
    where: str
    time: Expected


@dataclass(frozen=True)
class Asked:
    """A column in its stage, and how long its answers will take."""

    column: Column
    time: Expected

    @property
    def name(self) -> str:
        return self.column.deployment.name if self.column.deployment else ""


@dataclass(frozen=True)
class PlannedStage:
    stops: tuple[PlannedStop, ...]
    starts: tuple[PlannedStart, ...]
    asked: tuple[Asked, ...]
    cost: Cost = Cost()

    @property
    def time(self) -> Total:
        changes = [*(stop.time for stop in self.stops), *(start.time for start in self.starts)]
        return expected.total([*changes, *(one.time for one in self.asked)])


@dataclass(frozen=True)
class Plan:
    stages: tuple[PlannedStage, ...]
    left_out: tuple[tuple[Column, str], ...] = ()
    offers: tuple[Deployment, ...] = ()
    """Others of this person's own that run, and that the plan may stop if they agree."""
    again: tuple[Deployment, ...] = ()
    """What runs now and is stopped on the way: started again at the end, unless that is not wanted."""
    waits: tuple[Deployment, ...] = ()
    """Columns' own that wait for room now: held back until their stage."""
    refusal: str = ""
    also: frozenset[int] = field(default_factory=frozenset)

    @property
    def time(self) -> Total:
        known = [stage.time for stage in self.stages]
        return Total(sum(time.seconds for time in known), sum(time.unknown for time in known))

    @property
    def cost(self) -> Cost:
        return _sum([stage.cost for stage in self.stages])

    @property
    def touches(self) -> set[int]:
        """Deployments that it starts or stops."""
        stopped = {stop.deployment.pk for stage in self.stages for stop in stage.stops}
        return stopped | {start.deployment.pk for stage in self.stages for start in stage.starts}

    @property
    def seal(self) -> str:
        """What it does, in short: a plan that was shown is the one that is run, or it is shown again."""
        return "/".join(
            "{}+{}:{}".format(
                *(
                    ",".join(map(str, keys))
                    for keys in (
                        [stop.deployment.pk for stop in stage.stops],
                        [start.deployment.pk for start in stage.starts],
                        [one.column.pk for one in stage.asked],
                    )
                )
            )
            for stage in self.stages
        )


# What would happen


def fits_together(columns: Sequence[Column], user: User | None = None) -> Verdict:
    """Whether every column's deployment runs, or could run, at the same time as what runs now."""
    chosen = {column.deployment_id for column in columns if column.deployment_id}
    if len(chosen) < 2 or _ready(chosen) == chosen:
        return Verdict(True)
    ground = Ground.of(columns, user)
    missing = packing.together(ground.parts, ground.rooms)
    if not missing:
        return Verdict(True)
    part, no_room = missing[0]
    return Verdict(False, ground.short(no_room) or f"{part.name}: {no_room.reason}")


def _ready(chosen: set[int]) -> set[int]:
    rows = Deployment.objects.filter(pk__in=chosen, replicas__state=Replica.State.READY)
    return set(rows.values_list("pk", flat=True))


def plan(conversation: Conversation, user: User, prompts: int = 1, also: Collection[int] = ()) -> Plan:
    """The stages in which all columns of `conversation` answer so many prompts each.

    `also`: others of the person's own deployments that may be stopped, by key.
    """
    columns = asking.columns_of(conversation)
    ground = Ground.of(columns, user)
    others = _others(conversation.team, user, ground)
    chosen = [row for row in others if row.pk in also]
    ground = ground.beside(chosen, user)
    extra = [ground.part_of[row.pk] for row in chosen]
    packed = packing.stages(ground.parts, ground.rooms, extra)
    stages = tuple(_stage(ground, stage, columns, prompts) for stage in packed.stages)
    left_out = [*_unasked(columns, ground), *ground.left_out(packed.left_out, columns)]
    stopped = [stop.deployment for stage in stages for stop in stage.stops]
    made = Plan(
        stages=stages,
        left_out=tuple(left_out),
        offers=tuple(others) if packed.left_out or chosen else (),
        again=tuple(row for row in stopped if ground.part_of[row.pk].runs),
        waits=tuple(row for row in ground.rows.values() if ground.waits(row)),
        also=frozenset(row.pk for row in chosen),
    )
    touches = bool(made.touches or made.waits or packed.left_out)
    return replace(made, refusal=_refusal(made, conversation, user, touches=touches))


def _refusal(made: Plan, conversation: Conversation, user: User, *, touches: bool) -> str:
    """Why this person may not run it, else empty. `touches`: it starts or stops models, or would have to."""
    team = conversation.team
    if not access.can(user, "chat", team):
        return f"To write here, ask an administrator of {team.name} for the role of member."
    if touches and not access.can(user, "start", team):
        people = ", ".join(person.get_username() for person in access.holders("start", team))
        asked = f"Ask {people}." if people else "Nobody in the team has it."
        return f"It starts and stops models, which needs the role of operator in {team.name}. {asked}"
    return "" if made.stages else "No column can be asked; the reasons stand above."


def _unasked(columns: Iterable[Column], ground: Ground) -> list[tuple[Column, str]]:
    found = []
    for column in columns:
        row = column.deployment
        if row is None or row.desired == Deployment.Desired.DELETED:
            found.append((column, "No model is chosen in this column."))
        elif row.pk not in ground.rows:
            found.append(
                (column, f"{row.name} serves an endpoint and does not run: see the endpoint's page.")
            )
    return found


def _others(team: Team, user: User, ground: Ground) -> list[Deployment]:
    """The person's own deployments that run and are in no column."""
    rows = Deployment.objects.filter(
        team=team, created_by=user, released=False, desired=Deployment.Desired.RUNNING
    ).exclude(pk__in=ground.rows)
    holding = rows.filter(replicas__state__in=Replica.HOLDING).exclude(replicas__state=LOST)
    return list(holding.select_related("model", "configuration").distinct().order_by("name"))


# Parts


def _stage(ground: Ground, stage: packing.Stage, columns: Sequence[Column], prompts: int) -> PlannedStage:
    starts = []
    for start in stage.starts:
        row = ground.rows[start.part.key]
        starts.append(PlannedStart(row, ground.where(start.placements), expected.start(row)))
    keys = {part.key for part in stage.parts}
    mine = [column for column in columns if column.deployment_id in keys]
    asked = tuple(Asked(column, expected.answer(column, prompts)) for column in mine)
    rows = [ground.rows[part.key] for part in stage.stops]
    stops = tuple(PlannedStop(row, expected.stop(row)) for row in rows)
    made = PlannedStage(stops, tuple(starts), asked)
    return replace(made, cost=_cost(ground, stage, made.time))


def _cost(ground: Ground, stage: packing.Stage, time: Total) -> Cost:
    """What the stage's deployments hold, for as long as the stage takes as far as that is known."""
    held = ground.held(stage)
    prices = [spending.per_second(Replica(resources=what), node) for node, what in held]
    known = [float(price) for price in prices if price is not None]
    gpus = sum(len(what.get("gpus") or []) for _, what in held)
    return Cost(sum(known) * time.seconds, gpus * time.seconds, len(known) == len(prices), time.unknown)


def _sum(costs: Sequence[Cost]) -> Cost:
    return Cost(
        sum(cost.dollars for cost in costs),
        sum(cost.gpu_s for cost in costs),
        all(cost.priced for cost in costs),
        sum(cost.unknown for cost in costs),
    )
