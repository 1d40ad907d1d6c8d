"""How an operation is declared: what it needs, what it answers, and that it may refuse."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from django.db.models import Model, QuerySet
from django.http import HttpRequest
from ninja import NinjaAPI, Router
from ninja.operation import Operation
from ninja.parser import Parser
from ninja.responses import Status

from playground import access, declared, policy
from playground.api.answers import ERRORS, Problem
from playground.api.caller import Request, fetch, require_every_team
from playground.models import User

View = Callable[..., Any]
JSON, BYTES = "application/json", "application/octet-stream"


@dataclass(frozen=True)
class Verb[Noun: Model]:
    """Something done with a row as it is: what it needs, the noun's own function, what it does in words."""

    needs: str
    does: Callable[[Noun, User], Any]
    about: str


class Routes(Router):
    """A noun's operations."""

    def reads(self, path: str, answer: Any, *, needs: str = "view", of: type[Model] | None = None) -> Any:
        """A GET."""
        return self._operation("GET", path, answer, 200, needs, of, reads=needs)

    def writes(
        self,
        method: str,
        path: str,
        answer: Any,
        *,
        needs: str,
        of: type[Model] | None = None,
        status: int = 200,
        takes: str = JSON,
    ) -> Any:
        """A POST, PATCH, PUT or DELETE that changes something. `answer` None: 204.

        `takes` BYTES: the body is a piece of a file, which the operation reads itself.
        """
        status = 204 if answer is None else status
        return self._operation(method, path, answer, status, needs, of, takes, writes=needs)

    def verbs[Noun: Model](
        self,
        path: str,
        answer: Any,
        of: type[Noun],
        rows: Callable[[], QuerySet[Noun]],
        shown: Callable[[Noun], Any],
        **verbs: Verb[Noun],
    ) -> None:
        """POST `path`/<name> for each: the row is fetched, it is done, the row is `shown`."""
        for name, verb in verbs.items():
            declare = self.writes("POST", f"{path}/{name}", answer, needs=verb.needs, of=of)
            declare(_doing(name, verb, rows, shown))

    def _operation(
        self,
        method: str,
        path: str,
        answer: Any,
        status: int,
        needs: str,
        of: type[Model] | None,
        takes: str = JSON,
        **policy: str,
    ) -> Callable[[View], View]:
        def declare(view: View) -> View:
            @wraps(view)
            def answered(request: Request, *args: Any, **keys: Any) -> Status[Any]:
                if access.NEEDS.get(needs) == access.SITE:
                    require_every_team(request, needs)
                return Status(status, view(request, *args, **keys))

            declared.declare(**policy, of=of)(answered)
            extra: dict[str, Any] = {"x-needs": needs, "x-object": of._meta.model_name if of else None}
            if takes == BYTES:
                body = {BYTES: {"schema": {"type": "string", "format": "binary"}}}
                extra["requestBody"] = {"content": body, "required": True}
            answers = {status: answer} | ERRORS
            self.api_operation([method], path, response=answers, openapi_extra=extra)(answered)
            return view

        return declare


def _doing[Noun: Model](
    name: str, verb: Verb[Noun], rows: Callable[[], QuerySet[Noun]], shown: Callable[[Noun], Any]
) -> View:
    """The operation of one verb, called and described as one that is written out."""

    def operation(request: Request, pk: int) -> Any:
        row = fetch(request, rows(), pk, verb.needs)
        verb.does(row, request.auth.user)
        return shown(row)

    operation.__name__, operation.__doc__, operation.__module__ = name, verb.about, shown.__module__
    return operation


def piece_of(request: HttpRequest, most: int) -> bytes:
    """The bytes that were sent: no more of a body is read than `most`. 415 and 413 as Problem."""
    if request.content_type != BYTES:
        raise Problem(415, "bad_type", f"Send the piece as {BYTES}.")
    data = request.read(most + 1)
    if len(data) > most:
        raise Problem(413, "too_large", f"A piece has at most {most:,} bytes.")
    return data


class StrictParser(Parser):
    """JSON alone, and only such as is what it says: no key twice, no NaN, no NUL."""

    def parse_body(self, request: HttpRequest) -> Any:
        if request.content_type != JSON:
            raise Problem(415, "bad_type", "Send application/json.")
        found = policy.loads(request.body)
        if "\\u0000" in request.body.decode(errors="replace") and _has_nul(found):
            raise Problem(400, "bad_request", "The request holds a NUL character.")
        return found


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any(_has_nul(one) for pair in value.items() for one in pair)
    return isinstance(value, list) and any(_has_nul(one) for one in value)


class Api(NinjaAPI):
    """The API whose operations are called by noun and verb: deployments_start."""

    def get_openapi_operation_id(self, operation: Operation) -> str:
        view = operation.view_func
        noun = view.__module__.removesuffix(".api").rpartition(".")[2].removesuffix("_api")
        return f"{noun}_{view.__name__}"
