"""Addresses of the production side's pages."""

from django.urls import URLPattern

from endpoints import views
from playground.site import page

app_name = "endpoints"
urlpatterns: list[URLPattern] = [
    page("", views.listing, "list"),
    page("keys/", views.keys_page, "keys"),
    page("keys/<int:pk>/revoke/", views.revoke, "revoke"),
    page("keys/webhooks/", views.webhook_secret, "webhook-secret"),
    page("promote/<int:pk>/", views.promote, "promote"),
    page("on/<slug:name>/", views.detail, "detail"),
    page("on/<slug:name>/rollback/", views.rollback, "rollback"),
    page("on/<slug:name>/stop/", views.stop, "stop"),
    page("on/<slug:name>/offline/", views.offline, "offline"),
]
