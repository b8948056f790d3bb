"""Protection of the admin's pages beyond Django's own: response headers for the browser, and secure cookies."""

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
"""Nothing external, nothing inline, no framing: markup injected into a page stays inert."""

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
    """Middleware, outermost so that error pages are protected as well."""
    if iscoroutinefunction(get_response):

        async def answer_later(request: HttpRequest) -> HttpResponseBase:
            return guarded(request, await get_response(request))

        return answer_later

    def answer(request: HttpRequest) -> HttpResponseBase:
        return guarded(request, cast("HttpResponseBase", get_response(request)))

    return answer


def guarded(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Add our headers to a response and, if the client used TLS, make its cookies secure.

    No setting can decide that: the scheme is determined for each request (`relay.entry`).
    """
    for name, value in HEADERS.items():
        response.headers[name] = value
    if request.is_secure():
        for cookie in response.cookies.values():
            cookie["secure"] = True
    return response


def refused_form(request: HttpRequest, reason: str = "") -> HttpResponse:
    """The page for a failed CSRF check (``CSRF_FAILURE_VIEW``): the reason, and how to fix it."""
    return render(request, "admin/relay/refused_form.html", {"reason": reason}, status=403)
