"""The lightweight handler's request: nothing is decoded, copied or read before it is needed."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import TYPE_CHECKING, Any

from django.core.handlers.asgi import ASGIRequest
from django.utils.functional import cached_property

from relay.entry import Arrival, field
from relay.identity.model import Identification
from relay.refusals import Refusal, Refused
from relay.routing.snapshot import Route
from relay.typing import RawHeaders, Receive, Scope

if TYPE_CHECKING:
    from relay.runtime import Runtime


class ClientGone(Exception):
    """The client left before its request was complete or answered."""


def too_large(limit: int, found: str) -> Refused:
    """The refusal of a body that is `found` when `limit` bytes are allowed."""
    return Refused(f"the body is {found}; {limit} are allowed", "body_too_large")


class RequestBody:
    """The body, piece by piece as it arrives.

    Attributes:
        limit: Bytes allowed; 0: any number.
        received: Bytes so far.
        over: Set when no more of it will be read: the next ``receive()`` returns the disconnect.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.limit = 0
        self.received = 0
        self.over = asyncio.Event()

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes:
        """The next piece, possibly empty.

        Raises:
            ClientGone: The body was cut off.
            Refused: The body exceeds the limit.
        """
        if self.over.is_set():
            raise StopAsyncIteration
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            self.over.set()
            raise
        if message["type"] != "http.request":
            self.over.set()
            raise ClientGone
        piece: bytes = message.get("body", b"")
        self.received += len(piece)
        if self.limit and self.received > self.limit:
            raise too_large(self.limit, f"at least {self.received} bytes long")
        if not message.get("more_body", False):
            self.over.set()
        return piece


class RelayRequest(ASGIRequest):
    """Django's request over an ASGI scope, evaluated lazily; it also records the outcome for the log.

    Attributes:
        route: Set by the view when it is known.
        url: The backend's url that answers, if it has several.
        refusal: Why the request was refused, if it was.
        bytes_to_client: Bytes of the response's body sent so far.
    """

    scope: Scope

    def __init__(self, scope: Scope, receive: Receive, runtime: Runtime) -> None:
        # Not super().__init__: it would build META, headers and cookies, which the views don't use.
        self.scope, self.receive, self.runtime = scope, receive, runtime
        self.method = scope["method"]
        self.path = self.path_info = scope["path"]
        self.resolver_match = None
        self.route: Route | None = None
        self.url: str | None = None
        self.refusal: Refusal | None = None
        self.bytes_to_client = 0

    @property
    def bytes_to_backend(self) -> int:
        """Bytes of the request's body read for the backend."""
        return self.incoming.received if self.route is not None and self.incoming is not None else 0

    @property
    def arrival(self) -> Arrival:
        arrival: Arrival = self.scope["relay"]
        return arrival

    @property
    def identification(self) -> Identification:
        who: Identification = self.scope["identity"]
        return who

    @property
    def raw_headers(self) -> RawHeaders:
        headers: RawHeaders = self.scope["headers"]
        return headers

    def field(self, name: bytes) -> str | None:
        """Like `relay.entry.field`."""
        return field(self.raw_headers, name)

    @cached_property
    def origin(self) -> str | None:
        return self.field(b"origin")

    @cached_property
    def META(self) -> dict[str, Any]:  # type: ignore[override]  # lazy here
        return ASGIRequest(self.scope, BytesIO()).META

    def _get_scheme(self) -> str:
        return self.arrival.scheme

    # The body

    @cached_property
    def length(self) -> int | None:
        """The value of ``Content-Length``; None if there is none."""
        text = self.field(b"content-length")
        return int(text) if text is not None and text.isascii() and text.isdigit() else None

    @cached_property
    def incoming(self) -> RequestBody | None:
        """The body; None if the request has none (RFC 9112 §6.3)."""
        if self.length is not None:
            return RequestBody(self.receive) if self.length else None
        if self.field(b"transfer-encoding") is not None:
            return RequestBody(self.receive)
        # From HTTP/2 on, a body needs neither field; with these methods there is no reason for one.
        old = self.scope.get("http_version", "1.1").startswith("1")
        return None if old or self.method in ("GET", "HEAD", "OPTIONS", "DELETE") else RequestBody(self.receive)

    def limited_body(self, limit: int) -> RequestBody | None:
        """The body, which fails once it is larger than `limit` bytes; 0: any size.

        Raises:
            Refused: ``Content-Length`` announces more.
        """
        if limit and self.length is not None and self.length > limit:
            raise too_large(limit, f"announced with {self.length} bytes")
        if self.incoming is not None:
            self.incoming.limit = limit
        return self.incoming

    async def whole_body(self, limit: int) -> bytes:
        """The whole body, for our own small pages.

        Raises:
            ClientGone, Refused: As in `RequestBody`.
        """
        source = self.limited_body(limit)
        return b"" if source is None else b"".join([piece async for piece in source])

    async def wait_for_disconnect(self) -> None:
        """Return when the client has left; until the body has ended, its reader notices that."""
        if self.incoming is not None:
            await self.incoming.over.wait()
        while (await self.receive())["type"] != "http.disconnect":
            pass
