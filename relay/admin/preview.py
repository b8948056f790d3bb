"""Before a change of the configuration is kept, the admin says which live sockets it would close.

The change is made in a transaction, the configuration that comes of it is read, and every socket is judged by it with
the very function that the processes will use. If some have to go, all of it is taken back, and a page asks first.
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
"""Posted by the page that asks: the sockets may close."""

Extra = dict[str, Any] | None


class PreviewedAdmin(ModelAdmin):
    """Asks before sockets are closed by a save, a deletion or an action.

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
        """The view's response, or, with nothing changed yet, the page that asks."""
        if request.method != "POST" or AGREED in request.POST:
            return view()
        seen = look()  # before the transaction: the processes' lists have to be written in between
        with transaction.atomic():
            before = Revision.current().config
            response = view()
            closing = _closing() if Revision.current().config != before else []
            if closing:
                transaction.set_rollback(True)
        if not closing:
            return response
        request._messages = default_storage(request)  # type: ignore[attr-defined]  # what it said has not happened
        return self._ask(request, closing, seen)

    def _ask(self, request: HttpRequest, closing: list[Listed], seen: Look) -> HttpResponse:
        number = len(closing)
        context = {
            **self.admin_site.each_context(request),
            "title": f"This closes {count(number, 'live socket')}",
            "opts": self.opts,
            "say": "Nothing is changed yet. These live sockets have no place in the new configuration: their clients "
            "get close code 1012 within a second, and come back by themselves where they can. Nobody else is touched.",
            "go": f"Go on, and close {count(number, 'socket')}",
            "posted": posted(request),
        }
        return ask_first(request, context, closing, seen)


def posted(request: HttpRequest) -> list[tuple[str, str]]:
    """What has to be posted once more; the form that does it has a token of its own."""
    return [(k, v) for k, values in request.POST.lists() for v in values if k != "csrfmiddlewaretoken"]


def ask_first(request: HttpRequest, context: dict[str, Any], closing: list[Listed], seen: Look) -> HttpResponse:
    """A page that says which sockets will close, and posts the same again if that is agreed to.

    Args:
        context: ``title``, what to ``say``, ``posted``, and ``go``: the words of the button.
    """
    routes = by_route(closing)
    told = {"routes": routes, "silent": seen.silent, "unlisted": seen.unlisted, "agreed": AGREED}
    return TemplateResponse(request, "admin/relay/closing.html", context | told)


def _closing() -> list[Listed]:
    """The listed sockets that the configuration in this transaction ends.

    One that can't be used ends none: the processes stay with the last that could.
    """
    try:
        ends = ended_by(load_snapshot())
    except InvalidConfiguration:
        return []
    return [socket for socket in listed() if ends(socket)]


def by_route(sockets: Iterable[Listed]) -> list[dict[str, Any]]:
    """Routes with the number of sockets and of users, the most sockets first."""
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
