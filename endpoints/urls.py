"""Addresses of the production side's pages."""

from django.urls import URLPattern

app_name = "endpoints"
urlpatterns: list[URLPattern] = []
