"""Addresses of the pages of usage."""

from django.urls import URLPattern

from endpoints import usage_views
from playground.site import page

urlpatterns: list[URLPattern] = [
    page("", usage_views.page, "usage", reads="view"),
    page("usage.csv", usage_views.table, "usage-csv", reads="view"),
]
