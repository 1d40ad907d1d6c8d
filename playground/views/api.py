"""The management API's description: for programs as OpenAPI, for people as a page."""

import json
from functools import cached_property
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from ninja import NinjaAPI

from playground.api.answers import STATUSES
from playground.api.routes import JSON
from playground.views.request import Request

METHODS = ("get", "post", "put", "patch", "delete")


class Description:
    """Views of one API."""

    def __init__(self, api: NinjaAPI) -> None:
        self.api = api

    @cached_property
    def schema(self) -> Any:
        """Made once: it is the same as long as this process lives."""
        return json.loads(json.dumps(self.api.get_openapi_schema()))

    def openapi(self, request: HttpRequest) -> HttpResponse:
        """As OpenAPI 3.1. It tells nothing of what is kept here, and so is open to all."""
        return JsonResponse(self.schema)

    def page(self, request: Request) -> HttpResponse:
        """Every operation: what it needs, takes and answers."""
        schema = self.schema
        parts: dict[str, list[dict[str, Any]]] = {}
        for path, methods in schema["paths"].items():
            for method in METHODS:
                if method in methods:
                    found = _operation(schema, path, method, methods[method])
                    parts.setdefault(methods[method]["tags"][0], []).append(found)
        context = {
            "parts": parts,
            "about": schema["info"]["description"].replace("`", ""),
            "statuses": STATUSES,
            "address": request.build_absolute_uri(reverse("api-description")),
            "base": request.build_absolute_uri(reverse("api:api-root")).rstrip("/"),
        }
        return render(request, "playground/api.html", context)


def nothing(request: HttpRequest, rest: str) -> HttpResponse:
    """Below the API's address what is no operation answers as the API does."""
    error: dict[str, Any] = {
        "code": "not_found",
        "message": "There is no such operation.",
        "field": None,
        "fields": {},
    }
    return JsonResponse({"error": error}, status=404)


def _operation(schema: Any, path: str, method: str, told: Any) -> dict[str, Any]:
    answers = [(code, _named(body)) for code, body in told["responses"].items() if str(code).startswith("2")]
    sent = told.get("requestBody")
    return {
        "id": told["operationId"],
        "method": method.upper(),
        "path": path,
        "about": told.get("description", "").replace("`", ""),
        "needs": told["x-needs"],
        "asked": [
            (one["name"], one["in"], _type(one["schema"]), one.get("description", "").replace("`", ""))
            for one in told.get("parameters", [])
        ],
        "sent": _sent(schema, sent["content"]) if sent else [],
        "answers": answers,
    }


def _named(body: Any) -> str:
    """The kind of thing that is answered; empty for nothing."""
    content = body.get("content", {}).get("application/json", {}).get("schema", {})
    return _type(content) if content else ""


def _sent(schema: Any, content: Any) -> list[tuple[str, str, bool, str]]:
    """The fields of a JSON body; one row for a body that is the bytes of a file."""
    if told := content.get(JSON):
        return _fields(schema, told["schema"])
    return [(kind, "bytes", True, "the body itself") for kind in content]


def _fields(schema: Any, shape: Any) -> list[tuple[str, str, bool, str]]:
    """(name, type, whether it must be there, what it means) of what is sent."""
    found = _resolved(schema, shape)
    must = found.get("required", [])
    return [
        (name, _type(one), name in must, one.get("description", ""))
        for name, one in found.get("properties", {}).items()
    ]


def _resolved(schema: Any, shape: Any) -> Any:
    reference = shape.get("$ref", "")
    return schema["components"]["schemas"][reference.rpartition("/")[2]] if reference else shape


def _type(shape: Any) -> str:
    """In few words: "integer or null", "list of ModelShown"."""
    if "anyOf" in shape:
        return " or ".join(dict.fromkeys(_type(one) for one in shape["anyOf"]))
    if "$ref" in shape:
        return str(shape["$ref"]).rpartition("/")[2]
    if "enum" in shape:
        return " or ".join(json.dumps(one) for one in shape["enum"])
    if shape.get("type") == "array":
        return f"list of {_type(shape.get('items', {}))}"
    return str(shape.get("type", "anything"))
