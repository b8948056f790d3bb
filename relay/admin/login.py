"""Login, with a pause for an address after too many wrong passwords.

Failures are counted in the database, across all processes, by address and user name: guessing at a name locks out
nobody at another address. An attempt is recorded before the password is checked, so parallel guesses can't slip
through together.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.exceptions import ValidationError
from django.utils import timezone

from relay.models import LoginAttempt

log = logging.getLogger("relay.admin")

WINDOW = timedelta(minutes=15)
MOST_BY_NAME = 5
"""Failures for one name from one address, within the window."""

MOST_BY_ADDRESS = 50
"""Failures for all names from one address: many people may share one."""

MOST_KEPT = 10_000
"""Attempts in total: a flood from many addresses must not fill the database."""


class LoginForm(AdminAuthenticationForm):
    """The admin's login form, with the limit."""

    def clean(self) -> dict[str, Any]:
        username = self.cleaned_data.get("username")
        if not username or not self.cleaned_data.get("password"):
            return super().clean()
        address = client(self.request.META.get("REMOTE_ADDR", "") if self.request else "")
        minutes = begin(address, username)
        if minutes:
            log.warning("logins are paused", extra={"client": address})
            raise ValidationError(
                f"Too many failed logins from your address. Try again in {minutes} min.", code="too_many_attempts"
            )
        cleaned = super().clean()
        LoginAttempt.objects.filter(address=address, username=username[:150]).delete()
        return cleaned


def begin(address: str, username: str) -> int:
    """Count an attempt as failed until it succeeds; return the minutes to wait, or 0 to go on."""
    now = timezone.now()
    attempts = LoginAttempt.objects.order_by("-pk")
    attempts.filter(at__lte=now - WINDOW).delete()
    attempt = attempts.create(address=address, username=username[:150])
    for last in attempts.values_list("pk", flat=True)[MOST_KEPT:][:1]:
        attempts.filter(pk__lte=last).delete()
    here = attempts.filter(address=address, pk__lt=attempt.pk)
    for earlier, most in ((here.filter(username=attempt.username), MOST_BY_NAME), (here, MOST_BY_ADDRESS)):
        latest: list[datetime] = list(earlier.values_list("at", flat=True)[:most])
        if len(latest) == most:
            attempt.delete()  # attempts during a pause don't extend it
            return int((latest[-1] + WINDOW - now).total_seconds() // 60) + 1
    return 0


def client(address: str) -> str:
    """The client that an address stands for: with IPv6, its whole /64 network (RFC 6177)."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, 64), strict=False))
    return str(parsed)
