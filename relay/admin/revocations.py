"""Revocations in the admin: added and looked at, never changed or taken back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest

from relay.identity.model import fingerprint
from relay.models import Revocation

if TYPE_CHECKING:  # generic for type checkers only
    ModelAdmin = admin.ModelAdmin[Revocation]
    ModelForm = forms.ModelForm[Revocation]
else:
    ModelAdmin, ModelForm = admin.ModelAdmin, forms.ModelForm

_TOKEN = re.compile(r"(?:Bearer\s+)?([\w-]+\.[\w-]+\.[\w-]+)", re.ASCII | re.IGNORECASE)


class UnrepeatedInput(forms.TextInput):
    """Never shows again what was typed: it may be a token."""

    def format_value(self, value: Any) -> None:
        return None


class RevocationForm(ModelForm):
    """Takes a token, and keeps its fingerprint."""

    value = forms.CharField(
        max_length=16384,
        widget=UnrepeatedInput({"size": 60, "autocomplete": "off", "spellcheck": "false"}),
        help_text="A token, a jti, or a user's id. Of a token only a fingerprint is kept. In force within 1 s, "
        "on open sockets too, and for good.",
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


@admin.register(Revocation)
class RevocationAdmin(ModelAdmin):
    form = RevocationForm
    list_display = ("kind", "shown", "revoked_at", "expires_at", "note")
    list_filter = ("kind", "revoked_at")
    search_fields = ("value", "note")
    date_hierarchy = "revoked_at"
    list_per_page = 100

    def get_fields(self, request: HttpRequest, obj: Revocation | None = None) -> tuple[str, ...]:
        when = () if obj is None else ("revoked_at", "expires_at")
        return ("kind", "value", *when, "note")

    def has_change_permission(self, request: HttpRequest, obj: Revocation | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Revocation | None = None) -> bool:
        return False

    @admin.display(description="value", ordering="value")
    def shown(self, revocation: Revocation) -> str:
        is_token = revocation.kind == Revocation.Kind.TOKEN
        return f"fingerprint {revocation.value[:16]}…" if is_token else revocation.value
