"""How an operation is declared: what it needs, what it answers, and that it may refuse."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db.models import Model
from django.http import HttpRequest
from ninja import NinjaAPI, Router
from ninja.operation import Operation
from ninja.parser import Parser
from ninja.responses import Status

from playground import declared, policy
from playground.api.answers import ERRORS, Problem

View = Callable[..., Any]


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
    ) -> Any:
        """A POST, PATCH, PUT or DELETE that changes something. `answer` None: 204."""
        status = 204 if answer is None else status
        return self._operation(method, path, answer, status, needs, of, writes=needs)

    def _operation(
        self,
        method: str,
        path: str,
        answer: Any,
        status: int,
        needs: str,
        of: type[Model] | None,
        **policy: str,
    ) -> Callable[[View], View]:
        def declare(view: View) -> View:
            @wraps(view)
            def answered(*args: Any, **keys: Any) -> Status[Any]:
                return Status(status, view(*args, **keys))

            declared.declare(**policy, of=of)(answered)
            extra = {"x-needs": needs, "x-object": of._meta.model_name if of else None}
            answers = {status: answer} | ERRORS
            self.api_operation([method], path, response=answers, openapi_extra=extra)(answered)
            return view

        return declare


class StrictParser(Parser):
    """JSON alone, and only such as is what it says: no key twice, no NaN, no NUL."""

    def parse_body(self, request: HttpRequest) -> Any:
        if request.content_type != "application/json":
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
        return f"{view.__module__.removesuffix('.api').rpartition('.')[2]}_{view.__name__}"
