"""The admin's first page: what all processes are doing, and what needs attention. Its script updates it every 2 s."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, JsonResponse
from django.urls import URLPattern, path
from django.utils.safestring import SafeString

from relay.admin.observed import ObservedAdmin, moment, span
from relay.fleet.models import GONE_AFTER
from relay.fleet.overview import overview
from relay.models import Process


@admin.register(Process)
class ProcessAdmin(ObservedAdmin):
    """The processes as a plain list, for browsers without scripts, and the figures for the dashboard's script."""

    list_display = ("__str__", "state", "heard", "version", "started", "sockets", "requests", "messages", "revision")
    list_display_links = None
    search_fields = ("host",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return Process.objects.with_silence()

    def get_urls(self) -> list[URLPattern]:
        figures = path("figures.json", self.admin_site.admin_view(self.figures), name="relay_process_figures")
        return [figures, *super().get_urls()]

    def figures(self, request: HttpRequest) -> JsonResponse:
        """The dashboard's figures as JSON; ``since`` as in `overview`."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        since = request.GET.get("since", "")
        return JsonResponse(overview(int(since) if since.isascii() and since.isdigit() and len(since) < 16 else 0))

    # Columns

    @admin.display(description="state")
    def state(self, process: Any) -> str:
        if process.silence >= GONE_AFTER:
            return "gone"
        return "draining" if process.draining else "serving"

    @admin.display(description="last heard from", ordering="seen_at")
    def heard(self, process: Any) -> str:
        return f"{span(process.silence)} ago"

    @admin.display(description="started", ordering="started_at")
    def started(self, process: Process) -> SafeString | str:
        return moment(process.started_at)

    @admin.display(description="live sockets")
    def sockets(self, process: Process) -> int:
        return sum(n for _, _, n in process.figures.get("sockets", ()))

    @admin.display(description="requests/s")
    def requests(self, process: Process) -> str:
        return f"{process.figures.get('requests', 0):g}"

    @admin.display(description="messages/s")
    def messages(self, process: Process) -> str:
        return f"{process.figures.get('messages', 0):g}"
