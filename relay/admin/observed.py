"""Base admin for rows that only processes write: the admin shows them, read-only."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

if TYPE_CHECKING:  # generic for type checkers only
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class ObservedAdmin(ModelAdmin):
    """A read-only admin: viewing needs the view permission, and nothing can be added, changed or deleted."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def moment(when: datetime | None) -> SafeString | str:
    """How long ago, or in how long, with the exact time in UTC as the tooltip."""
    if when is None:
        return "-"
    passed = timezone.now() - when
    text = f"{span(passed)} ago" if passed >= timedelta() else f"in {span(-passed)}"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', when.isoformat(), f"{when:%Y-%m-%d %H:%M:%S} UTC", text
    )


def span(passed: timedelta) -> str:
    """A duration, rounded for people: ``47 s``, ``3 min 5 s``, ``47 min``, ``1 h 56 min``."""
    seconds = int(passed.total_seconds())
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = seconds % size // smaller if seconds < 10 * size else 0
            return f"{seconds // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{seconds} s"
