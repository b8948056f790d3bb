"""Revocations in the admin: they can be added and viewed, never changed or removed.

So the form asks for confirmation first, with the live sockets that would close: a typing error shows there.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from relay.admin.observed import moment
from relay.admin.preview import AGREED, ask_first, count, posted
from relay.fleet.connections import Listed, listed, look
from relay.identity.model import fingerprint
from relay.identity.revocation import revokes
from relay.models import Revocation
from relay.routing.watch import RevocationEntry

if TYPE_CHECKING:  # generic for type checkers only
    ModelAdmin = admin.ModelAdmin[Revocation]
    ModelForm = forms.ModelForm[Revocation]
else:
    ModelAdmin, ModelForm = admin.ModelAdmin, forms.ModelForm

_TOKEN = re.compile(r"(?:Bearer\s+)?([\w-]+\.[\w-]+\.[\w-]+)", re.ASCII | re.IGNORECASE)


class UnrepeatedInput(forms.TextInput):
    """A text field that never shows its value again: it may be a token."""

    def format_value(self, value: Any) -> None:
        return None


class RevocationForm(ModelForm):
    """Accepts a token, but keeps only its fingerprint."""

    value = forms.CharField(
        max_length=16384,
        widget=UnrepeatedInput({"size": 60, "autocomplete": "off", "spellcheck": "false"}),
        help_text="A token, a jti, or a user's id. Only a token's fingerprint is stored. Takes effect within 1 s, "
        "on open sockets too, and permanently.",
    )

    class Meta:
        model = Revocation
        fields = ("kind", "value", "note")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        token = _TOKEN.fullmatch(cleaned.get("value", ""))
        if token and cleaned.get("kind") == Revocation.Kind.TOKEN:
            cleaned["value"] = fingerprint(token[1])
        return cleaned


WHAT = {
    Revocation.Kind.TOKEN: "One token, by its fingerprint",
    Revocation.Kind.JTI: "The token with this jti",
    Revocation.Kind.USER: "Every token of this user issued up to now",
}


@admin.register(Revocation)
class RevocationAdmin(ModelAdmin):
    form = RevocationForm
    list_display = ("kind", "shown", "revoked", "expires", "note")
    list_filter = ("kind", "revoked_at")
    search_fields = ("value", "note")
    date_hierarchy = "revoked_at"
    list_per_page = 100

    def get_fields(self, request: HttpRequest, obj: Revocation | None = None) -> tuple[str, ...]:
        when = () if obj is None else ("revoked", "expires")
        return ("kind", "value", *when, "note")

    def get_readonly_fields(self, request: HttpRequest, obj: Revocation | None = None) -> tuple[str, ...]:
        return () if obj is None else ("revoked", "expires")

    def has_change_permission(self, request: HttpRequest, obj: Revocation | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Revocation | None = None) -> bool:
        return False

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Ask first: a revocation can't be undone."""
        if request.method == "POST" and object_id is None and AGREED not in request.POST:
            if not self.has_add_permission(request):
                raise PermissionDenied
            form = self.get_form(request)(request.POST)
            if form.is_valid():
                return self._ask(request, form.instance)
        return super().changeform_view(request, object_id, form_url, extra_context)

    def _ask(self, request: HttpRequest, revocation: Revocation) -> HttpResponse:
        seen = look()
        closing = ended_by(revocation)
        again = dict(posted(request)) | {"value": revocation.value}  # of a token, the fingerprint
        closes = count(len(closing), "live socket")
        nobody = "" if closing else " No live socket is affected: is the value exactly as in the token?"
        context = {
            **self.admin_site.each_context(request),
            "title": f"Revoke {self._named(revocation)}? This closes {closes}",
            "opts": self.opts,
            "say": f"Nothing is revoked yet. {WHAT[Revocation.Kind(revocation.kind)]} will be refused, and live "
            f"sockets close with 4401, within a second and permanently: this can't be undone. "
            f"A new token, after another login, works again.{nobody}",
            "go": f"Revoke, and close {count(len(closing), 'socket')}" if closing else "Revoke",
            "posted": list(again.items()),
        }
        return ask_first(request, context, closing, seen)

    def save_model(self, request: HttpRequest, obj: Revocation, form: ModelForm, change: bool) -> None:
        closing = count(len(ended_by(obj)), "live socket")
        super().save_model(request, obj, form, change)
        self.message_user(request, f"Takes effect within a second, and closes {closing}.")

    @admin.display(description="revoked", ordering="revoked_at")
    def revoked(self, revocation: Revocation) -> SafeString | str:
        return moment(revocation.revoked_at)

    @admin.display(description="expires", ordering="expires_at")
    def expires(self, revocation: Revocation) -> SafeString | str:
        return moment(revocation.expires_at)

    def _named(self, revocation: Revocation) -> str:
        return f"{revocation.kind} {self.shown(revocation)}"

    @admin.display(description="value", ordering="value")
    def shown(self, revocation: Revocation) -> str:
        is_token = revocation.kind == Revocation.Kind.TOKEN
        return f"fingerprint {revocation.value[:16]}…" if is_token else revocation.value


def ended_by(revocation: Revocation) -> list[Listed]:
    """The listed sockets that a revocation closes."""
    entry = RevocationEntry(revocation.kind, revocation.value, time.time(), None)
    return [socket for socket in listed() if revokes(entry, socket.identity)]
