"""Which view answers: the gateway's own paths first, everything else belongs to the relay."""

from __future__ import annotations

from django.conf import settings
from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, re_path

from relay.http import views
from relay.pages import health, logout, metrics, openapi, session, ticket

urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
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
