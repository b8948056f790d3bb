"""What an operator, or whoever writes the client, can do about a refusal: a sentence for each code."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

MENDS: Mapping[str, str] = MappingProxyType(
    {
        "bad_path": "Send the path in its plain form: every backend must read the same path in it.",
        "bad_request": "If it is the host: name the host in ALLOWED_HOSTS, and have the proxy in front pass Host on.",
        "no_token": "Send Authorization: Bearer <token> or the cookie of JWT_COOKIE; or make the route public.",
        "invalid_token": "Is it signed with JWT_SECRET, by one of JWT_ALGORITHMS? issue_token prints a valid one.",
        "expired_token": "Log in again, or issue_token; if it was fresh, compare the clocks, or set JWT_LEEWAY.",
        "revoked_token": "Log in again; the revocations are in the admin.",
        "ambiguous_token": "Send one token in one place; often it is a forgotten cookie beside a fresh header.",
        "invalid_ticket": "Get the ticket just before connecting, from the page that connects; it is good once.",
        "origin_not_allowed": "If the page is yours, add its origin in the admin or as [[origin]].",
        "role_required": "Give the user the role where tokens are made, or add the user's role to the route.",
        "no_route": "Add a route of this kind, or correct the path; without / at its end a route is exact.",
        "method_not_allowed": "TRACE and CONNECT are never relayed; use another method.",
        "body_too_large": "Raise max_body_size of the backend, or send less.",
        "rate_limited": "Slow down, or raise RATE_LIMIT; if it is everybody at once, set TRUSTED_PROXIES.",
        "too_many_connections": "Does the page leave sockets behind? Or raise max_connections_per_user of the route.",
        "internal_error": "The gateway's log has more under this request id.",
        "backend_unreachable": "Check the backend: does it run, and can it be reached from the gateway's machine?",
        "backend_refused": "The backend itself said no: if it looks at Origin, see websocket_origin; else its own log.",
        "backend_protocol_error": "Is it http where it should be https, or another service's port? Check the backend.",
        "draining": "Nothing: this process was stopping. The balancer should ask /health/ready.",
        "backend_disabled": "Enable the backend in the admin.",
        "no_healthy_backend": "Its health path answers no 200: look at the backend, or correct health_path.",
        "database_unavailable": "Bring the database back; whoever asked has to ask again.",
        "backend_timeout": "The backend is slow: look at its load, or raise its limits.",
    }
)
