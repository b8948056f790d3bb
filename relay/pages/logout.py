"""``/gateway/logout``: revokes the token and closes its sockets (contract, section 7)."""

from __future__ import annotations

import time
from dataclasses import replace
from http.cookies import SimpleCookie
from typing import Any

from django.http import HttpResponse, JsonResponse
from django.http.response import HttpResponseBase

from relay import access
from relay.http.request import RelayRequest
from relay.http.response import RelayedResponse
from relay.http.views import ask
from relay.identity import revocation
from relay.identity.model import Identity
from relay.pages.posts import for_token_holders

STALE = frozenset({"invalid_token", "expired_token", "revoked_token"})
"""Codes of tokens that can be forgotten, as nobody can log out of them. Two different valid ones are both kept."""

SECURE_PREFIXES = ("__host-", "__secure-")
"""Browsers take a cookie so named only with ``Secure`` (RFC 6265bis §4.1.3), however plain the way to us looks: TLS may
end before a proxy that says nothing of it. ``__Host-`` also wants ``Path=/`` and no ``Domain``, as here."""


async def logout(request: RelayRequest) -> HttpResponseBase:
    """Revoke the token everywhere, and clear the cookie; a cookie with a stale token is cleared along with the refusal.

    In this process the token is revoked before the answer goes out; other processes follow within a second, and so do
    all its sockets. A cookie that was set with a ``Domain`` has to be cleared by whoever set it.
    """
    response = await _revoke(request)
    if isinstance(response, RelayedResponse) and response.status_code == 401 and _has_stale_cookie(request):
        cleared = _cleared_cookie(request).values()
        response.raw_headers += [(b"set-cookie", cookie.OutputString().encode()) for cookie in cleared]
    return response


@for_token_holders()
async def _revoke(request: RelayRequest, identity: Identity, body: dict[str, Any]) -> HttpResponse:
    runtime = request.runtime
    entry = revocation.of_token(identity, time.time())
    await revocation.record_in_thread(entry, note="logout")
    runtime.revocations.add([entry])
    if runtime.watcher is not None:
        runtime.watcher.nudge()
    response = JsonResponse({"success": True})
    response.cookies = _cleared_cookie(request)
    return response


def _has_stale_cookie(request: RelayRequest) -> bool:
    """Whether the cookie's token no longer counts, and the request is not from another site."""
    who = request.identification
    if who.code not in STALE or all(presented.place != "cookie" for presented in who.presented):
        return False
    return access.cross_site(ask(request), request.runtime.snapshot, replace(who, place="cookie")) is None


def _cleared_cookie(request: RelayRequest) -> SimpleCookie:
    """A ``JWT_COOKIE`` that makes the browser forget it; none if token cookies are turned off."""
    response = HttpResponse()
    if name := request.runtime.settings.jwt_cookie:
        secure = request.arrival.scheme == "https" or name.lower().startswith(SECURE_PREFIXES)
        response.set_cookie(name, "", max_age=0, path="/", secure=secure, httponly=True, samesite="Lax")
    return response.cookies
