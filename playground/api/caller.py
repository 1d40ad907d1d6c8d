"""Who calls the management API, and what they may reach: a token's person, or whoever is signed in.

Rows are fetched here alone, through `access`; a token for one team reaches that team's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Model as DjangoModel
from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from ninja import Schema
from ninja.errors import AuthenticationError
from ninja.security import APIKeyCookie, HttpBearer
from pydantic import Field

from playground import access, acting, tokens
from playground.api.answers import Problem
from playground.models import AccessToken, Team, User

BIGGEST = 2**63 - 1
SAFE = ("GET", "HEAD")


@dataclass(frozen=True)
class Caller:
    """A person, by a token or signed in."""

    user: User
    token: AccessToken | None = None

    def within[Row: DjangoModel](self, rows: QuerySet[Row]) -> QuerySet[Row]:
        """Those of `rows` (any TeamOwned) that this token is for."""
        return rows.filter(team=self.token.team_id) if self.token and self.token.team_id else rows


class Request(HttpRequest):
    """A request that was let in."""

    auth: Caller


class Token(HttpBearer):
    """`Authorization: Bearer slp-…`, a token of your account."""

    def authenticate(self, request: HttpRequest, token: str) -> Caller:
        require_text(request)
        found = tokens.check(token)
        if found is None:
            raise AuthenticationError(401, "This token is unknown, revoked, or past its end.")
        acting.come_by("api", found.name)
        if found.scope != AccessToken.Scope.WRITE and request.method not in SAFE:
            raise Problem(403, "read_only", "This token may only read. Make one that may change things.")
        return Caller(found.user, found)


class Session(APIKeyCookie):
    """Signed in with a browser, as the pages are; changes then need the CSRF token."""

    param_name = settings.SESSION_COOKIE_NAME

    def __call__(self, request: HttpRequest) -> Caller | None:
        """Without a session there is nothing to guard against forgery: that is 401, not 403."""
        found: Caller | None = super().__call__(request) if self.param_name in request.COOKIES else None
        return found

    def authenticate(self, request: HttpRequest, key: str | None) -> Caller | None:
        require_text(request)
        user = request.user
        if not isinstance(user, User) or not user.is_active:
            return None
        acting.come_by("api")
        return Caller(user)


def require_text(request: HttpRequest) -> None:
    """Refuse NUL, which no database keeps, wherever an address can hold it."""
    told = [request.path, *request.GET.keys(), *(text for _, texts in request.GET.lists() for text in texts)]
    if any("\x00" in text for text in told):
        raise Problem(400, "bad_request", "The address holds a NUL character.")


class Where(Schema):
    """Which team."""

    team: str | None = Field(
        None,
        max_length=80,
        description="The team's slug; absent: the token's, else the one you work in.",
    )


class Window(Where):
    """Which part of a list."""

    limit: int = Field(50, ge=1, le=100)
    after: int | None = Field(None, ge=1, le=BIGGEST, description="The `next` of the page before.")


def team_of(request: Request, where: Where, needs: str = "view") -> Team:
    """The team that is meant, once the caller may do `needs` there; Http404 for one that is not theirs."""
    caller = request.auth
    chosen = caller.token.team if caller.token else None
    if where.team is not None and (chosen is None or chosen.slug != where.team):
        chosen = None if chosen else _named(caller.user, where.team)
        if chosen is None:
            raise Http404("no such team")
    team = chosen or access.team_of(caller.user)
    access.require(caller.user, needs, team)
    return team


def require_every_team(request: Request, action: str) -> None:
    """Refused for a token of one team: what is the site's concerns all of them."""
    token = request.auth.token
    if token is not None and token.team is not None:
        access.audit(request.auth.user, token.team, f"refused {action}", "site")
        raise access.Refused(f"This token is for {token.team.name} alone; this concerns every team.")


def _named(user: User, slug: str) -> Team | None:
    return next((team for team in access.teams_of(user) if team.slug == slug), None)


def fetch[Row: DjangoModel](request: Request, rows: QuerySet[Row], pk: int | str, needs: str = "view") -> Row:
    """One of the caller's rows, once they may do `needs` with it; Http404 for a stranger's."""
    caller = request.auth
    row = access.fetch(caller.user, caller.within(rows), pk, write=request.method not in SAFE)
    access.require(caller.user, needs, row)  # type: ignore[arg-type]  # Every TeamOwned has a team.
    return row


def visible[Row: DjangoModel](request: Request, rows: QuerySet[Row], team: Team) -> QuerySet[Row]:
    """The team's rows, as far as the caller sees them."""
    return access.visible_to(request.auth.user, rows.filter(team=team))


def paged[Row: DjangoModel](
    rows: QuerySet[Row], window: Window, shown: Callable[[Row], Any] = lambda row: row, key: str = "pk"
) -> dict[str, Any]:
    """A page of `rows`, newest first: {"items": […], "next": what `after` is for the page that follows}."""
    rows = rows.order_by(f"-{key}")
    if window.after is not None:
        rows = rows.filter(**{f"{key}__lt": window.after})
    found = list(rows[: window.limit + 1])
    return cut(found, window, shown, key)


def cut(
    found: list[Any], window: Window, shown: Callable[[Any], Any] = lambda row: row, key: str = "pk"
) -> dict[str, Any]:
    """The page of one more row than is shown."""
    items = found[: window.limit]
    more = len(found) > window.limit
    return {"items": [shown(row) for row in items], "next": getattr(items[-1], key) if more else None}
