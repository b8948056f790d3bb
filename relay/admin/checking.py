"""``check_backends`` as an action: the same checks, bounded in number and time, as a page waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from django.conf import settings

from relay import checkup
from relay.checkup import Finding, Visitor
from relay.explain import question
from relay.forwarding import Forwarding
from relay.routing.loader import load_snapshot
from relay.routing.snapshot import Snapshot

PATIENCE = 20.0
"""Seconds for all of it; proxies in front begin to give up on a page at 30."""

MOST = 20
"""Backends at once."""


def findings(names: Sequence[str], host: str) -> list[Finding]:
    """Check these backends, disabled ones too, as a visitor without a token from the first origin on the list.

    Args:
        host: That the gateway is known by.

    Raises:
        InvalidConfiguration, django.db.Error: There is no configuration to check.
    """
    snapshot = load_snapshot()
    origins = (origin.origin for origin in snapshot.origins if origin.enabled and "*" not in origin.origin)
    asked = question("GET", "/", host=host, origin=next(origins, None))
    rules = Forwarding(settings.RELAY.jwt_cookie, settings.RELAY.jwt_query_param)
    visitor = Visitor(rules, headers=tuple(asked.scope["headers"]))
    return asyncio.run(_check(snapshot, [name for name in names if name in snapshot.backends], visitor))


async def _check(snapshot: Snapshot, names: Sequence[str], visitor: Visitor) -> list[Finding]:
    """One that takes too long spoils nobody else's result."""
    checks = {name: asyncio.create_task(checkup.check(snapshot, [name], visitor)) for name in names}
    if not checks:
        return []
    await asyncio.wait(checks.values(), timeout=PATIENCE)
    found: list[Finding] = []
    for name, check in checks.items():
        if check.done():
            found += check.result()
            continue
        check.cancel()
        advice = f"manage.py check_backends {name} waits as long as it takes"
        found.append(Finding(name, "", "all", "FAILS", f"not done within {PATIENCE:g} s", advice))
    await asyncio.gather(*checks.values(), return_exceptions=True)
    return found
