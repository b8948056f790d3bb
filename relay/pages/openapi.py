"""``/gateway/openapi.json``: the gateway's own paths, for authors of clients and monitors (OpenAPI 3.1).

What the backends offer is for them to describe.
"""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpResponse

import relay
from relay.http.request import RelayRequest
from relay.pages.methods import only
from relay.refusals import KINDS

Schema = dict[str, Any]


@only("GET", "HEAD")
async def openapi(request: RelayRequest) -> HttpResponse:
    """The OpenAPI document, the same for everybody."""
    return HttpResponse(_DOCUMENT, content_type="application/json")


def _ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _json(description: str, schema: Schema, example: Schema | None = None) -> Schema:
    content = {"schema": schema} | ({"example": example} if example else {})
    return {"description": description, "content": {"application/json": content}}


def _refused(*codes: str) -> Schema:
    """Responses for refusals, by status."""
    by_status: dict[str, list[str]] = {}
    for code in codes:
        by_status.setdefault(str(KINDS[code].status), []).append(code)
    return {
        status: _json("; ".join(f"`{code}`: {KINDS[code].sentence}" for code in found), _ref("schemas", "Refusal"))
        for status, found in by_status.items()
    }


_TOKEN = ("no_token", "invalid_token", "expired_token", "revoked_token", "ambiguous_token", "origin_not_allowed")
_ALWAYS = ("bad_request", "rate_limited", "draining", "internal_error")
_SUCCESS: Schema = {"const": True}


def _post(summary: str, description: str, body: Schema | None, answer: Schema) -> Schema:
    """A page that requires a token."""
    operation: Schema = {
        "summary": summary,
        "description": description,
        "security": [{"bearer": []}, {"cookie": []}, {"query": []}],
        "responses": {"200": answer, **_refused(*_TOKEN, *_ALWAYS, "body_too_large", "database_unavailable")},
    }
    if body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return {"post": operation}


def _get(summary: str, answers: Schema, security: list[Schema] | None = None) -> Schema:
    return {"get": {"summary": summary, "security": security or [], "responses": answers}}


PATHS: Schema = {
    "/gateway/session": _post(
        "Log in again without reconnecting",
        "From now on, the user's WebSockets opened with the previous token belong to the fresh one. The fresh token is "
        "the one in `Authorization`; the previous one is in the cookie or the body.",
        {"type": "object", "properties": {"previous": {"type": "string", "description": "The previous token."}}},
        _json(
            "The sockets that moved, in this process.",
            _object(success=_SUCCESS, sockets={"type": "integer"}, expires_at={"type": "number"}),
            {"success": True, "sockets": 1, "expires_at": 1800000000},
        ),
    ),
    "/gateway/ticket": _post(
        "Get a ticket for a WebSocket's URL",
        "A browser can't set `Authorization` on a WebSocket: `new WebSocket(url + '?ticket=' + ticket)`. The ticket is "
        "valid once, for this path and for this request's `Origin`.",
        _object(path={"type": "string", "pattern": "^/", "examples": ["/ws"]}),
        _json(
            "The ticket, and its lifetime in seconds.",
            _object(ticket={"type": "string"}, expires_in={"type": "integer"}),
        ),
    ),
    "/gateway/logout": _post(
        "Revoke the token",
        "The token no longer counts, its WebSockets are closed within a second, and the cookie is cleared. A 401 for a "
        "stale token in the cookie clears it as well.",
        None,
        _json("Done.", _object(success=_SUCCESS)),
    ),
    "/gateway/openapi.json": _get("This description", {"200": _json("OpenAPI 3.1.", {"type": "object"})}),
    "/health": _get(
        "The health of each backend",
        {
            "200": _json("All are healthy; there may be warnings.", _ref("schemas", "Health")),
            "503": _json("One is unhealthy, or there is no configuration yet.", _ref("schemas", "Health")),
        },
    ),
    "/health/live": _get("Does the process run?", {"200": _json("It does.", _ref("schemas", "State"))}),
    "/health/ready": _get(
        "Does it accept work?",
        {
            "200": _json("It does.", _ref("schemas", "State")),
            "503": _json("It is draining, or has no configuration.", _ref("schemas", "State")),
        },
    ),
    "/metrics": _get(
        "Metrics for Prometheus",
        {
            "200": {"description": "Of all processes.", "content": {"text/plain": {"schema": {"type": "string"}}}},
            **_refused("no_token", "invalid_token", "role_required"),
        },
        [{"metrics": []}, {}],
    ),
}

DOCUMENT: Schema = {
    "openapi": "3.1.0",
    "info": {
        "title": "The gateway's own paths",
        "version": relay.__version__,
        "description": "Every answer carries `X-Request-ID`; a refusal's `code` is the same in its log line.",
    },
    "servers": [{"url": "/"}],
    "paths": PATHS,
    "components": {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": "auth_token", "description": "Name: JWT_COOKIE."},
            "query": {"type": "apiKey", "in": "query", "name": "token", "description": "Name: JWT_QUERY_PARAM."},
            "metrics": {"type": "http", "scheme": "bearer", "description": "METRICS_TOKEN."},
        },
        "schemas": {
            "Refusal": _object(
                success={"const": False},
                error={"type": "string", "description": "A plain sentence."},
                code={"enum": sorted(KINDS)},
                request_id={"type": "string"},
            ),
            "State": _object(success={"type": "boolean"}, status={"enum": ["alive", "ready", "starting", "draining"]}),
            "Health": _object(
                success={"type": "boolean"},
                warnings={"type": "array", "items": {"type": "string"}},
                status={"enum": ["healthy", "degraded"]},
                gateway={"enum": ["starting", "running", "draining"]},
                version={"type": "string"},
                services={
                    "type": "object",
                    "additionalProperties": _object(healthy={"type": "boolean"}),
                },
            ),
        },
    },
}

_DOCUMENT = json.dumps(DOCUMENT, indent=1)
