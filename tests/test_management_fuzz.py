"""The management API's description holds for whatever is sent: no 500, and no answer it does not tell of."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.management import call_command
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as bounded
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from endpoints.models import ApiKey, Endpoint, LoggedRequest
from playground import prompts, tokens
from playground.models import (
    Adapter,
    Batch,
    Column,
    Comment,
    Conversation,
    Dataset,
    Deployment,
    EngineEnvironment,
    Generation,
    Invitation,
    Job,
    Measurement,
    Model,
    Node,
    Prompt,
    ShareLink,
    StartWish,
    Turn,
    Upload,
)
from playground.urls import management_api
from tests import matrix, matrix_world
from tests.matrix_world import VIEWER, World

EXAMPLES = 8
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
DESCRIPTION = schemathesis.openapi.from_dict(json.loads(json.dumps(management_api.get_openapi_schema())))
OPERATIONS = [found.ok() for found in DESCRIPTION.get_all_operations()]
# Of which kind the row is that an address names by `pk`.
KINDS = {
    "models": Model,
    "deployments": Deployment,
    "conversations": Conversation,
    "answers": Generation,
    "datasets": Dataset,
    "batches": Batch,
    "prompts": Prompt,
    "nodes": Node,
    "jobs": Job,
    "keys": ApiKey,
    "adapters": Adapter,
    "uploads": Upload,
    "imports": Job,
    "invitations": Invitation,
    "runs": Measurement,
    "columns": Column,
    "messages": Turn,
    "comments": Comment,
    "links": ShareLink,
    "wishes": StartWish,
}


@pytest.fixture(scope="module")
def world(django_db_setup: None, django_db_blocker: Any) -> Iterator[World]:
    """A row of every kind; what is sent leaves it as it was, and nothing of it is left at the end.

    The site runs in this process and transaction: its requests close no connection.
    """
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        with transaction.atomic():
            yield _made()
            transaction.set_rollback(True)
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


def _made() -> World:
    made = matrix_world.world()
    for kind in matrix_world.BUILDERS:
        made.one(kind)
    what = prompts.Said([{"role": "user", "content": "Hello {{name}}"}], [{"name": "name", "type": "text"}])
    made.made[Prompt] = prompts.create(made.team, made.owner, "Triage", what)
    made.made[LoggedRequest] = matrix_world.logged(made)
    return made


@pytest.fixture(scope="module")
def secret(world: World) -> str:
    return tokens.make(world.owner, "fuzz", "write")[1]


def real(world: World, path: str) -> dict[str, Any]:
    """Values for an address that lead to rows."""
    kind = KINDS.get(path.split("/")[3])
    found: dict[str, Any] = {"number": 1, "place": 0, "name": world.one(Endpoint).name}
    found |= {"username": world.people[VIEWER].username, "environment": world.one(EngineEnvironment).pk}
    found |= {"usage": world.one(LoggedRequest).usage_id, "slug": world.team.slug}
    found["job"] = world.one(Job).pk
    found |= {"form": world.one(Model).formats.get().pk, "pk": world.made[kind].pk if kind else 1}
    return found


def meant(given: Any, known: dict[str, Any]) -> Any:
    """What was made up, with values that lead to rows where it has such names."""
    return {**given, **{name: known[name] for name in given if name in known}}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.label)
def test_its_description_holds(operation: Any, world: World, secret: str, settings: Any) -> None:
    settings.HF_OFFLINE = True
    application = get_wsgi_application()
    named = real(world, operation.path)
    bodies = {
        "deployment": world.one(Deployment).pk,
        "model": world.one(Model).pk,
        "node": world.one(Node).name,
    }
    bodies |= {"adapter": world.one(Adapter).pk}
    bodies |= {"conversation": world.one(Conversation).pk, "form": None}
    bodies |= {"version": world.one(Dataset).versions.get().pk, "base": 1, "engine": "fake"}

    @seed(7)
    @bounded(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), lead=st.booleans())
    def holds(case: Any, lead: bool) -> None:
        if lead:
            case.path_parameters = meant(case.path_parameters or {}, named)
            case.body = meant(case.body, bodies) if isinstance(case.body, dict) else case.body
        with matrix.undone():
            answer = case.call(app=application, headers={"Authorization": f"Bearer {secret}"})
        assert answer.status_code != 500
        case.validate_response(answer, checks=CHECKS)

    holds()
