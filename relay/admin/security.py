"""What guards the admin's pages besides Django's own means: what a browser may do with them, and secure cookies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import cast

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils.decorators import sync_and_async_middleware

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing from elsewhere, nothing inline, in nobody's frame: what gets into a page by mistake stays text."""

PERMISSIONS_POLICY = ", ".join(
    f"{feature}=()" for feature in ("camera", "display-capture", "geolocation", "microphone", "payment", "usb")
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Permissions-Policy": PERMISSIONS_POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Answer = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


@sync_and_async_middleware
def guard(get_response: Answer) -> Answer:
    """Middleware; the outermost, so that errors are guarded as well."""
    if iscoroutinefunction(get_response):

        async def answer_later(request: HttpRequest) -> HttpResponseBase:
            return guarded(request, await get_response(request))

        return answer_later

    def answer(request: HttpRequest) -> HttpResponseBase:
        return guarded(request, cast("HttpResponseBase", get_response(request)))

    return answer


def guarded(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """The response with our headers; a client that came by TLS never sends its cookies back without.

    No setting can say whether it did: the scheme is the client's, request by request (`relay.entry`).
    """
    for name, value in HEADERS.items():
        response.headers[name] = value
    if request.is_secure():
        for cookie in response.cookies.values():
            cookie["secure"] = True
    return response


def refused_form(request: HttpRequest, reason: str = "") -> HttpResponse:
    """The answer to a form without our token or from another origin (``CSRF_FAILURE_VIEW``): why, and what mends it."""
    return render(request, "admin/relay/refused_form.html", {"reason": reason}, status=403)
