"""List the live WebSockets of all processes (who, from where, since when, how much), and disconnect them.

Each page view makes the processes list their sockets anew. `Kick` rows disconnect the selected ones: every process
acts on them within a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, F, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from relay.admin.observed import ObservedAdmin, moment
from relay.admin.preview import count
from relay.fleet.connections import look
from relay.models import Kick, LiveConnection, Process

MOST_AT_ONCE = 500
"""Connections that can be selected individually; a user's or a route's are disconnected by a single order."""

FIELDS = {"socket": "pk", "user": "user_id", "route": "route"}
"""The kinds of kick, and the field that each compares."""

Rows = QuerySet[LiveConnection]


@admin.register(LiveConnection)
class LiveConnectionAdmin(ObservedAdmin):
    change_list_template = "admin/relay/connections.html"
    change_form_template = "admin/relay/connection.html"
    list_display = ("who", "source", "leads", "since", "relayed", "payload", "token", "shown_process")
    list_filter = ("route", "backend", ("process", admin.RelatedOnlyFieldListFilter))
    list_select_related = ("process",)
    search_fields = ("id", "user_id", "email", "client", "origin", "route")
    search_help_text = "A user, email, address, origin, route or the socket's id"
    list_per_page = 100
    list_max_show_all = 1000
    actions = ("disconnect_selected", "disconnect_users", "disconnect_routes")
    fields = (
        "user_id",
        "email",
        "shown_roles",
        "client",
        "origin",
        "route",
        "backend",
        "url",
        "since",
        "token",
        "relayed",
        "payload",
        "shown_process",
        "id",
    )

    def get_queryset(self, request: HttpRequest) -> Rows:
        rows: Rows = super().get_queryset(request)
        return rows.filter(process__in=Process.objects.living()).annotate(
            all_messages=F("messages_to_backend") + F("messages_to_client"),
            all_bytes=F("bytes_to_backend") + F("bytes_to_client"),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self.fields

    def has_disconnect_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("relay.delete_liveconnection"))

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.disconnect)
        return [path("disconnect/", view, name="relay_liveconnection_disconnect"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = dict(extra_context or {})
        if request.method == "GET" and self.has_view_permission(request):
            context["seen"] = look()
        return super().changelist_view(request, context)

    # Columns

    @admin.display(description="who", ordering="user_id")
    def who(self, row: LiveConnection) -> SafeString:
        if not row.user_id:
            return format_html('<span class="quiet">{}</span>', "nobody")
        about = ", ".join([part for part in (row.email, *row.roles) if part])
        return format_html('<strong>{}</strong> <span class="gw-line quiet">{}</span>', row.user_id, about)

    @admin.display(description="from", ordering="client")
    def source(self, row: LiveConnection) -> SafeString:
        return format_html('{} <span class="gw-line quiet">{}</span>', row.client or "-", row.origin)

    @admin.display(description="route", ordering="route")
    def leads(self, row: LiveConnection) -> SafeString:
        return format_html('{} <span class="gw-line quiet">{}</span>', row.route, row.backend)

    @admin.display(description="open", ordering="opened_at")
    def since(self, row: LiveConnection) -> SafeString | str:
        return moment(row.opened_at)

    @admin.display(description="messages", ordering="all_messages")
    def relayed(self, row: LiveConnection) -> SafeString:
        return _both(f"{row.messages_to_backend:,}", f"{row.messages_to_client:,}")

    @admin.display(description="bytes", ordering="all_bytes")
    def payload(self, row: LiveConnection) -> SafeString:
        return _both(filesizeformat(row.bytes_to_backend), filesizeformat(row.bytes_to_client))

    @admin.display(description="token's end", ordering="expires_at")
    def token(self, row: LiveConnection) -> SafeString | str:
        return moment(row.expires_at)

    @admin.display(description="roles")
    def shown_roles(self, row: LiveConnection) -> str:
        return ", ".join(row.roles) or "-"

    @admin.display(description="process", ordering="process")
    def shown_process(self, row: LiveConnection) -> str:
        return str(row.process)

    # Disconnecting

    @admin.action(permissions=["disconnect"], description="Disconnect")
    def disconnect_selected(self, request: HttpRequest, queryset: Rows) -> HttpResponse | None:
        if queryset.count() > MOST_AT_ONCE:
            sentence = f"At most {MOST_AT_ONCE} connections at once; disconnect their users or routes instead."
            self.message_user(request, sentence, messages.ERROR)
            return None
        return self._ask(request, "socket", queryset)

    @admin.action(permissions=["disconnect"], description="Disconnect their users everywhere")
    def disconnect_users(self, request: HttpRequest, queryset: Rows) -> HttpResponse | None:
        return self._ask(request, "user", queryset.exclude(user_id=""))

    @admin.action(permissions=["disconnect"], description="Disconnect everybody on their routes")
    def disconnect_routes(self, request: HttpRequest, queryset: Rows) -> HttpResponse | None:
        return self._ask(request, "route", queryset)

    def disconnect(self, request: HttpRequest) -> HttpResponse:
        """Ask for confirmation, with the number of connections; on POST, disconnect them."""
        if not self.has_disconnect_permission(request):
            raise PermissionDenied
        asked = request.POST if request.method == "POST" else request.GET
        kind = asked.get("kind", "")
        if kind not in FIELDS:
            return HttpResponseRedirect(reverse("admin:relay_liveconnection_changelist"))
        picked = self.get_queryset(request).filter(**{f"{FIELDS[kind]}__in": asked.getlist("value")})
        if request.method == "POST":
            return self._disconnect(request, kind, picked)
        look()
        return self._ask(request, kind, picked) or HttpResponseRedirect(
            reverse("admin:relay_liveconnection_changelist")
        )

    def _ask(self, request: HttpRequest, kind: str, picked: Rows) -> HttpResponse | None:
        """The confirmation page with the number of connections; None, with a message, if there are none."""
        concerned = self._concerned(kind, picked)
        if not concerned:
            self.message_user(request, "There is nobody to disconnect; they are already gone.", messages.INFO)
            return None
        number = sum(n for _, n in concerned)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Disconnect {count(number, 'live connection')}?",
            "opts": self.opts,
            "kind": kind,
            "concerned": concerned,
            "number": number,
            "rows": picked[:100] if kind == "socket" else (),
        }
        return TemplateResponse(request, "admin/relay/disconnect.html", context)

    def _concerned(self, kind: str, picked: Rows) -> list[tuple[str, int]]:
        """Each value a kick would name, with the number of connections it ends, including ones not selected."""
        field = FIELDS[kind]
        values = picked.order_by().values_list(field, flat=True).distinct()
        rows = LiveConnection.objects.filter(process__in=Process.objects.living(), **{f"{field}__in": list(values)})
        counts = rows.order_by().values_list(field).annotate(n=Count("pk"))
        return sorted(counts, key=lambda each: (-each[1], each[0]))

    def _disconnect(self, request: HttpRequest, kind: str, picked: Rows) -> HttpResponse:
        concerned = self._concerned(kind, picked)
        with transaction.atomic():
            Kick.objects.bulk_create([Kick(kind=kind, value=value) for value, _ in concerned])
            self._log(request, kind, concerned)
        number = sum(n for _, n in concerned)
        sentence = f"Disconnecting {count(number, 'live connection')}." if number else "They are already gone."
        self.message_user(request, sentence, messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:relay_liveconnection_changelist"))

    def _log(self, request: HttpRequest, kind: str, concerned: Sequence[tuple[str, int]]) -> None:
        entry = {
            "user_id": request.user.pk,
            "content_type": ContentType.objects.get_for_model(LiveConnection),
            "action_flag": DELETION,
        }
        LogEntry.objects.bulk_create(
            LogEntry(
                object_id=value,
                object_repr=f"{kind} {value}"[:200],
                change_message=f"Disconnected: {count(n, 'live connection')}.",
                **entry,
            )
            for value, n in concerned
        )


def _both(to_backend: str, to_client: str) -> SafeString:
    return format_html(
        '<span class="gw-line" title="to the backend">\u2191 {}</span> '
        '<span class="gw-line" title="to the client">\u2193 {}</span>',
        to_backend,
        to_client,
    )
