"""Addresses of the site's pages. `page` lets only signed-in people through; what is public says so."""

from collections.abc import Callable
from typing import Any

from django.contrib.auth.decorators import login_required
from django.urls import URLPattern, path

from playground.views import (
    adapters,
    conversations,
    deployments,
    home,
    jobs,
    models,
    nodes,
    own_code,
    search,
    signin,
    uploads,
    widgets,
)


def page(route: str, view: Callable[..., Any], name: str) -> URLPattern:
    """One address that needs a signed-in person."""
    return path(route, login_required(view), name=name)


urlpatterns: list[URLPattern] = [
    path("sign-in/", signin.page, name="sign-in"),
    path("sign-in/<str:token>", signin.by_link, name="sign-in-link"),
    path("sign-out/", signin.leave, name="sign-out"),
    page("", home.page, "home"),
    page("start-demo/", home.start_demo, "start-demo"),
    page("models/", models.listing, "models"),
    page("models/rescan/", models.rescan, "models-rescan"),
    page("models/own/", uploads.page, "own-models"),
    page("models/own/uploads/", uploads.begin, "upload-begin"),
    page("models/own/uploads/<int:pk>/", uploads.piece, "upload-piece"),
    page("models/own/uploads/finish/", uploads.finish, "upload-finish"),
    page("models/own/uploads/remove/", uploads.remove, "upload-remove"),
    page("models/own/bucket/", uploads.from_bucket, "import-bucket"),
    page("models/own/bucket/<int:pk>/stop/", uploads.stop, "import-stop"),
    page("models/own/credentials/", uploads.keep_credentials, "s3-keep"),
    page("models/own/credentials/forget/", uploads.forget_credentials, "s3-forget"),
    page("models/<int:pk>/code/", own_code.page, "own-code"),
    page("models/<int:pk>/code/allow/", own_code.allow, "own-code-allow"),
    page("models/<int:pk>/code/withdraw/", own_code.withdraw, "own-code-withdraw"),
    page("models/<int:pk>/", models.page, "model"),
    page("models/<int:pk>/form/", models.form, "model-form"),
    page("models/<int:pk>/start/", models.start, "model-start"),
    page("models/<int:pk>/adapters/", adapters.add, "adapter-add"),
    page("models/adapters/<int:pk>/remove/", adapters.remove, "adapter-remove"),
    page("running/", deployments.listing, "running"),
    page("running/stop/", deployments.stop_many, "running-stop"),
    page("running/<int:pk>/", deployments.page, "deployment"),
    page("running/<int:pk>/status/", deployments.status, "deployment-status"),
    page("running/<int:pk>/logs/", deployments.logs, "deployment-logs"),
    page("running/<int:pk>/start/", deployments.start, "deployment-start"),
    page("running/<int:pk>/stop/", deployments.stop, "deployment-stop"),
    page("running/<int:pk>/restart/", deployments.restart, "deployment-restart"),
    page("running/<int:pk>/delete/", deployments.delete, "deployment-delete"),
    page("running/<int:pk>/idle/", deployments.idle, "deployment-idle"),
    page("running/<int:pk>/free/", deployments.free, "deployment-free"),
    page("playground/", conversations.index, "playground"),
    page("playground/new/", conversations.new, "conversation-new"),
    page("playground/<int:pk>/", conversations.page, "conversation"),
    page("playground/<int:pk>/turns/", conversations.turns, "conversation-turns"),
    page("playground/<int:pk>/rename/", conversations.rename, "conversation-rename"),
    page("playground/<int:pk>/delete/", conversations.delete, "conversation-delete"),
    page("playground/<int:pk>/settings/", conversations.settings, "conversation-settings"),
    page("playground/<int:pk>/code/", conversations.code, "conversation-code"),
    page("playground/<int:pk>/send/", conversations.send, "turn-send"),
    page("playground/<int:pk>/pictures/", widgets.attach, "picture-attach"),
    page("playground/pictures/<int:pk>/", widgets.image, "picture"),
    page("playground/pictures/<int:pk>/discard/", widgets.discard, "picture-discard"),
    page("playground/answers/<int:pk>/vectors/<int:place>/", widgets.vector, "vector"),
    page("playground/columns/<int:pk>/", conversations.column, "column"),
    page("playground/columns/<int:pk>/start/", conversations.start, "column-start"),
    page("playground/messages/<int:pk>/", conversations.turn, "turn"),
    page("playground/messages/<int:pk>/edit/", conversations.edit, "turn-edit"),
    page("playground/answers/<int:pk>/", conversations.answer, "generation"),
    page("playground/answers/<int:pk>/again/", conversations.regenerate, "generation-regenerate"),
    page("playground/answers/<int:pk>/stop/", conversations.stop, "generation-stop"),
    page("playground/answers/<int:pk>/request/", conversations.effective, "generation-request"),
    page("nodes/", nodes.page, "nodes"),
    page("nodes/<int:pk>/install/", nodes.install, "node-install"),
    page("nodes/<int:pk>/price/", nodes.price, "node-price"),
    page("nodes/<int:pk>/remove/<int:environment>/", nodes.remove, "node-remove"),
    page("jobs/<int:pk>/cancel/", jobs.cancel, "job-cancel"),
    page("bar/", search.bar, "bar"),
    page("find/", search.find, "find"),
]
