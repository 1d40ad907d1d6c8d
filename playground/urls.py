from django.urls import include, path

urlpatterns = [
    path("endpoints/", include("endpoints.urls")),
    path("", include("playground.site")),
]
