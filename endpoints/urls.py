"""Addresses of the production side's pages."""

from django.urls import URLPattern

from endpoints import views
from endpoints.models import ApiKey, Endpoint
from playground.models import Deployment
from playground.site import page

app_name = "endpoints"
urlpatterns: list[URLPattern] = [
    page("", views.listing, "list", reads="view"),
    page("keys/", views.keys_page, "keys", reads="view", writes="keys"),
    page("keys/<int:pk>/revoke/", views.revoke, "revoke", writes="keys", of=ApiKey),
    page("keys/webhooks/", views.webhook_secret, "webhook-secret", writes="keys"),
    page("promote/<int:pk>/", views.promote, "promote", reads="view", writes="promote", of=Deployment),
    page("on/<slug:name>/", views.detail, "detail", reads="view", of=Endpoint),
    page("on/<slug:name>/rollback/", views.rollback, "rollback", writes="promote", of=Endpoint),
    page("on/<slug:name>/stop/", views.stop, "stop", writes="promote", of=Endpoint),
    page("on/<slug:name>/offline/", views.offline, "offline", writes="promote", of=Endpoint),
]
