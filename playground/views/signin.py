"""Signing in: with a password, a passkey, a provider or a one-time link; the second factor; and out."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

import requests
import xmlsec
from allauth.account.adapter import get_adapter
from allauth.account.models import Login
from allauth.account.views import LoginView
from allauth.core import ratelimit
from allauth.core.internal import ratelimit as limits
from allauth.mfa.base.views import AuthenticateView
from allauth.mfa.webauthn.internal.flows import perform_passwordless_login
from allauth.mfa.webauthn.views import LoginWebAuthnView
from allauth.socialaccount.adapter import get_adapter as providers_adapter
from allauth.socialaccount.providers.saml import views as saml
from allauth.socialaccount.providers.saml.utils import get_app_or_404
from django import forms
from django.conf import settings
from django.contrib.auth import logout
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotAllowed
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST
from django_htmx.http import HttpResponseClientRefresh
from lxml.etree import LxmlError

from playground import access, events, instance, signing_in, teams

SAML_BYTES = 256 * 1024
UNREADABLE = (LxmlError, xmlsec.Error, PermissionDenied, ValueError)


class SignIn(LoginView):
    """The page. A fragment asked for after the session ended reloads its page, and so leads here."""

    template_name = "playground/signin.html"

    def dispatch(self, request: HttpRequest, *args: Any, **keys: Any) -> HttpResponseBase:
        if getattr(request, "htmx", False):
            return HttpResponseClientRefresh()
        if target := _local(request, request.GET.get("next", "")):
            request.session["next"] = target
        answer: HttpResponseBase = super().dispatch(request, *args, **keys)
        return answer

    def get_form(self, form_class: Any = None) -> forms.Form:
        form: forms.Form = super().get_form(form_class)
        form.fields["login"].label = "Name"
        form.fields["login"].widget = forms.TextInput(
            {"autocomplete": "username", "autocapitalize": "none", "spellcheck": "false", "autofocus": True}
        )
        form.fields["password"].widget = forms.PasswordInput({"autocomplete": "current-password"})
        return form

    def get_context_data(self, **given: Any) -> dict[str, Any]:
        target = _local(self.request, self.request.POST.get("next") or self.request.GET.get("next", ""))
        return super().get_context_data(**given) | entrance(self.request) | {"next": target}


def entrance(request: HttpRequest) -> dict[str, Any]:
    """What every page that leads in shows: the providers, and whether passkeys work by this name."""
    return {"providers": providers(request), "passkeys": passkeys_work(request)}


def providers(request: HttpRequest) -> list[dict[str, str]]:
    """Those of the settings: what they are called, and where a form leads to them."""
    return [
        {"id": one.app.provider_id, "name": one.name, "address": one.get_login_url(request)}
        for one in providers_adapter().list_providers(request)
    ]


def passkeys_work(request: HttpRequest) -> bool:
    """Browsers make passkeys for names, not for addresses of numbers, over TLS or on this machine."""
    host = _host_and_port(request)[0]
    return _is_name(host) and (request.is_secure() or host == "localhost" or host.endswith(".localhost"))


def passkey_address(request: HttpRequest) -> str:
    """Where this site is reached so that passkeys work, like http://localhost:8000; empty where unknown."""
    port = _host_and_port(request)[1]
    if request.is_secure():
        name = next((host for host in settings.ALLOWED_HOSTS if _is_name(host) and host[0] != "."), "")
        return f"https://{name}{port}" if name else ""
    running = instance.running(settings.HOME)
    # `up` prints that name only where nobody else answers by it.
    known = running is not None and urlsplit(running.address).hostname == "localhost"
    return f"http://localhost{port}" if known else ""


def _host_and_port(request: HttpRequest) -> tuple[str, str]:
    """Of "example.com:8000", "example.com" and ":8000"; the port is empty where it is the scheme's own."""
    found = urlsplit(f"//{request.get_host()}")
    return found.hostname or "", f":{found.port}" if found.port else ""


def _is_name(host: str) -> bool:
    return ":" not in host and not host.replace(".", "").isdigit()


class ByPasskey(LoginWebAuthnView):
    """A passkey and nothing else. GET, from the page's script: what the browser is to sign."""

    def form_valid(self, form: Any) -> HttpResponse:
        key = form.cleaned_data["credential"]
        target = _local(self.request, self.request.POST.get("next", "")) or None
        answer: HttpResponse = perform_passwordless_login(
            self.request, key, Login(user=key.user, redirect_url=target)
        )
        return answer

    def form_invalid(self, form: Any) -> HttpResponse:
        signing_in.refused("", "passkey")
        get_adapter().add_message(
            self.request, 40, message="That passkey is not known here. Sign in another way."
        )
        return redirect("sign-in")


class SecondFactor(AuthenticateView):
    """After the password: a code, or a passkey."""

    def form_invalid(self, form: Any) -> HttpResponse:
        if "credential" in form.fields:
            signing_in.refused(self.stage.login.user.get_username(), "passkey")
        answer: HttpResponse = super().form_invalid(form)
        return answer

    def get_context_data(self, **given: Any) -> dict[str, Any]:
        return super().get_context_data(**given) | {"passkeys": passkeys_work(self.request)}


@never_cache
@require_GET
def by_link(request: HttpRequest, token: str) -> HttpResponse:
    """Sign in and go where the person was going; a used or old link says how to get a new one."""
    user = teams.sign_in_by(token)
    if user is None:
        if not _may_try(request):
            return ratelimit.respond_429(request)
        signing_in.refused("", "link")
        return render(request, "playground/link_spent.html", status=410)
    target = _local(request, request.session.pop("next", "")) or "/"
    signing_in.sign_in(request, user, "link")
    return redirect(target)


@require_POST
def leave(request: HttpRequest) -> HttpResponse:
    user = request.user if request.user.is_authenticated else None
    logout(request)
    if user is not None:
        access.audit(user, None, "sign out", f"user:{user.pk}", name=user.get_username())
        events.standing(user.pk)
    return redirect("sign-in")


def to_provider(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Lead to a provider by a page of ours: the policy for scripts lets no form lead to another site."""

    def leaving(request: HttpRequest, **keys: Any) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        try:
            answer = view(request, **keys)
        except requests.RequestException as problem:
            signing_in.log.warning("A provider of sign-in does not answer: %s", problem)
            return render(request, "socialaccount/authentication_error.html", {"away": True}, status=502)
        target = answer.headers.get("Location", "")
        if not urlsplit(target).netloc:
            return answer
        return render(
            request, "playground/leaving.html", {"target": target, "host": urlsplit(target).hostname}
        )

    return leaving


def answered(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """What a provider's answer leads to: not tried for ever, and one that nobody can read is refused."""

    @wraps(view)
    def read(request: HttpRequest, **keys: Any) -> HttpResponse:
        if not _may_try(request):
            return ratelimit.respond_429(request)
        try:
            return view(request, **keys)
        except UNREADABLE as problem:
            signing_in.log.warning("A provider's answer cannot be read: %s", problem)
            signing_in.refused("", "provider")
            return render(request, "socialaccount/authentication_error.html", status=401)

    return read


@csrf_exempt
def saml_answer(request: HttpRequest, organization_slug: str) -> HttpResponse:
    """A SAML provider's page posts here. It is kept until the browser comes by itself: not at any length."""
    get_app_or_404(request, organization_slug)
    if len(request.POST.get("SAMLResponse", "")) > SAML_BYTES or not _may_try(request):
        return ratelimit.respond_429(request)
    answer: HttpResponse = saml.acs(request, organization_slug=organization_slug)
    return answer


def _may_try(request: HttpRequest) -> bool:
    """Whether this address has not tried too often within a minute."""
    return bool(limits.consume(request, app="allauth.account", action="login", limit_get=True))


def _local(request: HttpRequest, target: str) -> str:
    """`target` when it is an address of this site, else nothing."""
    safe = url_has_allowed_host_and_scheme(target, allowed_hosts={request.get_host()})
    return target if safe else ""
