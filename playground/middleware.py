"""Security headers on every page, and from where a request came. Async only: none costs a thread hop."""

from collections.abc import Awaitable, Callable

from django.http import HttpRequest, HttpResponse
from django.utils.decorators import async_only_middleware

from playground import acting

Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@async_only_middleware
def SecurityHeadersMiddleware(get_response: Handler) -> Handler:
    async def middleware(request: HttpRequest) -> HttpResponse:
        response = await get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
        return response

    return middleware


@async_only_middleware
def ActingMiddleware(get_response: Handler) -> Handler:
    """What a request changes is told as done from its address. Forwarded addresses are not believed."""

    async def middleware(request: HttpRequest) -> HttpResponse:
        with acting.acting("page", request.META.get("REMOTE_ADDR") or ""):
            return await get_response(request)

    return middleware
