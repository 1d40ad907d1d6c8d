"""Signing in by a one-time link, and out."""

from django.contrib.auth import login, logout
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST
from django_htmx.http import HttpResponseClientRefresh

from playground import access, teams


@never_cache
@require_GET
def page(request: HttpRequest) -> HttpResponse:
    """How to get a link. A fragment asked for after the session ended reloads its page, and so leads here."""
    if getattr(request, "htmx", False):
        return HttpResponseClientRefresh()
    if request.user.is_authenticated:
        return redirect("home")
    if target := _local(request, request.GET.get("next", "")):
        request.session["next"] = target
    return render(request, "playground/signin.html")


@never_cache
@require_GET
def by_link(request: HttpRequest, token: str) -> HttpResponse:
    """Sign in and go where the person was going; a used or old link says how to get a new one."""
    user = teams.sign_in_by(token)
    if user is None:
        return render(request, "playground/signin.html", {"spent": True}, status=410)
    target = _local(request, request.session.pop("next", "")) or "/"
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    access.audit(user, None, "sign in", f"user:{user.pk}")
    return redirect(target)


@require_POST
def leave(request: HttpRequest) -> HttpResponse:
    logout(request)
    return redirect("sign-in")


def _local(request: HttpRequest, target: str) -> str:
    """`target` when it is an address of this site, else nothing."""
    safe = url_has_allowed_host_and_scheme(target, allowed_hosts={request.get_host()})
    return target if safe else ""
