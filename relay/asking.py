"""Who a request that nobody sent comes from, by the settings' keys and the revocations in the database; and to whom."""

from __future__ import annotations

import asyncio
import time

from django.conf import settings
from django.db.models import Q
from django.urls import resolve
from django.utils import timezone

from relay.explain import Question, explain
from relay.forwarding import Forwarding
from relay.http.views import relay
from relay.identity.middleware import Examiner
from relay.identity.model import Identification
from relay.identity.places import Places
from relay.identity.revocation import Revocations
from relay.identity.tokens import Verifier
from relay.models import Revocation
from relay.routing.loader import load_snapshot
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


def answer(asked: Question) -> str:
    """What `explain` says of it by the configuration and the revocations of now.

    Raises:
        InvalidConfiguration: The configuration in the database can't be used.
        django.db.Error: It can't be read.
    """
    rules = Forwarding(settings.RELAY.jwt_cookie, settings.RELAY.jwt_query_param)
    own = asked.ask.kind == "http" and resolve(asked.scope["path"]).func is not relay
    return explain(asked, load_snapshot(), identify(asked.scope), rules, time.time(), own=own)


def own_host() -> str:
    """A name that this gateway answers to."""
    return next((host.removeprefix(".") for host in settings.ALLOWED_HOSTS if "*" not in host), "localhost")
