"""Every operation of the management API for people of every standing: the same matrix, asked by tokens."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.http import HttpResponse
from django.test import Client

from endpoints.models import Endpoint
from playground import access, declared, tokens
from playground.declared import SELF, Policy
from playground.models import (
    Adapter,
    AuditEntry,
    Conversation,
    Dataset,
    Deployment,
    Membership,
    Model,
    Node,
    Team,
)
from playground.urls import management_api
from tests import matrix, matrix_world
from tests.matrix import BASE
from tests.matrix_world import ANONYMOUS, MARK, PARTICULAR, SITE, STRANGER, World

READER = "reading token of a site administrator"


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    view: Any
    body: dict[str, Any] | None

    @property
    def policy(self) -> Policy | None:
        return declared.of(self.view)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def operations() -> Iterator[Operation]:
    """All there are, each with the least that its body may hold."""
    for prefix, router in management_api._routers:
        for path, view in router.path_operations.items():
            for one in view.operations:
                for method in one.methods:
                    yield Operation(method, f"{prefix}{path}", one.view_func, _least(one))


def _least(operation: Any) -> dict[str, Any] | None:
    """A body of only what is required, of the first value that is allowed; None where it takes none."""
    bodies = [one for one in operation.models if one.__name__ == "BodyParams"]
    if not bodies:
        return None
    (field,) = bodies[0].model_fields.values()
    schema = field.annotation.model_json_schema()
    found: dict[str, Any] = _value(schema, schema.get("$defs", {}))
    return found


def _value(schema: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    if "$ref" in schema:
        return _value(known[schema["$ref"].rpartition("/")[2]], known)
    for choice in ("anyOf", "allOf", "oneOf"):
        if choice in schema:
            return _value(schema[choice][0], known)
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kind = schema.get("type")
    if kind == "object":
        return {name: _value(schema["properties"][name], known) for name in schema.get("required", [])}
    if kind == "array":
        return [_value(schema["items"], known)] * schema.get("minItems", 0)
    plain = {"string": "x" * max(1, schema.get("minLength", 1)), "boolean": True, "number": 1.0, "null": None}
    return schema.get("minimum", 1) if kind == "integer" else plain.get(str(kind))


# What a body must say so that it names something that is there: by the operation.
BODIES: dict[str, Callable[[World], dict[str, Any]]] = {
    "POST /deployments": lambda world: {"model": world.one(Model).pk, "engine": "fake"},
    "POST /conversations": lambda world: {"deployment": world.one(Deployment).pk},
    "POST /endpoints": lambda world: {"deployment": world.one(Deployment).pk},
    "POST /deployments/{pk}/attach": lambda world: {"adapter": world.one(Adapter).pk},
    "POST /deployments/{pk}/detach": lambda world: {"adapter": world.one(Adapter).pk},
    "POST /models/{pk}/forms/{form}/fetch": lambda world: {"node": world.one(Node).name},
    "POST /datasets/{pk}/conversation": lambda world: {"conversation": world.one(Conversation).pk},
    "POST /datasets/{pk}/requests": lambda world: {
        "endpoint": world.one(Endpoint).name,
        "requests": [matrix_world.logged(world).usage_id],
    },
    "POST /batches": lambda world: {
        "version": world.one(Dataset).versions.get().pk,
        "columns": [{"deployment": world.one(Deployment).pk}],
    },
}
# Whose row it has to be: who reads and writes there is for its owner to say.
_SHARED = {"conversations": "conversation-share", "prompts": "prompt-share", "batches": "batch-share"}
OWN = {
    "DELETE /links/{pk}": PARTICULAR["share-link-revoke"],
    "PATCH /comments/{pk}": PARTICULAR["comment"],
    "DELETE /comments/{pk}": PARTICULAR["comment-delete"],
    **{f"PUT /{noun}/{{pk}}/sharing": PARTICULAR[name] for noun, name in _SHARED.items()},
    **{f"POST /{noun}/{{pk}}/links": PARTICULAR[name] for noun, name in _SHARED.items()},
}
# What an address must ask so that it is a whole one.
QUERIES = dict.fromkeys(("PUT /uploads/{pk}", "PUT /datasets/files/{key}"), "?offset=0")
# What stands in an address that the site's pages have by other names.
KEYS: dict[str, Callable[[World], Any]] = {
    "username": lambda world: world.one(Membership).user.username,
    "name": lambda world: world.one(Endpoint).name,
    "job": lambda world: matrix.KEYS["model-cancel job"](world, None),
    "usage": lambda world: matrix_world.logged(world).usage_id,
    "slug": lambda world: world.one(Team).slug,
}


class Caller:
    """Asks as one person or another, by a token that may change things."""

    def __init__(self, world: World) -> None:
        self.client = Client(raise_request_exception=False)
        made = {name: tokens.make(person, "matrix", "write")[1] for name, person in world.people.items()}
        self.headers = {name: {"authorization": f"Bearer {secret}"} for name, secret in made.items()}
        _, secret = tokens.make(world.people[SITE], "reads", "read")
        self.headers |= {ANONYMOUS: {}, READER: {"authorization": f"Bearer {secret}"}}

    def ask(self, who: str, method: str, address: str, body: dict[str, Any] | None) -> HttpResponse:
        answer: Any = self.client.generic(
            method,
            address,
            "" if body is None else json.dumps(body),
            content_type="application/json",
            headers=self.headers[who],
        )
        assert isinstance(answer, HttpResponse)
        return answer


def gaps(operation: Operation, caller: Caller, world: World) -> list[str]:
    found = [_gap(operation, caller, world, who) for who in caller.headers]
    return [one for one in found if one]


def _gap(operation: Operation, caller: Caller, world: World, who: str) -> str | None:
    policy = operation.policy
    assert policy is not None
    with matrix.undone():
        address = address_of(operation, world)
        body = operation.body
        if body is not None and str(operation) in BODIES:
            body = body | BODIES[str(operation)](world)
        if own := OWN.get(str(operation)):
            own(world, world.people.get(who))
        before = AuditEntry.objects.filter(action__startswith="refused").count()
        answer = caller.ask(who, operation.method, address, body)
        audited = AuditEntry.objects.filter(action__startswith="refused").count() > before
        why = _wrong(operation, policy, who, answer, audited=audited)
        return why and f"{operation.method} {address} by {who}: {why}"


def address_of(operation: Operation, world: World) -> str:
    policy, text = operation.policy, BASE + operation.path
    for place, key in enumerate(part[1:-1] for part in operation.path.split("/") if part.startswith("{")):
        if key in KEYS:
            value = KEYS[key](world)
        elif place == 0 and policy and policy.of is not None:
            value = getattr(world.one(policy.of), key)
        else:
            value = matrix.KEYS[key](world, None) if key in matrix.KEYS else 1
        text = text.replace(f"{{{key}}}", str(value))
    return text + QUERIES.get(str(operation), "")


def _wrong(operation: Operation, policy: Policy, who: str, answer: Any, *, audited: bool) -> str | None:
    reading = operation.method == "GET"
    action = policy.reads if reading else policy.writes
    status = answer.status_code
    if matrix.is_fault(status):
        return f"{status}: {matrix.raised(answer)}"
    if who == STRANGER and MARK.encode() in answer.content.lower():
        return f"{status}, and tells the name of another team's row"
    if who == ANONYMOUS:
        return None if status == 401 else f"{status}, not 401"
    if who == READER:
        if reading:
            return f"{status}, though it may read" if status in (401, 403, 404) else None
        return (
            None if status == 403 and b"read_only" in answer.content else f"{status}, though it may only read"
        )
    if action is None:
        return "nothing is declared for its method"
    if action == SELF and policy.of is None:
        return f"{status}, though they are known" if status == 401 else None
    want = matrix.expected(policy, action, who)
    if want is None:
        return f"{status}, though they may: {answer.content[:200]!r}" if status in (401, 403, 404) else None
    if status != want:
        return f"{status}, not {want}"
    return (
        None
        if reading or access.NEEDS.get(action) == "viewer" or audited
        else f"{status}, but nothing in the audit log"
    )
