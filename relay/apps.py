"""The relay as a Django application."""

from __future__ import annotations

from django.apps import AppConfig


class RelayConfig(AppConfig):
    name = "relay"
    verbose_name = "Gateway"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django.conf import settings

        from relay import checks  # noqa: F401 - registers the system checks
        from relay.revision import changed
        from relay.shared.bell import Bell

        if settings.RELAY.redis_url:
            changed.connect(Bell(settings.RELAY.redis_url).ring, weak=False, dispatch_uid="relay.bell")
