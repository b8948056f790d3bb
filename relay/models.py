"""What operators manage, and what processes tell each other through the database.

Requests are judged by a snapshot in memory (`relay.routing.snapshot`), never by these tables. The help texts say how a
field affects a running gateway.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import ClassVar

from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from relay import validation
from relay.fleet.models import LiveConnection, LoginAttempt, Process, RefusalRecord, Sample
from relay.revision import Counted, Revision
from relay.routing import paths

__all__ = [
    "Backend",
    "Counted",
    "Kick",
    "LiveConnection",
    "LoginAttempt",
    "Origin",
    "Process",
    "RefusalRecord",
    "Renewal",
    "Revision",
    "Revocation",
    "Route",
    "Sample",
    "Ticket",
]


def _plain(value: object) -> str:
    """A value as an operator writes it: a choice as its text, not as Python's enum member."""
    return repr(str(value)) if isinstance(value, str) else repr(value)


class Backend(Counted):
    """A service behind the gateway."""

    counter = "config"
    rules: ClassVar = {
        "name": validation.name,
        "urls": validation.urls,
        "health_path": validation.health_path,
        "connect_timeout": validation.some_seconds,
        "read_timeout": validation.seconds,
        "max_body_size": validation.size,
        "max_message_size": validation.size,
        "websocket_origin": validation.websocket_origin,
    }

    name = models.CharField(
        max_length=64,
        unique=True,
        error_messages={"unique": "A backend with this name already exists; choose another name."},
        help_text="Letters, digits, - and _. A new name is a new backend: open sockets are closed with 1012.",
    )
    urls = models.TextField(
        help_text="One per line: http or https, with an optional path prefix. New connections go to the url "
        "that has the fewest. Open sockets stay where they are; those of a removed url are closed with 1012.",
    )
    health_path = models.CharField(
        max_length=500,
        blank=True,
        help_text="Polled every 2 s at each url; must answer 200. A url is out after two failures in a row and back "
        "after one success; if all are out, clients get 503. Empty: every url counts as healthy.",
    )
    connect_timeout = models.FloatField(
        default=5,
        help_text="Seconds to wait for a connection before the next url is tried; after the last, clients get 504.",
    )
    read_timeout = models.FloatField(
        default=60,
        help_text="Seconds to wait for the response head, then between two chunks of the body (not for "
        "text/event-stream). After that, clients get 504 or a broken transfer. 0: no limit.",
    )
    max_body_size = models.PositiveBigIntegerField(
        default=67108864, help_text="Bytes of a request body; a larger one gets 413. 0: no limit."
    )
    max_message_size = models.PositiveBigIntegerField(
        default=16777216,
        help_text="Bytes of one WebSocket message, either way; a larger one ends the socket with 1009. 0: no limit.",
    )
    websocket_origin = models.CharField(
        max_length=300,
        default="omit",
        verbose_name="WebSocket origin",
        help_text="What the backend sees as Origin in a handshake: omit (none), forward (the client's), or a fixed "
        "one, like https://app.example.com. If a backend refuses handshakes with 403, try another value.",
    )
    forward_token = models.BooleanField(
        default=False, help_text="On: the client's token reaches the backend where it was found. Off: it is removed."
    )
    forward_host = models.BooleanField(
        default=False, help_text="On: the backend sees the client's Host. Off: that of its own url."
    )
    tls_verify = models.BooleanField(
        default=True,
        verbose_name="TLS verify",
        help_text="On: an https backend must have a valid certificate. Off: anyone in between can pose as the backend.",
    )
    enabled = models.BooleanField(
        default=True, help_text="Off: its open sockets are closed with 1012, and its routes answer 503."
    )

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Route(Counted):
    """A path that leads to a backend, and who may use it."""

    class Kind(models.TextChoices):
        HTTP = "http", "HTTP"
        WEBSOCKET = "websocket", "WebSocket"

    class Access(models.TextChoices):
        PUBLIC = "public", "public: with or without a token"
        AUTHENTICATED = "authenticated", "authenticated: any valid token"
        ROLES = "roles", "roles: a valid token with one of the roles"

    class RefuseWith(models.TextChoices):
        HTTP = "http", "http: a status on the handshake"
        CLOSE = "close", "close: accept, then a 44xx close code"

    counter = "config"
    rules: ClassVar = {
        "path": validation.route_path,
        "methods": validation.methods,
        "roles": validation.roles,
        "upstream_path": validation.upstream_path,
        "idle_timeout": validation.seconds,
        "max_connections_per_user": validation.count,
        "message_rate": validation.rate,
    }
    WEBSOCKET_ONLY: ClassVar = ("refuse_with", "idle_timeout", "max_connections_per_user", "message_rate")

    path = models.CharField(
        max_length=500,
        help_text="Django path syntax, like /api/users/&lt;int:id&gt;. A path that ends with / is a prefix, any other "
        "is exact. The most specific route wins.",
    )
    kind = models.CharField(
        max_length=9,
        choices=Kind,
        default=Kind.HTTP,
        error_messages={"invalid_choice": "%(value)r is not a valid kind; use http or websocket"},
        help_text="What the route accepts. Requests of the other kind don't match it, and get 404.",
    )
    backend = models.ForeignKey(
        Backend,
        models.CASCADE,
        related_name="routes",
        help_text="Where it leads. Open sockets of a route that now leads elsewhere are closed with 1012.",
    )
    methods = models.CharField(
        max_length=200,
        blank=True,
        help_text="HTTP only, comma-separated, like GET, POST; other methods get 404. GET includes HEAD. Empty: all.",
    )
    access = models.CharField(
        max_length=13,
        choices=Access,
        default=Access.AUTHENTICATED,
        error_messages={"invalid_choice": "%(value)r is not a valid access; use public, authenticated or roles"},
        help_text="Who gets in. Others get 401, or 403 if they lack the role; their open sockets are closed with 1012.",
    )
    roles = models.CharField(
        max_length=500, blank=True, help_text="Comma-separated, for access by roles: any of them is enough."
    )
    upstream_path = models.CharField(
        max_length=500,
        blank=True,
        help_text="Replaces the matched prefix (joined with one slash) or the exact path. Empty: unchanged.",
    )
    refuse_with = models.CharField(
        max_length=5,
        choices=RefuseWith,
        default=RefuseWith.HTTP,
        error_messages={"invalid_choice": "%(value)r is not a way to refuse; use http or close"},
        help_text="WebSocket only: how a refused client learns why. Scripts in browsers see only close codes.",
    )
    idle_timeout = models.FloatField(
        default=0,
        help_text="WebSocket only: seconds without a message either way until a socket is closed with 4408. 0: none.",
    )
    max_connections_per_user = models.PositiveIntegerField(
        default=0, help_text="WebSocket only: a user with this many open sockets gets 429 for the next. 0: no limit."
    )
    message_rate = models.CharField(
        max_length=40,
        blank=True,
        help_text="WebSocket only, client to backend, like 50/s;burst=100; above it a socket is closed with 1008. "
        "Empty: no limit.",
    )
    enabled = models.BooleanField(
        default=True, help_text="Off: as if it did not exist. Its open sockets are closed with 1012."
    )

    class Meta:
        ordering = ("kind", "path", "methods")
        constraints = (models.UniqueConstraint(fields=("kind", "path", "methods"), name="route_is_unique"),)

    def __str__(self) -> str:
        return f"{self.kind} {self.path}{self._methods_shown}"

    def clean(self) -> None:
        """Check fields that depend on each other.

        Raises:
            ValidationError: On each field to fix.
        """
        errors = {}
        if self.access == self.Access.ROLES and not self.roles:
            errors["roles"] = "access by roles needs at least one role; name them, or choose another access"
        elif self.roles and self.access != self.Access.ROLES:
            errors["roles"] = (
                f"{self.roles!r} has no effect with access {self.access}; clear it, or set access to roles"
            )
        if self.kind == self.Kind.WEBSOCKET and self.methods:
            errors["methods"] = f"{self.methods!r}: a handshake is always a GET; leave it empty on a websocket route"
        if self.kind == self.Kind.HTTP:
            for name in self.WEBSOCKET_ONLY:
                value, default = getattr(self, name), self.field(name).get_default()
                if value != default:
                    errors[name] = f"{_plain(value)} only affects websocket routes; leave it at {_plain(default)}"
        if errors:
            raise ValidationError(errors)

    def validate_constraints(self, exclude: Collection[str] | None = None) -> None:
        """Report, on the path, an existing route that matches the same paths, whatever its placeholders' names.

        Raises:
            ValidationError: On the path.
        """
        judged = {"path", "kind", "methods"}.isdisjoint(exclude or ())
        others = Route.objects.filter(kind=self.kind, methods=self.methods).exclude(pk=self.pk)
        for other in others if judged else ():
            if paths.shape(other.path) == paths.shape(self.path):
                there = "" if other.path == self.path else " and matches the same paths"
                fix = "change that one, or choose another path or other methods"
                raise ValidationError({"path": f"the route {other} already exists{there}; {fix}"})
        super().validate_constraints(exclude)

    @property
    def label(self) -> str:
        return f"route {self.kind} {json.dumps(self.path, ensure_ascii=False)}{self._methods_shown}"

    @property
    def _methods_shown(self) -> str:
        return f" ({self.methods})" if self.methods else ""


class Origin(Counted):
    """A site whose pages may open sockets and read answers."""

    counter = "config"
    rules: ClassVar = {"origin": validation.origin, "note": validation.one_line}

    origin = models.CharField(
        max_length=300,
        unique=True,
        error_messages={"unique": "This origin is already on the list; change that entry."},
        help_text="Scheme, host, and the port if it is not the default, like https://app.example.com. "
        "https://*.example.com is any depth of subdomain, but not example.com itself; * is any site.",
    )
    note = models.CharField(max_length=200, blank=True, help_text="Whose pages these are; for people, has no effect.")
    enabled = models.BooleanField(
        default=True,
        help_text="Off: handshakes get 403, its open sockets are closed with 1012.",
    )

    class Meta:
        ordering = ("origin",)

    def __str__(self) -> str:
        return self.origin


class Revocation(Counted):
    """Ends the access of a token or user, in every process and on open sockets. Rows are added, never changed."""

    class Kind(models.TextChoices):
        TOKEN = "token", "token"
        JTI = "jti", "jti"
        USER = "user", "user"

    counter = "revocations"
    rules: ClassVar = {"note": validation.one_line}

    kind = models.CharField(
        max_length=5,
        choices=Kind,
        help_text="token: one token. jti: the token with that id. user: every token of the user issued up to now.",
    )
    value = models.CharField(
        max_length=500,
        help_text="A token's fingerprint (the token is never kept), a jti, or a user's id. Takes effect within 1 s.",
    )
    revoked_at = models.DateTimeField(
        default=timezone.now,
        help_text="A user's tokens issued up to then are refused, and so are those without an issue time.",
    )
    expires_at = models.DateTimeField(
        null=True,
        blank=True,
        db_index=True,
        help_text="When the token expires by itself, leeway included; then the row is removed. Empty: it stays.",
    )
    note = models.CharField(max_length=200, blank=True, help_text="Why; for people, has no effect.")

    class Meta:
        ordering = ("-revoked_at", "-id")

    def __str__(self) -> str:
        return f"{self.kind} {self.value[:12]}…" if self.kind == self.Kind.TOKEN else f"{self.kind} {self.value}"

    def clean(self) -> None:
        """Check the value, by the rule for its kind.

        Raises:
            ValidationError: On the value.
        """
        rule = validation.fingerprint if self.kind == self.Kind.TOKEN else validation.revoked_id
        try:
            self.value = rule(self.value)
        except ValidationError as exc:
            raise ValidationError({"value": exc.error_list}) from exc


class Kick(Counted):
    """Closes open sockets once, in whichever process they are. Kept for a while, for processes that lag behind."""

    class Kind(models.TextChoices):
        SOCKET = "socket", "socket"
        USER = "user", "user"
        ROUTE = "route", "route"

    counter = "kicks"

    kind = models.CharField(max_length=6, choices=Kind, help_text="What the value names.")
    value = models.CharField(max_length=500, help_text="A socket's id, a user's id, or the path of a websocket route.")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


class Renewal(Counted):
    """Moves open sockets from an old token to a fresh one of the same user, in whichever process they are."""

    counter = "kicks"

    fingerprint = models.CharField(max_length=64, help_text="The old token's.")
    identity = models.JSONField(help_text="What the fresh token says.")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"renewal of {self.fingerprint[:12]}"


class Ticket(models.Model):
    """Stands in for a token in one handshake. The ticket itself is never stored."""

    digest = models.CharField(max_length=64, unique=True, help_text="The ticket's SHA-256 in hex.")
    identity = models.JSONField(help_text="The user: what the token said when the ticket was issued.")
    path = models.CharField(max_length=2000, help_text="The only path that it opens.")
    origin = models.CharField(max_length=300, blank=True, help_text="The Origin of the request for it; empty: none.")
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"ticket for {self.path} until {self.expires_at:%H:%M:%S}"
