"""Who a request that nobody sent comes from, by the settings' keys and the revocations in the database; and to whom."""

from __future__ import annotations

import asyncio

from django.conf import settings
from django.db.models import Q
from django.urls import resolve
from django.utils import timezone

from relay.explain import Question
from relay.http.views import relay
from relay.identity.middleware import Examiner
from relay.identity.model import Identification
from relay.identity.places import Places
from relay.identity.revocation import Revocations
from relay.identity.tokens import Verifier
from relay.models import Revocation
from relay.routing.watch import RevocationEntry
from relay.typing import Scope


def identify(scope: Scope) -> Identification:
    """Who asks, as a running gateway would find it; tickets are left alone, they are good only once.

    Raises:
        django.db.Error: The revocations can't be read.
    """
    environment, revocations = settings.RELAY, Revocations()
    in_force = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    revocations.add(RevocationEntry.of(row) for row in Revocation.objects.filter(in_force))
    found = Places(environment.jwt_cookie, environment.jwt_query_param).find(scope)

    async def examined() -> Identification:
        return await Examiner(Verifier(environment), revocations).identify(found)

    return asyncio.run(examined())


def own_host() -> str:
    """A name that this gateway answers to."""
    return next((host.removeprefix(".") for host in settings.ALLOWED_HOSTS if "*" not in host), "localhost")


def is_own(asked: Question) -> bool:
    """Whether the gateway answers by a page of its own, before any route is looked at."""
    return asked.ask.kind == "http" and resolve(asked.scope["path"]).func is not relay
