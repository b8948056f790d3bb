"""``check_backends`` as an admin action: the same checks, limited in number and time, because a page waits."""

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
"""Seconds for all checks; proxies in front may give up on a page after 30."""

MOST = 20
"""Backends at once."""


def findings(names: Sequence[str], host: str) -> list[Finding]:
    """Check these backends, disabled ones too, as a visitor without a token from the first origin on the list.

    Args:
        host: The gateway's own host name.

    Raises:
        InvalidConfiguration, django.db.Error: The configuration can't be used or read.
    """
    snapshot = load_snapshot()
    origins = (origin.origin for origin in snapshot.origins if origin.enabled and "*" not in origin.origin)
    asked = question("GET", "/", host=host, origin=next(origins, None))
    rules = Forwarding(*settings.RELAY.token_names)
    visitor = Visitor(rules, headers=tuple(asked.scope["headers"]))
    return asyncio.run(_check(snapshot, [name for name in names if name in snapshot.backends], visitor))


async def _check(snapshot: Snapshot, names: Sequence[str], visitor: Visitor) -> list[Finding]:
    """Check concurrently, so that a slow backend does not affect the others' results."""
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
        advice = f"run manage.py check_backends {name}, which has no such limit"
        found.append(Finding(name, "", "all", "FAILS", f"not done within {PATIENCE:g} s", advice))
    await asyncio.gather(*checks.values(), return_exceptions=True)
    return found
