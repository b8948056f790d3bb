"""Common rules of the pages that require a token: POST, a valid token, same site, a small JSON body."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase

from relay import access
from relay.database import DatabaseUnavailable
from relay.http.request import RelayRequest
from relay.http.response import refused
from relay.http.views import ask
from relay.identity.model import Identification, Identity
from relay.pages.methods import View, only
from relay.refusals import Refusal, Refused

LARGEST_BODY = 16384  # bytes

Page = Callable[[RelayRequest, Identity, dict[str, Any]], Awaitable[HttpResponse]]
Chooser = Callable[[Identification], Identification]


def explained(sentence: str, code: str = "bad_request") -> Refused:
    """A request that a page can't use. The client gets the detail, for its author to read."""
    return Refused(sentence, code, said=sentence)


def for_token_holders(choose: Chooser = lambda who: who) -> Callable[[Page], View]:
    """Call a page only with the identity of a valid token and a JSON object; its answers are never cached.

    If the database can't be written, the request is refused: a 200 would be wrong for every other process.

    Args:
        choose: Which of the tokens counts, if not by the usual rule.
    """

    def decorate(page: Page) -> View:
        @only("POST")
        @wraps(page)
        async def guarded(request: RelayRequest) -> HttpResponseBase:
            who = request.scope["identity"] = choose(request.identification)
            if who.identity is None:
                return refused(request, Refusal(who.code, who.detail))
            if refusal := access.cross_site(ask(request), request.runtime.snapshot, who):
                return refused(request, refusal)
            try:
                response = await page(request, who.identity, await _json_object(request))
            except DatabaseUnavailable as exc:
                return refused(request, Refusal("database_unavailable", str(exc)))
            response["Cache-Control"] = "no-store"
            return response

        return guarded

    return decorate


async def _json_object(request: RelayRequest) -> dict[str, Any]:
    """The body's members; an empty body has none.

    Raises:
        Refused: The body is not a JSON object, or is larger than `LARGEST_BODY`.
    """
    body = await request.whole_body(LARGEST_BODY)
    if not body.strip():
        return {}
    try:
        members = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise explained("The body is not valid JSON.") from exc
    if not isinstance(members, dict):
        raise explained("The body is not a JSON object.")
    return members
