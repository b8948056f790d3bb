"""Restrict the gateway's own pages to certain methods."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from django.http.response import HttpResponseBase

from relay.http.request import RelayRequest
from relay.http.response import refused
from relay.refusals import Refusal

View = Callable[[RelayRequest], Coroutine[Any, Any, HttpResponseBase]]


def only(*methods: str) -> Callable[[View], View]:
    """Answer other methods with 405 and an ``Allow`` field (RFC 9110 §15.5.6)."""
    allowed = ", ".join(methods)

    def decorate(view: View) -> View:
        @wraps(view)
        async def guarded(request: RelayRequest) -> HttpResponseBase:
            if request.method in methods:
                return await view(request)
            response = refused(
                request, Refusal("method_not_allowed", f"{request.method} on a page that accepts {allowed}")
            )
            others = [field for field in response.raw_headers if field[0] != b"allow"]
            response.raw_headers = [*others, (b"allow", allowed.encode())]
            return response

        return guarded

    return decorate
