"""What a model's page shows of its kin: what it was made from, what was and may be made from it."""

from typing import Any

from playground import access, pairs, quantise, standing, ways
from playground.models import Model
from playground.views.request import Request


def panel(request: Request, model: Model) -> dict[str, Any]:
    """The whole panel."""
    return {
        "ways": [(tool, ways.RESULTS[tool], group) for tool, group in ways.by_tool(model)],
        "quantise_typed": {},
        "quantise_errors": {},
        "quantisers": access.holders("start", model.team),
        **live(request, model),
    }


def live(request: Request, model: Model) -> dict[str, Any]:
    """The part that changes as its jobs go on."""
    return {
        "parent": pairs.parent(model),
        "children": pairs.children(model),
        "quantising": [standing.job_line(job) for job in quantise.active(model)],
        "quantise_failed": quantise.failed(model),
        "may_quantise": access.can(request.user, "start", model.team),
    }
