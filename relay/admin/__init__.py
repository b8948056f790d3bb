"""The admin: where operators watch and change a running gateway."""

from __future__ import annotations

from django.contrib import admin

from relay.admin import configuration, connections, dashboard, login, refusals, revocations

__all__ = ["configuration", "connections", "dashboard", "refusals", "revocations"]

admin.site.site_header = "Gateway"
admin.site.site_title = "Gateway"
admin.site.index_title = "Dashboard"
admin.site.index_template = "admin/relay/dashboard.html"
admin.site.login_form = login.LoginForm
admin.site.enable_nav_sidebar = False  # the header has the navigation, and the lists need the room
admin.site.site_url = None  # the site at / is a backend's
