"""Which deployment a batch's model names: an endpoint's live release, or `deployment/<id>`.

Held on to from then on: a release that another takes the place of goes on until the batch has ended.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from endpoints import protocol
from endpoints.batch_lines import LineError
from endpoints.models import Endpoint, Release
from playground import access, adapters, engines
from playground.models import Deployment, Team, User


@dataclass(frozen=True)
class Found:
    deployment: Deployment
    adapter: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    release: Release | None = None


def find(
    team: Team,
    user: User | None,
    scopes: Collection[str],
    model: str,
    endpoint: str,
    *,
    names: Collection[str] = (),
) -> Found:
    """Who answers; LineError where the key may not ask it, nobody does, or it is for something else.

    `names`: what the key may call; empty: all.
    """
    name, _, adapter = model.partition(":")
    scope = "playground" if "/" in name else "endpoints"
    if scope not in scopes:
        raise _wrong("missing_scope", f"The key lacks the scope {scope!r}.")
    if names and name not in names:
        raise _wrong("model_not_allowed", "The key may not call that model.")
    found = _deployment(team, user, name) if "/" in name else _endpoint(team, name)
    if found is None or (adapter and adapter not in adapters.served(found.deployment)):
        raise _wrong("model_not_found", f"No model is called {model[:80]!r} here.")
    _refuse_wrong_task(found.deployment, endpoint)
    defaults = found.defaults if endpoint != "/v1/embeddings" else {}
    return Found(found.deployment, adapter, defaults, found.release)


def _endpoint(team: Team, name: str) -> Found | None:
    row = Endpoint.objects.filter(team=team, name=name).select_related("live__deployment__model").first()
    if row is None or row.live is None:
        return None
    return Found(row.live.deployment, defaults=row.live.sampling, release=row.live)


def _deployment(team: Team, user: User | None, name: str) -> Found | None:
    noun, _, pk = name.partition("/")
    if noun != "deployment" or not (pk.isascii() and pk.isdigit() and len(pk) < 18):
        return None
    rows = Deployment.objects.filter(team=team, pk=int(pk)).exclude(desired=Deployment.Desired.DELETED)
    row = rows.select_related("model").first()
    if row and row.desired != Deployment.Desired.RUNNING and not (user and access.can(user, "start", team)):
        raise _wrong("model_not_running", f"{name} is stopped, and whoever made this key may not start it.")
    return Found(row) if row else None


def _refuse_wrong_task(deployment: Deployment, endpoint: str) -> None:
    kind = protocol.ROUTES["POST", endpoint.encode()]
    try:
        quirks = engines.get(deployment.engine).quirks
        protocol.refuse_wrong_task(kind, endpoint, deployment.model.task, quirks)
    except engines.UnknownEngine as problem:
        raise _wrong("model_not_found", "The engine of that model is gone.") from problem
    except protocol.Refusal as refusal:
        raise _wrong(refusal.code or "unsupported_route", refusal.message) from refusal


def _wrong(code: str, message: str) -> LineError:
    return LineError(code, message, 1, "body.model")
