"""Why a client is refused: the codes of the contract, section 4, in one table.

HTTP responses, refused handshakes, close codes, log lines and metrics all use it, so they can't disagree::

    BackendError            the backend's fault; str() is the exact cause, for the log
    ├── BackendUnreachable  502 / 4502  backend_unreachable     no connection: name, TCP or TLS
    ├── BackendRefused      502 / 4502  backend_refused         a handshake got an answer other than a valid 101
    ├── BackendProtocolError 502 / 4502 backend_protocol_error  connected, but no valid answer
    ├── BackendTimeout      504 / 4504  backend_timeout         a time limit passed (RFC 9110 §15.6.5)
    └── NoHealthyBackend    503 / 4503  no_healthy_backend      every url is out by its health path

A `Refusal` is a value: pure functions return one, `Refused` carries one out of a request that turns out to be bad
while it is being read, and `BackendError.refusal` is the one for a failure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from relay.typing import RawHeaders


@dataclass(frozen=True, slots=True)
class RefusalKind:
    """One row of the contract's table.

    Attributes:
        status: Status of the HTTP response or of the refused handshake.
        close_code: Sent instead of the status with ``refuse_with = "close"``; None: always the status.
        sentence: What the client reads; it never names a backend's address.
        retry_after: Seconds for ``Retry-After``, unless the refusal has a better value.
    """

    status: int
    close_code: int | None
    sentence: str
    retry_after: int | None = None


KINDS = MappingProxyType(
    {
        "bad_path": RefusalKind(400, None, "The path is ambiguous: it could be read as another path."),
        "bad_request": RefusalKind(400, None, "The request is malformed."),
        "no_token": RefusalKind(401, 4401, "A token is required here, and none was sent."),
        "invalid_token": RefusalKind(401, 4401, "The token is not valid."),
        "expired_token": RefusalKind(401, 4401, "The token has expired."),
        "revoked_token": RefusalKind(401, 4401, "The token has been revoked."),
        "ambiguous_token": RefusalKind(401, 4401, "Two different valid tokens were sent; send one."),
        "invalid_ticket": RefusalKind(401, 4401, "The ticket is unknown, used, expired or for another path or origin."),
        "origin_not_allowed": RefusalKind(403, 4403, "This origin is not allowed."),
        "role_required": RefusalKind(403, 4403, "Your role does not allow this."),
        "no_route": RefusalKind(404, None, "There is nothing at this path."),
        "method_not_allowed": RefusalKind(405, None, "This method is not allowed here."),
        "body_too_large": RefusalKind(413, None, "The request body is larger than this route allows."),
        "rate_limited": RefusalKind(429, 4429, "Too many requests; try again later.", 1),
        "too_many_connections": RefusalKind(429, 4429, "You have too many open connections here.", 5),
        "internal_error": RefusalKind(500, None, "The gateway failed; its log says why."),
        "backend_unreachable": RefusalKind(502, 4502, "The service can't be reached."),
        "backend_refused": RefusalKind(502, 4502, "The service refused the WebSocket."),
        "backend_protocol_error": RefusalKind(502, 4502, "The service gave no valid answer."),
        "draining": RefusalKind(503, None, "The gateway is restarting; try again.", 1),
        "backend_disabled": RefusalKind(503, 4503, "The service is switched off.", 30),
        "no_healthy_backend": RefusalKind(503, 4503, "The service is not healthy right now.", 2),
        "database_unavailable": RefusalKind(503, 4503, "This needs the gateway's database, which is unavailable.", 5),
        "backend_timeout": RefusalKind(504, 4504, "The service took too long."),
    }
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused.

    Attributes:
        code: A key of `KINDS`.
        detail: What was compared with what, for the log only. Never a token, ticket or cookie value.
        retry_after: Seconds, if a better value than the kind's own is known.
        said: What the client reads, if not the kind's sentence.
    """

    code: str
    detail: str = ""
    retry_after: int | None = None
    said: str = ""

    @property
    def status(self) -> int:
        return KINDS[self.code].status

    @property
    def close_code(self) -> int | None:
        return KINDS[self.code].close_code

    @property
    def sentence(self) -> str:
        return self.said or KINDS[self.code].sentence

    def body(self, request_id: str) -> bytes:
        """The JSON body that every refused client gets."""
        shape = {"success": False, "error": self.sentence, "code": self.code, "request_id": request_id}
        return json.dumps(shape, separators=(", ", ": ")).encode()

    def headers(self, request_id: str, body: bytes) -> RawHeaders:
        """Header fields of the response; a 401 has ``WWW-Authenticate`` (RFC 6750 §3)."""
        fields = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id.encode()),
            (b"cache-control", b"no-store"),
        ]
        if self.status == 401:
            fields.append((b"www-authenticate", b"Bearer"))
        if self.status == 405:
            fields.append((b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))  # required: RFC 9110 §15.5.6
        retry_after = self.retry_after or KINDS[self.code].retry_after
        if retry_after is not None:
            fields.append((b"retry-after", b"%d" % retry_after))
        return fields


class Refused(Exception):
    """A request turned out to be bad while it was being read.

    Attributes:
        refusal: The code and, for the log, what was found and the rule; never the value of a field.
        status: The code's own, or a more specific one (408, 426, 431).
        headers: Fields that the response needs in addition to the refusal's.
    """

    def __init__(
        self,
        detail: str,
        code: str = "bad_request",
        *,
        status: int = 0,
        headers: Sequence[tuple[bytes, bytes]] = (),
        said: str = "",
    ) -> None:
        super().__init__(detail)
        self.refusal = Refusal(code, detail, said=said)
        self.status = status or self.refusal.status
        self.headers = headers


class BackendError(Exception):
    """A backend failed.

    Attributes:
        backend: The backend's configured name.
        detail: The exact cause, for the log; it may name addresses.
        phase: ``resolve``, ``connect``, ``tls``, ``handshake``, ``head`` or ``body``; empty if it would add nothing.
    """

    code = "backend_protocol_error"

    def __init__(self, backend: str, detail: str, phase: str = "") -> None:
        super().__init__(backend, detail, phase)
        self.backend, self.detail, self.phase = backend, detail, phase

    def __str__(self) -> str:
        return self.detail

    @property
    def refusal(self) -> Refusal:
        return Refusal(self.code, self.detail)


class BackendUnreachable(BackendError):
    """No connection: the name was not found, TCP was refused or reset, or TLS failed."""

    code = "backend_unreachable"


class BackendTimeout(BackendError):
    """The backend didn't finish a phase within its limit."""

    code = "backend_timeout"


class BackendProtocolError(BackendError):
    """The connection was cut or reset, or garbage came, where an answer was due."""

    code = "backend_protocol_error"


class BackendRefused(BackendError):
    """A handshake got a complete HTTP answer that is not a valid 101.

    Attributes:
        status: Status of that answer.
    """

    code = "backend_refused"

    def __init__(self, backend: str, detail: str, phase: str = "handshake", status: int = 0) -> None:
        super().__init__(backend, detail, phase)
        self.status = status


class NoHealthyBackend(BackendError):
    """Every url of the backend is out by its health path."""

    code = "no_healthy_backend"
