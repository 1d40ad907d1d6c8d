"""Addresses of the site's pages. `page` lets only signed-in people through; what is public says so."""

from collections.abc import Callable
from typing import Any

from django.contrib.auth.decorators import login_required
from django.urls import URLPattern, path

from playground.views import home, search, signin


def page(route: str, view: Callable[..., Any], name: str) -> URLPattern:
    """One address that needs a signed-in person."""
    return path(route, login_required(view), name=name)


urlpatterns: list[URLPattern] = [
    path("sign-in/", signin.page, name="sign-in"),
    path("sign-in/<str:token>", signin.by_link, name="sign-in-link"),
    path("sign-out/", signin.leave, name="sign-out"),
    page("", home.page, "home"),
    page("bar/", search.bar, "bar"),
    page("find/", search.find, "find"),
]
