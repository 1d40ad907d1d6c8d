"""Where everything is mounted. The one place that knows of pages and of the management API of both sides."""

from django.urls import include, path

from endpoints import api as endpoints_api
from endpoints import requests_api
from playground.api import site as management
from playground.declared import SELF
from playground.site import page, public
from playground.views import api as described

management_api = management.made(
    [(endpoints_api.router, endpoints_api.REFUSED), (requests_api.router, requests_api.REFUSED)]
)
_description = described.Description(management_api)
EVERYWHERE = "It tells how the API is called, and nothing of what is kept here."

urlpatterns = [
    page("api/", _description.page, "api-docs", reads=SELF),
    public("api/v1/openapi.json", _description.openapi, "api-description", why=EVERYWHERE),
    path("api/v1/", management_api.urls),
    public("api/v1/<path:rest>", described.nothing, "api-nothing", why="It answers that nothing is there."),
    path("endpoints/", include("endpoints.urls")),
    path("usage/", include("endpoints.usage_urls")),
    path("", include("playground.site")),
]
