"""A person's own account: profile, password, what protects it, and where it is signed in."""

from typing import Any

from allauth.account.internal.flows.reauthentication import (
    is_reauthentication_required,
    raise_if_reauthentication_required,
)
from allauth.core import ratelimit
from allauth.core.exceptions import ReauthenticationRequired
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal import flows as totp
from allauth.mfa.webauthn.internal import flows as webauthn
from allauth.mfa.webauthn.views import ReauthenticateWebAuthnView, edit_webauthn
from allauth.socialaccount.models import SocialAccount
from allauth.socialaccount.signals import social_account_removed
from allauth.usersessions.models import UserSession
from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters

from playground import access, accounts, signing_in
from playground.accounts import AccountRefused
from playground.views.request import Request
from playground.views.signin import passkey_address, passkeys_work, providers

Type = Authenticator.Type


@never_cache
def page(request: Request) -> HttpResponse:
    """GET: everything about the account. POST: the profile."""
    wrong: dict[str, str] = {}
    typed = {"email": request.user.email}
    if request.method == "POST":
        typed = {"email": request.POST.get("email", "")}
        try:
            accounts.set_email(request.user, typed["email"])
        except AccountRefused as refusal:
            wrong = refusal.wrong
        else:
            messages.success(request, "Saved.")
            return redirect("account")
    context = _account(request) | {"typed": typed, "wrong": wrong}
    return render(request, "playground/account.html", context, status=400 if wrong else 200)


def _account(request: Request) -> dict[str, Any]:
    keys = list(Authenticator.objects.filter(user=request.user).order_by("created_at"))
    codes = next((key for key in keys if key.type == Type.RECOVERY_CODES), None)
    connected = list(SocialAccount.objects.filter(user=request.user).order_by("pk"))
    offered = providers(request)
    names = {one["id"]: one["name"] for one in offered}
    return {
        "has_password": request.user.has_usable_password(),
        "app": next((key for key in keys if key.type == Type.TOTP), None),
        "passkeys": [key for key in keys if key.type == Type.WEBAUTHN],
        "codes": len(codes.wrap().get_unused_codes()) if codes else None,
        "connected": [(row, names.get(row.provider, row.provider)) for row in connected],
        "connectable": [one for one in offered if one["id"] not in {row.provider for row in connected}],
        "passkeys_work": passkeys_work(request),
        "passkey_address": passkey_address(request),
        "ways": accounts.ways_in(request.user),
    }


@never_cache
@sensitive_post_parameters()
def password(request: Request) -> HttpResponse:
    """Set a first password, or another. Whoever came by a one-time link needs not know the one before."""
    needs_old = request.user.has_usable_password() and not signing_in.came_by_link(request)
    wrong: dict[str, str] = {}
    if not needs_old and is_reauthentication_required(request, app="allauth.account"):
        # Never with what was typed: allauth would keep it in the session.
        if request.method == "POST":
            return redirect("account-password")
        raise ReauthenticationRequired
    if request.method == "POST":
        if not ratelimit.consume(request, action="change_password", user=request.user):
            return ratelimit.respond_429(request)
        wrong = _change_password(request, needs_old)
        if not wrong:
            messages.success(request, "The password is changed. Your other sessions have ended.")
            return redirect("account")
    context = {"needs_old": needs_old, "wrong": wrong, "has_password": request.user.has_usable_password()}
    return render(request, "playground/password.html", context, status=400 if wrong else 200)


def _change_password(request: Request, needs_old: bool) -> dict[str, str]:
    """Do it; what is wrong with what was typed, by field."""
    user = request.user
    if needs_old and not user.check_password(request.POST.get("old", "")):
        access.audit(user, None, "refused change password", f"user:{user.pk}", name=user.get_username())
        return {"old": "That is not your password."}
    try:
        accounts.set_password(user, request.POST.get("new", ""))
    except AccountRefused as refusal:
        return {"new": refusal.wrong["password"]}
    update_session_auth_hash(request, user)
    key = request.session.session_key
    accounts.end_sessions(user, UserSession.objects.filter(user=user).exclude(session_key=key))
    UserSession.objects.create_from_request(request)
    return {}


@never_cache
def sessions(request: Request) -> HttpResponse:
    """Where the person is signed in."""
    UserSession.objects.create_from_request(request)
    return render(request, "playground/sessions.html", {"sessions": accounts.sessions_of(request.user)})


def end_session(request: Request) -> HttpResponse:
    """End one session, or with `others` all but this one."""
    mine = UserSession.objects.filter(user=request.user)
    if "others" in request.POST:
        ended = accounts.end_sessions(request.user, mine.exclude(session_key=request.session.session_key))
        messages.success(request, f"{ended} ended." if ended else "There was no other.")
        return redirect("sessions")
    pk = request.POST.get("session", "")
    number = int(pk) if pk.isdecimal() and len(pk) < 19 else 0
    row = accounts.fetch_own(request.user, UserSession.objects.all(), number)
    accounts.end_sessions(request.user, [row])
    return redirect("sessions" if row.session_key != request.session.session_key else "sign-in")


def remove_passkey(request: Request, pk: int) -> HttpResponse:
    key = accounts.fetch_own(request.user, Authenticator.objects.filter(type=Type.WEBAUTHN), pk)
    raise_if_reauthentication_required(request, app="allauth.mfa")
    if not accounts.ways_in(request.user, without=key):
        messages.error(request, "Set a password or add another passkey first: nothing else would let you in.")
        return redirect("account")
    webauthn.remove_authenticator(request, key)
    messages.success(request, "The passkey is removed.")
    return redirect("account")


def rename_passkey(request: Request, pk: int) -> HttpResponse:
    row = accounts.fetch_own(request.user, Authenticator.objects.filter(type=Type.WEBAUTHN), pk)
    answer: HttpResponse = edit_webauthn(request, pk=pk)
    accounts.tell_renamed(row, request.user)
    return answer


class ConfirmByPasskey(ReauthenticateWebAuthnView):
    """Whoever is signed in shows that it is still them."""

    def form_invalid(self, form: Any) -> HttpResponse:
        signing_in.refused(self.request.user.get_username(), "passkey")
        messages.error(self.request, "That passkey is not one of yours here. Try again.")
        return redirect(self.request.get_full_path())


def remove_app(request: Request) -> HttpResponse:
    """The authenticator app is asked for no more."""
    raise_if_reauthentication_required(request, app="allauth.mfa")
    totp.deactivate_totp(request, get_object_or_404(Authenticator, user=request.user, type=Type.TOTP))
    messages.success(request, "The authenticator app is asked for no more.")
    return redirect("account")


def disconnect_provider(request: Request, pk: int) -> HttpResponse:
    """Also one that the settings name no more."""
    row = accounts.fetch_own(request.user, SocialAccount.objects.all(), pk)
    raise_if_reauthentication_required(request, app="allauth.socialaccount")
    if not accounts.ways_in(request.user, without=row):
        messages.error(request, "Set a password or add a passkey first: nothing else would let you in.")
        return redirect("account")
    row.delete()
    social_account_removed.send(sender=SocialAccount, request=request, socialaccount=row)
    messages.success(request, "It signs you in no more.")
    return redirect("account")


def to_account(request: HttpRequest, **keys: Any) -> HttpResponse:
    """Where allauth's own pages lead back to."""
    return redirect("account")
