"""What the management API says when it does not do what was asked: one shape, whatever went wrong.

Domain modules raise exceptions of their own, with words for people; here each becomes a status.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI, Schema
from ninja.errors import HttpError, ValidationError
from pydantic import ConfigDict, Field

from playground import policy


class Fault(Schema):
    """Why."""

    code: str = Field(description="For programs: invalid, not_found, forbidden, refused, conflict, …")
    message: str = Field(description="For people: what is wrong, and what helps.")
    field: str | None = Field(None, description="The input at fault, where it is one.")
    fields: dict[str, str] = Field({}, description="Every input at fault, with a sentence each.")


class Refusal(Schema):
    """Every answer that is no success."""

    error: Fault


class Given(Schema):
    """Base of everything that is sent: what it does not know is refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", str_strip_whitespace=False)


class Problem(HttpError):
    """Raised by operations themselves; `code` is for programs."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(status, message)
        self.code, self.field = code, field


# Every operation may give each of these, and says so.
STATUSES = {
    400: "The request is no JSON, or holds what no text may.",
    401: "No token, or one that is unknown, revoked, past its end, or of somebody who left.",
    403: "The person, or the token, may not do that.",
    404: "There is no such thing, or it is none of this person's teams'.",
    409: "It is not in the state for that, or somebody else was faster.",
    413: "The request, or the piece of a file, is too large.",
    415: "The request is not of the described kind: application/json, or the bytes of a file.",
    422: "Something in the request is wrong; `fields` says what.",
    502: "Another server that was asked for this answered badly.",
    503: "Another server that was asked for this does not answer, or has too much to do.",
    507: "There is no room for it.",
}
CODES = {400: "bad_request", 401: "unauthenticated", 403: "forbidden", 404: "not_found", 405: "bad_method"}
CODES |= {409: "conflict", 413: "too_large", 415: "bad_type", 422: "refused"}
CODES |= {502: "bad_gateway", 503: "unavailable", 507: "no_room"}
ERRORS: dict[int, Any] = dict.fromkeys(STATUSES, Refusal)


def refusal(
    api: NinjaAPI,
    request: HttpRequest,
    status: int,
    message: str,
    *,
    code: str = "",
    field: str | None = None,
    fields: Mapping[str, str] | None = None,
) -> HttpResponse:
    """The answer for what went wrong."""
    named = {name: text for name, text in (fields or {}).items() if name}
    field = field or next(iter(named), None)
    told = {"code": code or CODES[status], "message": message, "field": field, "fields": named}
    return api.create_response(request, {"error": told}, status=status)


def register(api: NinjaAPI) -> None:
    """What the frame itself raises: wrong input, nothing there, not allowed."""

    @api.exception_handler(ValidationError)
    def invalid(request: HttpRequest, problem: ValidationError) -> HttpResponse:
        fields = {_place(one["loc"]): str(one["msg"]) for one in problem.errors}
        message = " ".join(f"{name}: {text}." if name else f"{text}." for name, text in fields.items())
        return refusal(api, request, 422, message[:2000], code="invalid", fields=fields)

    @api.exception_handler(HttpError)
    def http(request: HttpRequest, problem: HttpError) -> HttpResponse:
        cause = problem.__cause__
        if isinstance(cause, RequestDataTooBig):
            return refusal(api, request, 413, "The request is larger than 4 MB.")
        if isinstance(cause, policy.BadRequest):
            return refusal(api, request, 400, cause.message, field=cause.param)
        told = cause if isinstance(cause, Problem) else problem
        code, field = getattr(told, "code", ""), getattr(told, "field", None)
        return refusal(api, request, told.status_code, told.message, code=code, field=field)

    @api.exception_handler(RequestDataTooBig)
    def large(request: HttpRequest, problem: Exception) -> HttpResponse:
        return refusal(api, request, 413, "The request is larger than 4 MB.")

    @api.exception_handler(Http404)
    def missing(request: HttpRequest, problem: Exception) -> HttpResponse:
        return refusal(api, request, 404, f"{str(problem) or 'Nothing is here'}.".capitalize())

    @api.exception_handler(PermissionDenied)
    def denied(request: HttpRequest, problem: Exception) -> HttpResponse:
        return refusal(api, request, 403, str(problem) or "This is not for you to do.")


def becomes(
    api: NinjaAPI,
    kind: type[Exception],
    status: int | Callable[[Any], int],
    field: str = "field",
    code: str = "",
) -> None:
    """A domain module's exception as an answer: its text, and its `fields` or the one field it names."""

    def answer(request: HttpRequest, problem: Any) -> HttpResponse:
        chosen = status(problem) if callable(status) else status
        fields = getattr(problem, "fields", None) or getattr(problem, "faults", None)
        named = getattr(problem, field, None)
        named = named if isinstance(named, str) and named else None
        return refusal(api, request, chosen, str(problem), code=code, field=named, fields=fields)

    api.add_exception_handler(kind, answer)


def _place(loc: Any) -> str:
    """Where in the input: "columns.0.deployment". How the operation names its parameters is left out."""
    names = [str(one) for one in loc]
    return ".".join(names[2:] if names[:1] == ["body"] and len(names) > 1 else names[1:])
