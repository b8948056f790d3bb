"""Before a configuration change is kept, the admin shows which live sockets it would close.

The change is made in a transaction, the resulting configuration is read, and every socket is judged by it with the
function that the processes will use. If any would close, the change is rolled back, and a page asks for confirmation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.messages.storage import default_storage
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from relay.fleet.connections import Listed, Look, listed, look
from relay.models import Revision
from relay.routing.endings import ended_by
from relay.routing.loader import InvalidConfiguration, load_snapshot

if TYPE_CHECKING:  # generic for type checkers only
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

AGREED = "_agreed"
"""Posted by the confirmation page: the sockets may close."""

Extra = dict[str, Any] | None


class PreviewedAdmin(ModelAdmin):
    """Asks for confirmation before a save, a deletion or an action closes sockets.

    Attributes:
        previewed_actions: Actions that change the configuration.
    """

    previewed_actions: tuple[str, ...] = ("delete_selected",)

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Extra = None
    ) -> HttpResponse:
        view = super().changeform_view
        return self._previewed(request, lambda: view(request, object_id, form_url, extra_context))

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Extra = None) -> HttpResponse:
        view = super().delete_view
        return self._previewed(request, lambda: view(request, object_id, extra_context))

    def changelist_view(self, request: HttpRequest, extra_context: Extra = None) -> HttpResponse:
        view = super().changelist_view
        chosen = set(request.POST.getlist("action"))
        if chosen.isdisjoint(self.previewed_actions) or (chosen == {"delete_selected"} and "post" not in request.POST):
            return view(request, extra_context)
        return self._previewed(request, lambda: view(request, extra_context))

    def _previewed(self, request: HttpRequest, view: Callable[[], HttpResponse]) -> HttpResponse:
        """The view's response or, with nothing changed yet, the confirmation page."""
        if request.method != "POST" or AGREED in request.POST:
            return view()
        seen = look()  # before the transaction, so that the processes' lists become visible in it
        with transaction.atomic():
            before = Revision.current().config
            response = view()
            closing = _closing() if Revision.current().config != before else []
            if closing:
                transaction.set_rollback(True)
        if not closing:
            return response
        request._messages = default_storage(request)  # type: ignore[attr-defined]  # its messages are about a change that was rolled back
        return self._ask(request, closing, seen)

    def _ask(self, request: HttpRequest, closing: list[Listed], seen: Look) -> HttpResponse:
        number = len(closing)
        context = {
            **self.admin_site.each_context(request),
            "title": f"This closes {count(number, 'live socket')}",
            "opts": self.opts,
            "say": "Nothing has changed yet. The new configuration closes these live sockets: their clients get close "
            "code 1012 within a second, and may reconnect if they are still allowed. No other sockets are affected.",
            "go": f"Continue, and close {count(number, 'socket')}",
            "posted": posted(request),
        }
        return ask_first(request, context, closing, seen)


def posted(request: HttpRequest) -> list[tuple[str, str]]:
    """The fields to post again; the form that does so has its own CSRF token."""
    return [(k, v) for k, values in request.POST.lists() for v in values if k != "csrfmiddlewaretoken"]


def ask_first(request: HttpRequest, context: dict[str, Any], closing: list[Listed], seen: Look) -> HttpResponse:
    """A page that shows which sockets will close, and posts the same fields again once confirmed.

    Args:
        context: ``title``, the text to ``say``, ``posted``, and ``go``, the button's label.
    """
    routes = by_route(closing)
    told = {"routes": routes, "silent": seen.silent, "unlisted": seen.unlisted, "agreed": AGREED}
    return TemplateResponse(request, "admin/relay/closing.html", context | told)


def _closing() -> list[Listed]:
    """The listed sockets that the configuration in this transaction would close.

    An invalid configuration closes none: the processes keep the last good one.
    """
    try:
        ends = ended_by(load_snapshot())
    except InvalidConfiguration:
        return []
    return [socket for socket in listed() if ends(socket)]


def by_route(sockets: Iterable[Listed]) -> list[dict[str, Any]]:
    """Routes with their numbers of sockets and users, most sockets first."""
    found: defaultdict[str, list[Listed]] = defaultdict(list)
    for socket in sockets:
        found[socket.row.route].append(socket)
    rows = [
        {"route": route, "sockets": len(these), "users": len({it.row.user_id for it in these} - {""})}
        for route, these in found.items()
    ]
    return sorted(rows, key=lambda row: (-row["sockets"], row["route"]))


def count(number: int, noun: str) -> str:
    """``1 live socket``, ``14 live sockets``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
