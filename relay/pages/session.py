"""``/gateway/session``: log in again without reconnecting (contract, section 6)."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from django.http import HttpResponse, JsonResponse

from relay import database
from relay.http.request import RelayRequest
from relay.identity.errors import TokenError
from relay.identity.model import Identification, Identity, fingerprint
from relay.identity.tokens import choose
from relay.models import Renewal
from relay.pages.posts import explained, for_token_holders
from relay.refusals import Refused

if TYPE_CHECKING:
    from relay.runtime import Runtime


def fresh(who: Identification) -> Identification:
    """The fresh token is the one in ``Authorization``; if there is none, the usual rule decides."""
    in_header = [presented for presented in who.presented if presented.place == "header"]
    return replace(choose(in_header), presented=who.presented) if in_header else who


@for_token_holders(fresh)
async def session(request: RelayRequest, identity: Identity, body: dict[str, Any]) -> HttpResponse:
    """Move the sockets of the previous token to the fresh one of the same user."""
    previous = _previous(request, identity, body)
    sockets = await renew_sockets(request.runtime, previous.fingerprint, identity)
    return JsonResponse({"success": True, "sockets": sockets, "expires_at": identity.expires_at})


async def renew_sockets(runtime: Runtime, fingerprint: str, identity: Identity) -> int:
    """Move the user's sockets from the token with this fingerprint to another; return how many moved in this process.

    Other processes follow through the database within a second, so nothing moves before the row is written.

    Raises:
        relay.database.DatabaseUnavailable: The row could not be written.
    """
    moving = runtime.registry.by_fingerprint(fingerprint)
    if runtime.watcher is not None:
        row = Renewal(fingerprint=fingerprint, identity=asdict(identity))
        await database.in_thread(row.save)
    runtime.renew(fingerprint, identity)
    # Counted afterwards: the watcher may have moved them before the thread that wrote the row returned.
    return sum(socket.identity is not None and socket.identity.fingerprint == identity.fingerprint for socket in moving)


def _previous(request: RelayRequest, identity: Identity, body: dict[str, Any]) -> Identity:
    """The identity of the previous token: the body's or, if the fresh one is in ``Authorization``, the cookie's.

    It may have expired. A revoked one must not save its sockets through a fresh one.

    Raises:
        Refused: It is missing, invalid, revoked, or another user's.
    """
    token = body.get("previous") or _in_cookie(request, identity)
    if token is None:
        raise explained('The previous token is missing: send {"previous": "<token>"}, or its cookie.')
    if not isinstance(token, str):
        raise explained("The previous token is not a string.")
    try:
        previous = request.runtime.verifier.verify_expired(token)
    except TokenError as exc:
        raise Refused(f"previous token: {exc}", "invalid_token") from exc
    if reason := request.runtime.revocations.check(previous):
        raise Refused(f"previous token: {reason}", "revoked_token")
    if previous.user_id != identity.user_id:
        detail = f"The previous token belongs to user {previous.user_id}, the fresh one to user {identity.user_id}."
        raise explained(detail, "invalid_token")
    return previous


def _in_cookie(request: RelayRequest, identity: Identity) -> str | None:
    """A token in the cookie other than the fresh one."""
    in_cookies = [presented.value for presented in request.identification.presented if presented.place == "cookie"]
    return next((token for token in in_cookies if fingerprint(token) != identity.fingerprint), None)
