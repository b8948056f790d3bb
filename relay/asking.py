"""Answer `explain`: identify the hypothetical client by the configured keys and the revocations in the database."""

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
    """Identify the client as a running gateway would; tickets are ignored, as they work only once.

    Raises:
        django.db.Error: The revocations can't be read.
    """
    environment, revocations = settings.RELAY, Revocations()
    in_force = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    revocations.add(RevocationEntry.of(row) for row in Revocation.objects.filter(in_force))
    found = Places(*environment.token_names).find(scope)

    async def examined() -> Identification:
        return await Examiner(Verifier(environment), revocations).identify(found)

    return asyncio.run(examined())


def answer(asked: Question) -> str:
    """What `explain` says about a request, by the current configuration and revocations.

    Raises:
        InvalidConfiguration: The configuration in the database can't be used.
        django.db.Error: The database can't be read.
    """
    rules = Forwarding(*settings.RELAY.token_names)
    own = asked.ask.kind == "http" and resolve(asked.scope["path"]).func is not relay
    return explain(asked, load_snapshot(), identify(asked.scope), rules, time.time(), own=own)


def own_host() -> str:
    """A host name that this gateway accepts."""
    return next((host.removeprefix(".") for host in settings.ALLOWED_HOSTS if "*" not in host), "localhost")
