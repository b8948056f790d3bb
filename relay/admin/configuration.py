"""Backends, routes and origins in the admin. A change takes effect in every process within a second.

A change that would close live sockets has to be confirmed first (`relay.admin.preview`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db import models
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from relay import checks, validation
from relay.admin import checking
from relay.admin.preview import PreviewedAdmin
from relay.fleet import overview
from relay.models import Backend, Counted, Origin, Revision, Route
from relay.routing.loader import InvalidConfiguration

if TYPE_CHECKING:  # generic for type checkers only
    StackedInline = admin.StackedInline[Route, Backend]
    Rows = QuerySet[Any]
else:
    StackedInline = admin.StackedInline

ROUTE_FIELDS: tuple[tuple[str | None, Any], ...] = (
    (None, {"fields": ("path", "kind", "enabled")}),
    ("Who gets in", {"fields": ("access", "roles")}),
    ("HTTP", {"fields": ("methods",)}),
    ("WebSocket", {"fields": Route.WEBSOCKET_ONLY}),
    ("Towards the backend", {"fields": ("upstream_path",)}),
)


class SwitchedAdmin(PreviewedAdmin):
    """An admin for rows that can be enabled and disabled, many at a time; each change is logged in the admin."""

    actions: tuple[str, ...] = ("enable", "disable")
    previewed_actions = ("enable", "disable", "delete_selected")
    list_per_page = 50

    @admin.action(permissions=["change"], description="Enable")
    def enable(self, request: HttpRequest, queryset: Rows) -> None:
        self._switch(request, queryset, on=True)

    @admin.action(permissions=["change"], description="Disable (closes open sockets)")
    def disable(self, request: HttpRequest, queryset: Rows) -> None:
        self._switch(request, queryset, on=False)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Show the warnings about what was just saved here, not only at the next start."""
        super().save_related(request, form, formsets, change)
        saved = [row for formset in formsets for row in (*formset.new_objects, *dict(formset.changed_objects))]
        self._warn(request, [form.instance, *saved])

    def _warn(self, request: HttpRequest, rows: Iterable[Counted]) -> None:
        for message in checks.not_meant(rows):
            self.message_user(request, checks.line(message), messages.WARNING)

    def _switch(self, request: HttpRequest, queryset: Rows, on: bool) -> None:
        """Change the rows that need it, and log each, in one transaction."""
        word = "enabled" if on else "disabled"
        rows: list[Counted] = list(queryset.filter(enabled=not on))
        if not rows:
            self.message_user(request, f"All of them are already {word}.", messages.INFO)
            return
        with Revision.counting("config"):
            self.model._default_manager.filter(pk__in=[row.pk for row in rows]).update(enabled=on)
            for row in rows:
                self.log_change(request, row, f"{word.capitalize()}.")
        self.message_user(request, f"{len(rows)} {word}.", messages.SUCCESS)
        if on:
            self._warn(request, self.model._default_manager.filter(pk__in=[row.pk for row in rows]))


class RouteInline(StackedInline):
    """A backend's routes on its own page."""

    model = Route
    fieldsets = ROUTE_FIELDS
    extra = 0
    show_change_link = True
    classes = ("collapse",)


HEALTH: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "up": ("up", "good"),
        "partly": ("partly up", "warn"),
        "down": ("down", "bad"),
        "unasked": ("not asked", ""),
        "unknown": ("not known yet", ""),
        "disabled": ("disabled", ""),
    }
)
"""A state of `relay.fleet.overview` as text and as a colour, as on the dashboard."""


class BackendList(ChangeList):
    """A page of backends, each with its current state in all processes."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        seen = {backend["id"]: backend for backend in overview.backends()}
        self.result_list = list(self.result_list)
        for row in self.result_list:
            row.seen = seen[row.pk]


@admin.register(Backend)
class BackendAdmin(SwitchedAdmin):
    list_display = ("name", "health", "listens_at", "leads_here", "enabled", "health_path")
    list_filter = ("enabled", "tls_verify", "forward_token")
    search_fields = ("name", "urls")
    inlines = (RouteInline,)
    change_form_template = "admin/relay/backend_change_form.html"
    actions = (*SwitchedAdmin.actions, "check_backends")
    fieldsets = (
        (None, {"fields": ("name", "urls", "enabled")}),
        ("Health", {"fields": ("health_path",)}),
        ("Limits", {"fields": ("connect_timeout", "read_timeout", "max_body_size", "max_message_size")}),
        ("What the backend sees", {"fields": ("websocket_origin", "forward_token", "forward_host")}),
        ("TLS", {"fields": ("tls_verify",)}),
    )
    formfield_overrides: ClassVar = {models.TextField: {"widget": forms.Textarea({"rows": 3, "cols": 60})}}

    def get_queryset(self, request: HttpRequest) -> Rows:
        rows: Rows = super().get_queryset(request).annotate(route_count=Count("routes"))
        return rows

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return BackendList

    @admin.display(description="health")
    def health(self, backend: Any) -> SafeString:
        """The dashboard's verdict: failures in the last minute count, even if the health path answers."""
        seen = backend.seen
        failing = seen["failures"] and seen["state"] != "down"
        words, tone = ("failing", "bad") if failing else HEALTH[seen["state"]]
        causes = [(f"{url['url']}: {url['cause']}",) for url in seen["urls"] if url["up"] < url["seen"]]
        if seen["failures"]:
            causes.append((f"{seen['failures']} failed in the last minute: {seen['failure']}",))
        lines = format_html_join("", '<span class="gw-line quiet">{}</span>', causes)
        return format_html('<span class="gw-state {}">{}</span>{}', tone, words, lines)

    @admin.action(permissions=["change"], description="Check: can they be reached, and do they accept sockets?")
    def check_backends(self, request: HttpRequest, queryset: Rows) -> TemplateResponse | None:
        names = list(queryset.values_list("name", flat=True)[: checking.MOST + 1])
        if len(names) > checking.MOST:
            sentence = f"At most {checking.MOST} at once; use manage.py check_backends to check them all."
            self.message_user(request, sentence, messages.ERROR)
            return None
        try:
            findings = checking.findings(names, request.get_host())
        except InvalidConfiguration as exc:
            self.message_user(request, f"The configuration can't be used: {'; '.join(exc.problems)}", messages.ERROR)
            return None
        failed = sum(finding.outcome == "FAILS" for finding in findings)
        context = {
            **self.admin_site.each_context(request),
            "title": f"{failed} of {len(findings)} checks failed" if failed else f"All {len(findings)} checks passed",
            "opts": self.opts,
            "findings": findings,
            "backends": queryset,
        }
        return TemplateResponse(request, "admin/relay/check.html", context)

    @admin.display(description="urls", ordering="urls")
    def listens_at(self, backend: Backend) -> str:
        return ", ".join(validation.lines(backend.urls))

    @admin.display(description="routes", ordering="route_count")
    def leads_here(self, backend: Any) -> str:
        url = f"{reverse('admin:relay_route_changelist')}?backend__id__exact={backend.pk}"
        return format_html('<a href="{}">{}</a>', url, backend.route_count)


@admin.register(Route)
class RouteAdmin(SwitchedAdmin):
    list_display = ("path", "kind", "backend", "admits", "enabled", "methods", "upstream_path")
    list_filter = ("kind", "access", "enabled", "backend")
    list_select_related = ("backend",)
    search_fields = ("path", "roles", "backend__name")
    autocomplete_fields = ("backend",)
    fieldsets = (
        (None, {"fields": ("path", "kind", "backend", "enabled")}),
        *ROUTE_FIELDS[1:],
    )

    @admin.display(description="who gets in", ordering="access")
    def admits(self, route: Route) -> str:
        return ", ".join(validation.items(route.roles)) if route.access == Route.Access.ROLES else route.access


@admin.register(Origin)
class OriginAdmin(SwitchedAdmin):
    list_display = ("origin", "note", "enabled")
    list_filter = ("enabled",)
    search_fields = ("origin", "note")
