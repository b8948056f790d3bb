"""What the processes of a gateway write about themselves. Nothing here affects traffic.

Ages are measured by the database's clock, as machines' clocks differ.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from django.db import models
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

GONE_AFTER = timedelta(seconds=10)
"""A process that has not reported for this long no longer counts."""


class ProcessQuerySet(models.QuerySet["Process"]):
    def living(self) -> ProcessQuerySet:
        """The processes that reported recently."""
        return self.filter(seen_at__gt=Now() - GONE_AFTER)

    def with_silence(self) -> ProcessQuerySet:
        """Annotated with ``silence``: the time since the last report."""
        return self.annotate(silence=models.ExpressionWrapper(Now() - F("seen_at"), models.DurationField()))


class Process(models.Model):
    """One process of the gateway, as it describes itself."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField("process id")
    version = models.CharField(max_length=40)
    started_at = models.DateTimeField(default=timezone.now)
    seen_at = models.DateTimeField(db_index=True)
    draining = models.BooleanField(default=False)
    revision = models.BigIntegerField(default=-1, help_text="Revision of the configuration in force.")
    config_age = models.FloatField(default=0, help_text="Seconds since the configuration was last known to be current.")
    config_error = models.CharField(max_length=200, blank=True, help_text="Why it is not current.")
    figures: models.JSONField[Any, Any] = models.JSONField(default=dict, help_text="See `relay.fleet.figures`.")
    watched = models.BigIntegerField(default=-1, help_text="The view for which its connections were last listed.")
    unlisted = models.PositiveIntegerField(default=0, help_text="Number of connections beyond the list's limit.")

    objects = ProcessQuerySet.as_manager()

    class Meta:
        ordering = ("host", "started_at")
        verbose_name_plural = "processes"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class Sample(models.Model):
    """What one process did in ten seconds: a point of the dashboard's curves."""

    process = models.UUIDField(help_text="The process's id; the sample outlives the process.")
    slot = models.BigIntegerField(db_index=True, help_text="Start of the ten seconds, as Unix time.")
    sockets = models.PositiveIntegerField(help_text="Live at the end.")
    requests = models.PositiveIntegerField(help_text="Answered.")
    errors = models.PositiveIntegerField(help_text="Of these, with a status of 500 or above.")
    messages = models.PositiveBigIntegerField(help_text="Relayed, both ways.")
    refusals: models.JSONField[Any, Any] = models.JSONField(default=dict, help_text="Number by code.")

    class Meta:
        constraints = (models.UniqueConstraint(fields=("process", "slot"), name="sample_is_unique"),)
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.process} at {self.slot}"


class RefusalRecord(models.Model):
    """A refusal or a backend's failure, as in the log; the newest of each code are kept."""

    class Kind(models.TextChoices):
        HTTP = "http", "HTTP"
        WEBSOCKET = "websocket", "WebSocket"
        BACKEND = "backend", "backend"

    at = models.DateTimeField(db_index=True)
    process = models.CharField(max_length=280, help_text="Host and process id.")
    kind = models.CharField(
        max_length=9, choices=Kind, help_text="What was refused, or backend for a failure on its own."
    )
    code = models.CharField(max_length=40, db_index=True)
    status = models.PositiveSmallIntegerField(null=True)
    close_code = models.PositiveSmallIntegerField(null=True, help_text="If the socket was accepted and then closed.")
    request_id = models.CharField(max_length=128, blank=True, db_index=True)
    method = models.CharField(max_length=40, blank=True)
    path = models.TextField(blank=True, help_text="Without the query.")
    origin = models.TextField(blank=True, help_text="The origin that is not on the list.")
    client = models.CharField("address", max_length=64, blank=True)
    user_id = models.TextField("user", blank=True)
    route = models.CharField(max_length=500, blank=True)
    backend = models.CharField(max_length=64, blank=True)
    detail = models.TextField(blank=True, help_text="What was compared with what.")

    class Meta:
        ordering = ("-at", "-id")
        verbose_name = "refusal"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.code} {self.request_id}".strip()


class LiveConnection(models.Model):
    """A live WebSocket, as of the moment it was listed, while somebody is viewing the list."""

    id = models.CharField(primary_key=True, max_length=32, help_text="The socket's id.")
    process = models.ForeignKey(Process, models.CASCADE)
    user_id = models.TextField("user", blank=True, help_text="Empty: nobody, on a public route.")
    email = models.TextField(blank=True)
    roles: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    client = models.CharField("address", max_length=64, blank=True)
    origin = models.TextField(blank=True)
    route = models.CharField(max_length=500)
    backend = models.CharField(max_length=64)
    url = models.TextField(help_text="The backend's url that it is connected to.")
    upstream_path = models.CharField(max_length=500, blank=True, help_text="Its route's, when it was opened.")
    fingerprint = models.CharField(
        max_length=64, blank=True, default="", db_default="", help_text="Its token's, which a revocation may name."
    )
    jti = models.TextField(blank=True, default="", db_default="", help_text="Likewise.")
    opened_at = models.DateTimeField()
    expires_at = models.DateTimeField("token's end", null=True, blank=True)
    messages_to_backend = models.PositiveBigIntegerField()
    messages_to_client = models.PositiveBigIntegerField()
    bytes_to_backend = models.PositiveBigIntegerField()
    bytes_to_client = models.PositiveBigIntegerField()

    class Meta:
        ordering = ("-opened_at", "id")
        verbose_name = "live connection"
        default_permissions = ("view", "delete")

    def __str__(self) -> str:
        return f"{self.user_id or 'nobody'} on {self.route}"


class LoginAttempt(models.Model):
    """A failed login to the admin, counted across all processes (`relay.admin.login`)."""

    address = models.CharField(
        max_length=64, db_index=True, help_text="The client's address, or an IPv6 client's network."
    )
    username = models.CharField(max_length=150)
    at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.username} from {self.address}"
