"""``/gateway/logout``: the token counts no more, and its sockets end (contract, section 7)."""

from __future__ import annotations

import time
from typing import Any

from django.http import HttpResponse, JsonResponse

from relay.http.request import RelayRequest
from relay.identity import revocation
from relay.identity.model import Identity
from relay.pages.posts import for_token_holders


@for_token_holders()
async def logout(request: RelayRequest, identity: Identity, body: dict[str, Any]) -> HttpResponse:
    """Revoke the token everywhere, and clear the cookie.

    It counts no more in this process when the answer goes out; other processes, and all of its sockets, follow within a
    second. A cookie that was set with a ``Domain`` is for whoever set it to clear.
    """
    runtime = request.runtime
    entry = revocation.of_token(identity, time.time())
    await revocation.record_in_thread(entry, note="logout")
    runtime.revocations.add([entry])
    if runtime.watcher is not None:
        runtime.watcher.nudge()
    response = JsonResponse({"success": True})
    if cookie := runtime.settings.jwt_cookie:
        secure = request.arrival.scheme == "https"
        response.set_cookie(cookie, "", max_age=0, path="/", secure=secure, httponly=True, samesite="Lax")
    return response
