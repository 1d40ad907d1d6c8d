"""How alike two answers are in meaning: the cosine of their vectors, by a model of the team that embeds."""

from dataclasses import dataclass
from typing import Any

from playground import deployments, engine_client, widgets
from playground.engine_client import EngineError
from playground.engines.base import PATHS
from playground.kinds import EMBEDDING
from playground.models import Deployment, Replica, Team
from playground.orm import orm

NONE = "No embedding model runs: start one, and answers can be compared by meaning."
EMBED_S = 30.0


@dataclass(frozen=True)
class Alike:
    """The cosine of two texts' vectors, -1 to 1, and the model that made them; or `why` there is none."""

    cosine: float | None = None
    model: str = ""
    why: str = ""


def embedder(team: Team) -> Replica | None:
    """A ready replica of the team's newest deployment that embeds."""
    rows = Deployment.objects.filter(team=team, model__task=EMBEDDING).select_related("model")
    for row in rows.exclude(desired=Deployment.Desired.DELETED).order_by("-pk"):
        if ready := deployments.ready_replicas(row):
            return ready[0]
    return None


async def alike(team: Team, a: str, b: str) -> Alike:
    """How alike two texts are; one request to the embedding model."""
    if not a.strip() or not b.strip():
        return Alike(why="An empty answer has no meaning to compare.")
    replica = await orm(embedder, team)
    if replica is None:
        return Alike(why=NONE)
    name = await orm(lambda: f"{replica.deployment.model.name} ({replica.deployment.name})")
    asked = {"input": [a, b]}
    try:
        target = engine_client.target(replica)
        body: dict[str, Any] = {"model": target.served_name, **asked}
        found = await engine_client.complete(target, PATHS[EMBEDDING], body, first_byte_s=EMBED_S)
        result, _ = widgets.read(EMBEDDING, asked, found)
    except (EngineError, widgets.Malformed) as problem:
        return Alike(model=name, why=f"{name} did not embed them: {problem}")
    cosine = result["similarity"][0][1]
    return Alike(cosine, name, "" if cosine is not None else "One of the vectors has no direction.")
