"""The admin: what operators see and change of a running gateway."""

from __future__ import annotations

from django.contrib import admin

from relay.admin import configuration, revocations

__all__ = ["configuration", "revocations"]

admin.site.site_header = "Gateway"
admin.site.site_title = "Gateway"
admin.site.index_title = "Administration"
admin.site.site_url = None  # the site at / is a backend's
