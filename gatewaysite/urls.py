"""The URL configuration: the gateway's own paths first; everything else goes to the relay."""

from __future__ import annotations

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseNotFound
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views.generic import RedirectView

from relay.http import views
from relay.pages import health, logout, metrics, openapi, session, ticket


def no_such_file(request: HttpRequest) -> HttpResponse:
    """Only WhiteNoise serves paths below `STATIC_URL`; a missing file must not fall through to the relay's view."""
    return HttpResponseNotFound("There is no such file.\n", content_type="text/plain; charset=utf-8")


urlpatterns: list[URLPattern | URLResolver] = [
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    re_path(f"^{settings.STATIC_URL.lstrip('/')}", no_such_file),
    path("health/live", health.live),
    path("health/ready", health.ready),
    path("health", health.health),
    path("metrics", metrics.metrics),
    path("gateway/session", session.session),
    path("gateway/ticket", ticket.ticket),
    path("gateway/logout", logout.logout),
    path("gateway/openapi.json", openapi.openapi),
]
if settings.RELAY.demo:
    urlpatterns.append(path("", include("demo.urls")))
urlpatterns.append(re_path("", views.relay))
