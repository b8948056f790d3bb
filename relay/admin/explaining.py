"""``explain`` as a page: what would happen to a request, by the current configuration and revocations. Nothing is sent.

The question is POSTed, so a token never appears in a URL, a log or the browser's history. It is used once, and is
neither stored nor shown again.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.views.decorators.debug import sensitive_post_parameters

from relay import asking
from relay.explain import METHODS, question
from relay.live.masking import Masker
from relay.models import RefusalRecord
from relay.routing.loader import InvalidConfiguration

WEBSOCKET = "WebSocket"
"""Chosen in place of a method."""


def may(request: HttpRequest) -> bool:
    """Whether the user may see routes and backends, which the answer names."""
    return bool(request.user.has_perms(("relay.view_route", "relay.view_backend")))


@sensitive_post_parameters("token")
def view(request: HttpRequest) -> HttpResponse:
    """The form, pre-filled from a refusal if one is named; on POST, with the answer above it."""
    if not may(request):
        raise PermissionDenied
    asked = _posted(request) if request.method == "POST" else _refused(request)
    masker = Masker(settings.RELAY.token_names)
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Explain a request",
        "opts": RefusalRecord._meta,
        "choices": (WEBSOCKET, *METHODS),
        # Somebody may have put a token in the path.
        "asked": {"method": asked["method"], "path": masker.text(asked["path"]), "origin": asked["origin"]},
    }
    if request.method == "POST":
        try:
            context["answer"] = _answer(asked, request.get_host())
        except InvalidConfiguration as exc:
            context["problem"] = f"The configuration can't be used: {'; '.join(exc.problems)}"
        except ValueError as exc:
            context["problem"] = masker.text(str(exc))
    return TemplateResponse(request, "admin/relay/explain.html", context)


def _posted(request: HttpRequest) -> dict[str, str]:
    return {name: request.POST.get(name, "").strip() for name in ("method", "path", "origin", "token")}


def _refused(request: HttpRequest) -> dict[str, str]:
    """A refusal's request as far as it was recorded: without query and token."""
    key, found = request.GET.get("refusal", ""), None
    if key.isascii() and key.isdigit() and len(key) < 19 and request.user.has_perm("relay.view_refusalrecord"):
        found = RefusalRecord.objects.filter(pk=key).first()
    if found is None:
        return {"method": "GET", "path": "/", "origin": ""}
    method = WEBSOCKET if found.kind == RefusalRecord.Kind.WEBSOCKET else found.method
    return {"method": method, "path": found.path, "origin": found.origin}


def _answer(asked: dict[str, str], host: str) -> str:
    """Raises ValueError (such a request can't be sent), InvalidConfiguration, django.db.Error."""
    websocket = asked["method"] == WEBSOCKET
    typed = question(
        "GET" if websocket else asked["method"],
        asked["path"],
        websocket=websocket,
        origin=asked["origin"] or None,
        token=asked["token"] or None,
        host=host,
    )
    return asking.answer(typed)
