"""What a model's page shows beside its Start form: its LoRA adapters, and code of its own."""

from collections.abc import Collection
from typing import Any

from playground import access, adapters, own_code, standing
from playground.engines.base import Engine, Verdict
from playground.models import Adapter, Job, Model
from playground.views.request import Request


def attachable(model: Model, engine: Engine, asked: Collection[str]) -> list[tuple[Adapter, Verdict, bool]]:
    """The model's adapters for that engine's form: each with whether it can, and whether it is picked."""
    return [
        (row, verdict, verdict.ok and str(row.pk) in asked) for row, verdict in adapters.offers(model, engine)
    ]


def code_note(request: Request, model: Model) -> dict[str, Any]:
    """What stands on its page of code of its own: that it may run, or where it can be read and allowed."""
    return {
        "own_code": own_code.of(model) if model.refused else None,
        "may_allow_code": access.can(request.user, "allow code", model.team),
    }


def adapters_panel(request: Request, model: Model) -> dict[str, Any]:
    """The model's adapters with who uses each, and what in the folder could be added."""
    rows = list(model.adapters.order_by("name"))
    may_add = access.can(request.user, "add models", model.team)
    found = adapters.found(model.team) if may_add else []
    return {
        "adapters": [_adapter(row) for row in rows],
        "on_the_hub": bool(model.origin.get("repo")),
        "unattached": [one for one in found if not one.refused],
        "odd_adapters": [one for one in found if one.refused],
        "may_add_adapters": may_add,
        "may_remove_adapters": access.can(request.user, "remove models", model.team),
        "adapter_typed": {},
    }


def _adapter(row: Adapter) -> dict[str, Any]:
    """One adapter: who uses it, and how its fetching stands."""
    job = adapters.newest_job(row) if row.files else None
    return {
        "row": row,
        "users": adapters.users_of(row),
        "line": standing.job_line(job) if job and job.state in Job.ACTIVE else None,
        "failed": job if job and job.state == Job.State.FAILED and not row.digest else None,
        "waits": bool(row.files) and not row.digest,
    }
