"""Addresses of the production side's pages."""

from django.urls import URLPattern

from endpoints import key_views, request_views, views
from endpoints.models import ApiKey, Endpoint
from playground.models import Deployment
from playground.site import page

app_name = "endpoints"
urlpatterns: list[URLPattern] = [
    page("", views.listing, "list", reads="view"),
    page("keys/", key_views.listing, "keys", reads="view", writes="keys"),
    page("keys/<int:pk>/", key_views.one, "key", reads="view", writes="keys", of=ApiKey),
    page("keys/<int:pk>/rotate/", key_views.rotate, "rotate", writes="keys", of=ApiKey),
    page("keys/<int:pk>/revoke/", key_views.revoke, "revoke", writes="keys", of=ApiKey),
    page("keys/webhooks/", key_views.webhook_secret, "webhook-secret", writes="keys"),
    page("promote/<int:pk>/", views.promote, "promote", reads="view", writes="promote", of=Deployment),
    page("on/<slug:name>/", views.detail, "detail", reads="view", of=Endpoint),
    page("on/<slug:name>/rollback/", views.rollback, "rollback", writes="promote", of=Endpoint),
    page("on/<slug:name>/stop/", views.stop, "stop", writes="promote", of=Endpoint),
    page("on/<slug:name>/requests/", request_views.listing, "requests", reads="view", of=Endpoint),
    page("on/<slug:name>/requests/log/", request_views.set_log, "logging", writes="promote", of=Endpoint),
    page("on/<slug:name>/requests/add/", request_views.add, "requests-add", writes="chat", of=Endpoint),
    page("on/<slug:name>/requests/<int:pk>/", request_views.one, "request", reads="chat", of=Endpoint),
    page(
        "on/<slug:name>/requests/<int:pk>/open/",
        request_views.open_one,
        "request-open",
        writes="chat",
        of=Endpoint,
    ),
    page("on/<slug:name>/offline/", views.offline, "offline", writes="promote", of=Endpoint),
]
