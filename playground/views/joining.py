"""An invitation: who has an account joins, who has none makes one, with a password or a passkey."""

import json
from typing import Any

from allauth.core import ratelimit
from allauth.mfa.webauthn.internal import auth, flows
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters

from playground import accounts, signing_in, teams
from playground.accounts import AccountRefused
from playground.models import Invitation, User
from playground.views.signin import entrance

# In the session: the number that the account of a passkey being made will have.
RESERVED = "reserved account"
NOT_MADE = "The passkey could not be made. Try again, or choose a password."


@never_cache
@sensitive_post_parameters()
def page(request: HttpRequest, token: str) -> HttpResponse:
    """GET: whereto the invitation leads. POST: join, with an account made on the way where there is none."""
    try:
        invitation = teams.invitation(token)
    except teams.TeamRefused as refusal:
        # A provider brings whoever is new straight into the team, and back to here.
        if isinstance(request.user, User) and teams.was_taken_by(token, request.user):
            return redirect("home")
        return render(request, "playground/join.html", {"gone": str(refusal)}, status=410)
    if request.method == "POST":
        if not ratelimit.consume(request, action="signup"):
            return ratelimit.respond_429(request)
        return _join(request, token, invitation)
    request.session[signing_in.INVITED] = token
    return _show(request, token, invitation)


def _show(
    request: HttpRequest, token: str, invitation: Invitation, wrong: dict[str, str] | None = None
) -> HttpResponse:
    context: dict[str, Any] = {
        "invitation": invitation,
        "token": token,
        "wrong": wrong or {},
        "typed": request.POST.get("username", ""),
        **entrance(request),
    }
    return render(request, "playground/join.html", context, status=400 if wrong else 200)


def _join(request: HttpRequest, token: str, invitation: Invitation) -> HttpResponse:
    try:
        if request.user.is_authenticated:
            teams.accept(token, request.user)
        else:
            _make_and_join(request, token)
    except AccountRefused as refusal:
        return _show(request, token, invitation, refusal.wrong)
    except teams.TeamRefused as refusal:
        return _show(request, token, invitation, {"": str(refusal)})
    request.session.pop(signing_in.INVITED, None)
    return redirect("home")


def _make_and_join(request: HttpRequest, token: str) -> None:
    """An account and its place in the team, or neither."""
    name = request.POST.get("username", "")
    if credential := request.POST.get("credential", ""):
        user = _with_passkey(request, token, name, credential)
    else:
        with transaction.atomic():
            user = accounts.make(name, request.POST.get("password", ""))
            teams.accept(token, user)
        signing_in.sign_in(request, user, "invitation")


def _with_passkey(request: HttpRequest, token: str, name: str, text: str) -> User:
    """An account that a passkey opens, which the browser made for the number that was reserved for it."""
    pk = request.session.pop(RESERVED, None)
    try:
        credential = json.loads(text)
        auth.parse_registration_response(credential)
        made = auth.complete_registration(credential)
    except (ValidationError, ValueError, TypeError, KeyError, AttributeError) as problem:
        raise AccountRefused({"username": NOT_MADE}) from problem
    if pk is None or not made.is_user_verified():
        raise AccountRefused({"username": NOT_MADE})
    with transaction.atomic():
        user = accounts.make(name, None, pk=pk)
        teams.accept(token, user)
        flows.signup_authenticator(request, user, "Passkey 1", credential)
    signing_in.sign_in(request, user, "invitation")
    return user


@never_cache
def passkey(request: HttpRequest, token: str) -> JsonResponse:
    """What the browser is to make a passkey for: a name that is free, and the account's number to come."""
    name = request.POST.get("username", "").strip()
    try:
        teams.invitation(token)
        accounts.check_name(name)
    except AccountRefused as refusal:
        return JsonResponse({"wrong": refusal.wrong}, status=400)
    except teams.TeamRefused as refusal:
        return JsonResponse({"wrong": {"username": str(refusal)}}, status=410)
    pk = accounts.reserve()
    request.session[RESERVED] = pk
    return JsonResponse({"creation_options": auth.begin_registration(User(pk=pk, username=name), True)})
