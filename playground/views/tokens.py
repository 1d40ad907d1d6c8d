"""One's tokens for the management API; a new one's secret is in the answer to its making alone."""

from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from playground import access, tokens
from playground.models import AccessToken
from playground.views.request import Request

PAGE = "playground/tokens.html"


@never_cache
def page(request: Request) -> HttpResponse:
    """The list and the form; POST makes one, or shows what is wrong."""
    if request.method != "POST":
        return render(request, PAGE, _context(request))
    try:
        made, secret = _make(request)
    except tokens.TokenRefused as refusal:
        context = _context(request) | {"typed": request.POST, "errors": {refusal.field: str(refusal)}}
        return render(request, PAGE, context, status=422)
    return render(request, PAGE, _context(request) | {"made": made, "secret": secret})


def revoke(request: Request, pk: int) -> HttpResponse:
    """Refuse one from now on."""
    row = tokens.of(request.user).filter(pk=pk).first()
    if row is None:
        raise Http404("no such token")
    if tokens.revoke(row, request.user):
        messages.success(request, f"{row.name} is revoked.")
    return redirect("tokens")


def _make(request: Request) -> tuple[AccessToken, str]:
    posted = request.POST
    life, slug = posted.get("expires", ""), posted.get("team", "")
    if life not in tokens.LIVES:
        raise tokens.TokenRefused("Choose when it ends.", "expires")
    team = next((one for one in access.teams_of(request.user) if one.slug == slug), None)
    if slug and team is None:
        raise tokens.TokenRefused("You are not in that team.", "team")
    ends = timezone.now() + timedelta(days=int(life)) if life else None
    return tokens.make(request.user, posted.get("name", ""), posted.get("scope", ""), team, ends)


def _context(request: Request) -> dict[str, Any]:
    return {
        "rows": [(row, tokens.is_usable(row)) for row in tokens.of(request.user)[:200]],
        "teams": access.teams_of(request.user),
        "scopes": AccessToken.Scope.choices,
        "lives": tokens.LIVES.items(),
        "typed": {"scope": AccessToken.Scope.READ.value, "expires": "90", "team": "", "name": ""},
        "errors": {},
    }
