"""The latest refusals, explained; a refused origin can be added to the list, after confirmation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.utils.safestring import SafeString

from relay import validation
from relay.access import origin_refused
from relay.admin import explaining
from relay.admin.mends import allowable, known_backends, known_routes, mend, origins_in_force
from relay.admin.observed import ObservedAdmin, moment
from relay.fleet.reporter import REFUSALS_KEPT
from relay.models import Origin, RefusalRecord
from relay.refusals import KINDS


class RefusalList(ChangeList):
    """A page of refusals, each with its current fix."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = explained(self.result_list, request)


def explained(refusals: Iterable[Any], request: HttpRequest) -> list[Any]:
    """Refusals with their ``mend`` and two addresses, each empty if the user may not go there.

    ``allow`` adds the origin to the list; ``explain`` shows what would happen to the request now.
    """
    routes, backends, origins = known_routes(), known_backends(), origins_in_force()
    may_explain = explaining.may(request)
    may_add, here = request.user.has_perm("relay.add_origin"), request.get_full_path()
    rows = list(refusals)
    for row in rows:
        row.mend, row.allow, row.explain = mend(row, routes, backends, origins.allows), "", ""
        if may_explain and row.path:
            row.explain = f"{reverse('admin:relay_refusalrecord_explain')}?{urlencode({'refusal': row.pk})}"
        if may_add and row.mend.origin:
            ask = reverse("admin:relay_refusalrecord_allow")
            row.allow = f"{ask}?{urlencode({'refusal': row.pk, 'next': here})}"
    return rows


class ByBackend(admin.SimpleListFilter):
    """Filters by backend; the empty name of refusals that reached none is not offered."""

    title, parameter_name = "backend", "backend"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = RefusalRecord.objects.exclude(backend="").order_by("backend").values_list("backend", flat=True)
        return [(name, name) for name in names.distinct()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[RefusalRecord]) -> QuerySet[RefusalRecord]:
        return queryset.filter(backend=self.value()) if self.value() else queryset


@admin.register(RefusalRecord)
class RefusalAdmin(ObservedAdmin):
    change_list_template = "admin/relay/refusals.html"
    change_form_template = "admin/relay/refusal.html"
    list_display = ("when", "refused", "why", "who", "request")
    list_display_links = ("when",)
    list_filter = ("code", "kind", ByBackend)
    search_fields = ("request_id", "path", "client", "user_id", "origin", "detail")
    search_help_text = "A request id, path, address, user or origin"
    list_per_page = 50
    show_full_result_count = False
    fields = ("when", "refused", "why", "who", "origin", "route", "backend", "request_id", "process")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return RefusalList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        found = super().get_object(request, object_id, from_field)
        return explained([found], request)[0] if found is not None else None

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self.fields

    def get_urls(self) -> list[URLPattern]:
        allow = path("allow/", self.admin_site.admin_view(self.allow), name="relay_refusalrecord_allow")
        explain = path("explain/", self.admin_site.admin_view(explaining.view), name="relay_refusalrecord_explain")
        return [allow, explain, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        told = {"kept": REFUSALS_KEPT, "may_explain": explaining.may(request)}
        return super().changelist_view(request, {**(extra_context or {}), **told})

    # Columns

    @admin.display(description="when", ordering="at")
    def when(self, refusal: RefusalRecord) -> SafeString | str:
        return moment(refusal.at)

    @admin.display(description="refused", ordering="code")
    def refused(self, refusal: RefusalRecord) -> SafeString:
        """The code, and the method and path."""
        status = refusal.close_code or refusal.status
        asked = f"{refusal.method or refusal.get_kind_display()} {refusal.path}".strip()
        return format_html(
            '<strong class="gw-code">{}</strong>{} <span class="gw-asked">{}</span>',
            refusal.code,
            f" {status}" if status else "",
            asked,
        )

    @admin.display(description="what was compared, and how to fix it")
    def why(self, refusal: Any) -> SafeString:
        found = refusal.mend
        detail = refusal.detail or (KINDS[refusal.code].sentence if refusal.code in KINDS else "")
        explain = (("Explain", refusal.explain),) if refusal.explain else ()
        links = format_html_join(" ", '<a href="{1}">{0}</a>', (*found.links, *explain))
        button: SafeString | str = ""
        if refusal.allow:
            button = format_html('<a class="gw-button" href="{}">Allow {} …</a>', refusal.allow, found.origin)
        return format_html(
            '<span class="gw-detail">{}</span><span class="gw-mend">{} {} {}</span>',
            detail,
            found.sentence,
            links,
            button,
        )

    @admin.display(description="who", ordering="client")
    def who(self, refusal: RefusalRecord) -> SafeString | str:
        user = f"user {refusal.user_id}" if refusal.user_id else ""
        parts = [(part,) for part in (user, refusal.client) if part]
        return format_html_join(" ", '<span class="gw-line">{}</span>', parts) or "-"

    @admin.display(description="request id", ordering="request_id")
    def request(self, refusal: RefusalRecord) -> SafeString | str:
        return format_html('<code class="gw-id">{}</code>', refusal.request_id) if refusal.request_id else "-"

    # Allowing an origin

    def allow(self, request: HttpRequest) -> HttpResponse:
        """Ask whether to allow a refused origin; on POST, add it to the list, or enable it there."""
        if request.method != "POST":
            return self._ask(request)
        try:
            self._allow(request, request.POST.get("origin", ""), request.POST.get("refusal", ""))
        except ValidationError as exc:
            self.message_user(request, " ".join(exc.messages), messages.ERROR)
        return HttpResponseRedirect(_way_back(request, request.POST.get("next", "")))

    def _ask(self, request: HttpRequest) -> HttpResponse:
        """What was refused and what it would be allowed to do. The origin is a record's, never one out of a link."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        back = _way_back(request, request.GET.get("next", ""))
        refusal = self.get_object(request, request.GET.get("refusal", ""))
        if refusal is None or not refusal.mend.origin:
            gone = "This refusal is no longer kept; newer ones have replaced it."
            self.message_user(request, gone if refusal is None else refusal.mend.sentence, messages.INFO)
            return HttpResponseRedirect(back)
        known = Origin.objects.filter(origin=refusal.mend.origin).first()
        self._may(request, "change" if known else "add")
        context = {
            **self.admin_site.each_context(request),
            "title": f"Allow {refusal.mend.origin}?",
            "opts": self.opts,
            "refusal": refusal,
            "compared": origin_refused(refusal.mend.origin, origins_in_force()).detail,
            "known": known,
            "when": moment(refusal.at),
            "back": back,
        }
        return TemplateResponse(request, "admin/relay/allow_origin.html", context)

    def _allow(self, request: HttpRequest, text: str, request_id: str) -> None:
        """Raises ValidationError, PermissionDenied."""
        if not allowable(text):
            raise ValidationError(f"{text[:200]!r} is not an origin that can be on the list.")
        after = f"from refusal {validation.one_line(request_id)}"[:150] if request_id else "after a refusal"
        origin = Origin(origin=allowable(text), note=f"allowed {after}")
        known = Origin.objects.filter(origin=origin.origin).first()
        self._may(request, "change" if known else "add")
        in_force = "Handshakes from it work within a second."
        if known is None:
            origin.save()
            self.log_addition(request, origin, f"Allowed {after}.")
            self.message_user(request, f"The origin {origin.origin} is on the list. {in_force}", messages.SUCCESS)
        elif known.enabled:
            self.message_user(request, f"The origin {known.origin} is already on the list.", messages.INFO)
        else:
            known.enabled = True
            known.save()
            self.log_change(request, known, f"Enabled {after}.")
            self.message_user(request, f"The origin {known.origin} is enabled. {in_force}", messages.SUCCESS)

    def _may(self, request: HttpRequest, what: str) -> None:
        if not request.user.has_perm(f"relay.{what}_origin"):
            raise PermissionDenied


def _way_back(request: HttpRequest, wanted: str) -> str:
    """The wanted page if it is ours, else the list: never an open redirect."""
    if url_has_allowed_host_and_scheme(wanted, {request.get_host()}, request.is_secure()):
        return wanted
    return reverse("admin:relay_refusalrecord_changelist")
