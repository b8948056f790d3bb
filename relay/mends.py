"""What an operator or a client's author can do about a refusal: one sentence for each code."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

MENDS: Mapping[str, str] = MappingProxyType(
    {
        "bad_path": "Send the path in its plain form: it must not be open to two readings.",
        "bad_request": "If the host was refused, add it to ALLOWED_HOSTS, and have the proxy in front pass Host on.",
        "no_token": "Send Authorization: Bearer <token> or the cookie that JWT_COOKIE names, or make the route public.",
        "invalid_token": "Is it signed with JWT_SECRET and one of JWT_ALGORITHMS? issue_token prints a valid one.",
        "expired_token": "Log in again, or run issue_token; if the token is new, compare clocks or set JWT_LEEWAY.",
        "revoked_token": "Log in again; the admin lists the revocations.",
        "ambiguous_token": "Send one token in one place; often an old cookie was sent along with a fresh header.",
        "invalid_ticket": "Get the ticket right before connecting, from the page that connects; it works only once.",
        "origin_not_allowed": "If the page is yours, add its origin in the admin or as [[origin]].",
        "role_required": "Give the user the role where tokens are issued, or add the user's role to the route.",
        "no_route": "Add a route of this kind, or correct the path; a route without a trailing / is exact.",
        "method_not_allowed": "TRACE and CONNECT are never relayed; use another method.",
        "body_too_large": "Raise max_body_size of the backend, or send less.",
        "rate_limited": "Slow down, or raise RATE_LIMIT; if all clients are limited at once, set TRUSTED_PROXIES.",
        "too_many_connections": "Does the page leave sockets open? If not, raise the route's max_connections_per_user.",
        "internal_error": "Look for this request id in the gateway's log.",
        "backend_unreachable": "Is the backend running, and can it be reached from the gateway's machine?",
        "backend_refused": "The backend itself refused: if it checks Origin, see websocket_origin; if not, its log.",
        "backend_protocol_error": "Should the url be https, or is this another service's port? Check the backend.",
        "draining": "Nothing: this process was stopping. The load balancer should poll /health/ready.",
        "backend_disabled": "Enable the backend in the admin.",
        "no_healthy_backend": "Its health path does not answer 200: check the backend, or correct health_path.",
        "database_unavailable": "Bring the database back; the client has to ask again.",
        "backend_timeout": "The backend is slow: check its load, or raise its time limits.",
    }
)
